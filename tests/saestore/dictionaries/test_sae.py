"""Oracles of sparse autoencoders: closed forms, degenerate equalities, invariances, hand values."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from saestore import dictionaries
from saestore.dictionaries import SparseCode
from saestore.dictionaries.scale import factor
from saestore.errors import ConfigError, HookpointNotFoundError
from saestore.testing.dictionaries import (
    D_IN,
    D_SAE,
    HOOK,
    ExactMoments,
    SparseDictionaryContract,
    random_sae,
    raw_rows,
)
from saestore_schemas.dictionary import AbsTopK, BatchTopK, Gated, JumpRelu, Relu, TopK
from saestore_schemas.families import SaeSettings
from saestore_schemas.train import InitSettings


ACTIVATIONS = {
    "topk": TopK(k=4),
    "batchtopk": BatchTopK(k=3.5),
    "jumprelu": JumpRelu(bandwidth=0.5),
    "relu": Relu(),
    "gated": Gated(),
    "abstopk": AbsTopK(k=4),
}
SCALES = ("none", "dataset_mean_norm", "dataset_rms", "dataset_centred_rms")


def rows(n=13, seed=0):
    return torch.from_numpy(raw_rows(n, seed=seed))


def variants():
    """Every activation with every gate it takes; the other options in turn."""
    for name, activation in ACTIVATIONS.items():
        for gate in (False,) if name == "gated" else (False, True):
            for subtract in (False, True):
                yield name, activation, gate, subtract, "dataset_centred_rms", False
    for scale in SCALES[:-1]:
        yield "topk", ACTIVATIONS["topk"], True, True, scale, False
        yield "jumprelu", ACTIVATIONS["jumprelu"], True, True, scale, False
    for name, activation in ACTIVATIONS.items():
        if name != "gated":
            yield name, activation, True, True, "dataset_centred_rms", True


def named(variant):
    name, _, gate, subtract, scale, glu = variant
    return f"{name}-{'hn' if gate else 'h'}-s{int(subtract)}-{scale}{'-glu' if glu else ''}"


@pytest.mark.parametrize("variant", list(variants()), ids=named)
class TestSaeContract(SparseDictionaryContract):
    @pytest.fixture(autouse=True)
    def _choose(self, variant):
        _, activation, gate, subtract, scale, glu = variant
        self.options = {
            "activation": activation,
            "gate_on_decoder_norm": gate,
            "scale": scale,
            "subtract_b_dec": subtract,
            "glu": glu,
        }

    def dictionary(self, dtype):
        return random_sae(**self.options, dtype=dtype)

    def inputs(self, rows=13):
        return {HOOK: torch.from_numpy(raw_rows(rows))}


def sae(activation, tensors, *, subtract=False, scale="none", gated=False):
    """An SAE with given weights, without normalisation unless asked for."""
    d_in, d_sae = tensors["W_enc"].shape
    settings = SaeSettings(
        hookpoint=HOOK, d_sae=d_sae, activation=activation, scale=scale, subtract_b_dec=subtract,
        gate_on_decoder_norm=gated, decoder_norm="free",
    )  # fmt: skip
    moments = ExactMoments(raw_rows(50, d_in))
    plain = dictionaries.build(
        settings, widths={HOOK: d_in}, moments={HOOK: moments}, init=InitSettings(), seed=0
    )
    start = {name: each.double() for name, each in plain.tensors().items()}
    return plain.restore(plain.config, plain.scales, {**start, **tensors})


def changed(one, **changes):
    """The same dictionary with other tensors; each change is a function of the tensor."""
    tensors = {n: changes.get(n, lambda each: each)(each) for n, each in one.tensors().items()}
    return one.restore(one.config, one.scales, tensors)


def plus_minus(activation):
    eye = torch.eye(D_IN, dtype=torch.float64)
    decoder = torch.cat([eye, -eye])
    return sae(activation, {"W_enc": decoder.T.contiguous(), "W_dec": decoder})


@pytest.mark.parametrize("activation", [Relu(), TopK(k=D_IN)], ids=lambda a: a.kind)
def test_c1_plus_minus_identity_reconstructs_exactly(activation):
    x = rows()
    code = plus_minus(activation).encode(x)
    assert torch.equal(plus_minus(activation).decode(code)[HOOK], x)
    assert (code.l0() == D_IN).all()


def test_c2_top_k_keeps_the_largest_coordinates():
    x, k = rows(), 3
    error = x - plus_minus(TopK(k=k)).reconstruct(x)[HOOK]
    smallest = x.abs().sort(dim=1).values[:, : D_IN - k]
    torch.testing.assert_close(error.square().sum(1), smallest.square().sum(1))


def test_c3_a_constant_dictionary_explains_nothing_and_never_fires():
    x = rows()
    tensors = {
        "W_enc": torch.zeros(D_IN, D_SAE).double(),
        "W_dec": torch.randn(D_SAE, D_IN).double(),
        "b_dec": x.mean(dim=0),
    }
    for activation in (TopK(k=4), BatchTopK(k=3.5), Relu(), Gated(), JumpRelu()):
        constant = sae(activation, tensors)
        assert (constant.encode(x).l0() == 0).all()
        error = x - constant.reconstruct(x)[HOOK]
        ratio = error.square().sum() / (x - x.mean(dim=0)).square().sum()
        assert math.isclose(float(ratio), 1.0, rel_tol=1e-12)


def test_c10_ties_keep_exactly_k_lowest_first_and_zeros_do_not_fire():
    equal = {
        "W_enc": torch.zeros(D_IN, 12).double(),
        "W_dec": torch.randn(12, D_IN).double(),
        "b_enc": torch.ones(12).double(),
    }
    code = sae(TopK(k=5), equal).encode(rows())
    assert code.indices.view(-1, 5).tolist() == [[0, 1, 2, 3, 4]] * 13
    silent = sae(TopK(k=5), {**equal, "b_enc": torch.zeros(12).double()}).encode(rows())
    assert (silent.l0() == 0).all()


def test_d1_top_k_of_everything_is_relu():
    everything = random_sae(TopK(k=D_SAE))
    relu = random_sae(Relu())
    assert torch.equal(everything.encode(rows()).to_dense(), relu.encode(rows()).to_dense())
    inputs = relu.normalise({HOOK: rows()})
    torch.testing.assert_close(
        everything(inputs).reconstruction[HOOK], relu(inputs).reconstruction[HOOK]
    )


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_i1_permuting_features_permutes_the_code_only(activation):
    one = random_sae(activation)
    order = torch.randperm(D_SAE, generator=torch.Generator().manual_seed(1))
    along = dict.fromkeys(("b_enc", "b_gate", "b_mag", "r_mag", "threshold", "W_dec"))
    other = changed(
        one, W_enc=lambda w: w[:, order], **{name: lambda w: w[order] for name in along}
    )
    x = rows()
    assert torch.allclose(other.encode(x).to_dense(), one.encode(x).to_dense()[:, order])
    torch.testing.assert_close(other.reconstruct(x), one.reconstruct(x), rtol=1e-12, atol=1e-12)


def rescaled(one):
    factors = torch.linspace(0.4, 3, D_SAE, dtype=torch.float64)
    on_lengths = one.config.semantics.gate_on_decoder_norm
    scaled = dict.fromkeys(("W_enc", "b_enc", "b_gate", "b_mag"), lambda w: w * factors)
    return factors, changed(
        one,
        **scaled,
        threshold=lambda w: w if on_lengths else w * factors,
        W_dec=lambda w: w / factors.unsqueeze(1),
    )


@pytest.mark.parametrize(
    ("activation", "gated"),
    [
        (Relu(), False),
        (Relu(), True),
        (Gated(), False),
        (JumpRelu(bandwidth=0.5), False),
        (JumpRelu(bandwidth=0.5), True),
        (TopK(k=4), True),
        (AbsTopK(k=4), True),
        (BatchTopK(k=3.5), True),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
def test_i2_rescaling_features_changes_units_only(activation, gated):
    one = random_sae(activation, gate_on_decoder_norm=gated)
    factors, other = rescaled(one)
    x = rows()
    torch.testing.assert_close(other.encode(x).to_dense(), one.encode(x).to_dense() * factors)
    torch.testing.assert_close(other.reconstruct(x), one.reconstruct(x))
    inputs = one.normalise({HOOK: x})
    torch.testing.assert_close(
        other(inputs).code.weighted_sum(other.decoder_norms()),
        one(inputs).code.weighted_sum(one.decoder_norms()),
    )


def test_i2_top_k_gated_on_h_does_change_when_rescaled():
    one = random_sae(TopK(k=4))
    _, other = rescaled(one)
    assert not torch.allclose(other.reconstruct(rows())[HOOK], one.reconstruct(rows())[HOOK])


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_i3_rotating_everything_rotates_the_reconstruction(activation):
    one = random_sae(activation, scale="none")
    q, _ = torch.linalg.qr(
        torch.randn(D_IN, D_IN, generator=torch.Generator().manual_seed(2)).double()
    )
    other = changed(one, W_enc=lambda w: q.T @ w, W_dec=lambda w: w @ q, b_dec=lambda w: w @ q)
    x = rows()
    torch.testing.assert_close(other.reconstruct(x @ q)[HOOK], one.reconstruct(x)[HOOK] @ q)


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_i4_moving_the_data_with_b_dec_keeps_the_code(activation):
    one = random_sae(activation, scale="none")
    tensors, move = one.tensors(), torch.linspace(-2, 3, D_IN, dtype=torch.float64)
    other = one.restore(one.config, one.scales, {**tensors, "b_dec": tensors["b_dec"] + move})
    x = rows()
    torch.testing.assert_close(other.encode(x + move).to_dense(), one.encode(x).to_dense())


def test_h2_top_k_of_two_rows_by_hand():
    for given, wanted, k in (
        ([[1, 5, 3, 2], [4, 1, 6, 2]], [[0, 5, 3, 0], [4, 0, 6, 0]], 2),
        ([[1, 1.5, 3, 4]], [[0, 0, 3, 4]], 2),
    ):
        eye = {"W_enc": torch.eye(4).double(), "W_dec": torch.eye(4).double()}
        code = sae(TopK(k=k), eye).encode(torch.tensor(given).double())
        assert code.to_dense().tolist() == wanted


def test_h9_the_factor_of_mean_norm_by_hand():
    lengths = np.array([5.0, 10.0, 0.0, 1.0, 2.0])
    moments = SimpleNamespace(
        count=5, mean=np.zeros(4), m2=np.zeros(4), norm_sum=lengths.sum(), norm_sq_sum=0.0
    )
    assert math.isclose(factor("dataset_mean_norm", moments), math.sqrt(4) / 3.6)
    twos = ExactMoments(np.full((9, 64), 2.0))
    assert math.isclose(factor("dataset_mean_norm", twos), 0.5)


def test_h14_identity_weights_by_hand():
    eye = {"W_enc": torch.eye(2).double(), "W_dec": torch.eye(2).double()}
    one = sae(Relu(), eye)
    assert one.encode(torch.tensor([[2.0, -1.0]])).to_dense().tolist() == [[2.0, 0.0]]
    ones = dictionaries.DenseCode(torch.ones(2, 3))
    assert float(ones.weighted_sum(torch.ones(3)).mean()) == 3


@pytest.mark.parametrize("kind", SCALES[1:])
def test_a_scale_does_what_its_name_says(kind):
    x = raw_rows(500)
    one = random_sae(Relu(), scale=kind)
    moments = ExactMoments(raw_rows(200))
    scale = one.scales[HOOK]
    a, mean = scale.record.a, moments.mean if kind == "dataset_centred_rms" else 0.0
    normal = one.normalise({HOOK: torch.from_numpy(x)})[HOOK].numpy()
    np.testing.assert_allclose(normal, a * (x - mean), rtol=1e-12)
    itself = a * (moments.rows - mean)
    lengths = np.linalg.norm(itself, axis=1)
    measured = lengths.mean() if kind == "dataset_mean_norm" else math.sqrt((lengths**2).mean())
    assert math.isclose(measured, math.sqrt(D_IN), rel_tol=1e-12)


def test_starting_weights_are_unit_tied_and_a_function_of_the_seed():
    def start(seed, **init):
        settings = SaeSettings(
            hookpoint=HOOK, expansion=2.0, activation=TopK(k=3), scale="dataset_rms"
        )
        moments = ExactMoments(raw_rows(200))
        return dictionaries.build(
            settings,
            widths={HOOK: D_IN},
            moments={HOOK: moments},
            init=InitSettings(**init),
            seed=seed,
        )

    one = start(5, tie_factor=0.5, decoder_bias="mean")
    assert one.d_sae == 2 * D_IN
    torch.testing.assert_close(one.decoder_norms().detach(), torch.ones(2 * D_IN))
    torch.testing.assert_close(one.W_enc, 0.5 * one.W_dec.T)
    expected = ExactMoments(raw_rows(200)).mean * one.scales[HOOK].record.a
    np.testing.assert_allclose(one.b_dec.detach().numpy(), expected, rtol=1e-6)
    again, other = start(5, tie_factor=0.5), start(6, tie_factor=0.5)
    assert torch.equal(one.W_dec, again.W_dec)
    assert not torch.equal(one.W_dec, other.W_dec)


def test_impossible_settings_and_inputs_are_refused_by_name():
    moments = {HOOK: ExactMoments(raw_rows(20))}
    settings = SaeSettings(hookpoint=HOOK, expansion=1.0, activation=TopK(k=D_IN + 1))
    with pytest.raises(ConfigError, match=r"activation\.k"):
        dictionaries.build(
            settings, widths={HOOK: D_IN}, moments=moments, init=InitSettings(), seed=0
        )
    with pytest.raises(HookpointNotFoundError):
        dictionaries.build(
            settings, widths={"other": 3}, moments=moments, init=InitSettings(), seed=0
        )
    equal = {HOOK: ExactMoments(np.ones((5, D_IN)))}
    flat = settings.model_copy(update={"activation": Relu()})
    with pytest.raises(ConfigError, match="spread"):
        dictionaries.build(flat, widths={HOOK: D_IN}, moments=equal, init=InitSettings(), seed=0)
    one = random_sae(Relu())
    with pytest.raises(ConfigError, match="width 7"):
        one.encode(torch.zeros(2, 8))
    with pytest.raises(HookpointNotFoundError):
        one.encode({"other": torch.zeros(2, 7)})


def test_codes_survive_every_way_between_forms():
    dense = torch.tensor([[0, 2.0, 0, -1], [0, 0, 0, 0], [3, 0, 4, 5]])
    code = SparseCode.from_dense(dense)
    assert torch.equal(code.to_dense(), dense)
    assert code.l0().tolist() == [2, 0, 3]
    assert code.row_ids.tolist() == [0, 0, 2, 2, 2]
    joined = SparseCode.concatenated([code, code])
    assert torch.equal(joined.to_dense(), torch.cat([dense, dense]))
