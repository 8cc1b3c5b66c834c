"""Oracles of mixtures of linear transforms: the laws of every family, closed forms, and Jacobians."""

import math

import pytest
import torch

from saestore import dictionaries
from saestore.dictionaries import backends
from saestore.dictionaries.families import FAMILIES
from saestore.dictionaries.kernels import Pairs
from saestore.dictionaries.transforms import Group, Transforms
from saestore.errors import ConfigError, UnsupportedError
from saestore.testing.dictionaries import (
    ExactMoments,
    SparseDictionaryContract,
    random_dictionary,
    raw_rows,
)
from saestore_schemas.dictionary import (
    AbsTopK,
    BatchTopK,
    Gated,
    JumpRelu,
    Options,
    Relu,
    TopK,
)
from saestore_schemas.families import MoltSettings, TranscoderSettings
from saestore_schemas.train import InitSettings, TrainSettings


READS, WRITES = "blocks.1.hook_mlp_in", "blocks.1.hook_mlp_out"
WIDTHS = {READS: 7, WRITES: 5}
RANKS = {1: 4, 3: 5, 2: 2}
ORDER = (3, 2, 1)


def settings(activation, **more):
    plain = {"family": "molt", "hookpoint_in": READS, "hookpoint_out": WRITES, "ranks": RANKS}
    return MoltSettings.model_validate({**plain, "activation": activation, **more})


def molt(activation, **more):
    return random_dictionary(settings(activation, **more), WIDTHS)


def inputs(rows=13):
    return {READS: torch.from_numpy(raw_rows(rows))}


def maps(tensors, order=ORDER):
    """Every U_t V_t, which the code under test never makes."""
    return torch.cat([tensors[f"U.{r}"] @ tensors[f"V.{r}"] for r in order])


def with_tensors(dictionary, **changed):
    tensors = {**dictionary.tensors(), **changed}
    return dictionary.restore(dictionary.config, dictionary.scales, tensors)


VARIANTS = {
    "topk": {"activation": TopK(k=4), "gate_on_decoder_norm": False},
    "topk-hn": {"activation": TopK(k=4)},
    "batchtopk-hn": {"activation": BatchTopK(k=3.5)},
    "jumprelu-hn": {"activation": JumpRelu(bandwidth=0.5)},
    "jumprelu": {"activation": JumpRelu(bandwidth=0.5), "gate_on_decoder_norm": False},
    "relu-hn-target-rms": {"activation": Relu(), "scale_out": "dataset_rms"},
    "gated": {"activation": Gated(), "gate_on_decoder_norm": False},
    "abstopk-hn-none": {"activation": AbsTopK(k=4), "scale": "none"},
}


LAWFUL = {name: options for name, options in VARIANTS.items() if name != "topk-hn"}
"""The laws take a while; BatchTopK ranks by the same scores."""


@pytest.mark.parametrize("options", LAWFUL.values(), ids=LAWFUL)
class TestMoltContract(SparseDictionaryContract):
    @pytest.fixture(autouse=True)
    def _choose(self, options):
        self.options = options

    def dictionary(self, dtype):
        return random_dictionary(settings(**self.options), WIDTHS, dtype=dtype)

    def inputs(self, rows=13):
        return inputs(rows)


def leaves(seed=0):
    draw = torch.Generator().manual_seed(seed)

    def tensor(*shape):
        made = torch.randn(*shape, generator=draw, dtype=torch.float64)
        return made.requires_grad_()

    groups = [(tensor(5, 4, 3), tensor(5, 3, 6)), (tensor(2, 4, 1), tensor(2, 1, 6))]
    strengths = tensor(9, 7).detach()
    strengths[torch.rand(9, 7, generator=draw) < 0.6] = 0
    strengths[:, 1] = 1.5  # on everywhere
    strengths[:, 5] = 0  # nowhere
    strengths[3] = 0
    strengths[3, 1] = 0.25
    return tensor(9, 6), strengths, groups


def by_einsum(rows, strengths, groups):
    whole = torch.cat([U @ V for U, V in groups])
    return torch.einsum("bt,toi,bi->bo", strengths, whole, rows)


def test_both_ways_to_the_sum_and_their_gradients_are_those_of_whole_maps():
    rows, strengths, groups = leaves()
    code = dictionaries.SparseCode.from_dense(strengths)
    weights = [tensor for group in groups for tensor in group]
    values, dense = code.values.clone().requires_grad_(), strengths.clone().requires_grad_()
    wanted = by_einsum(rows, dense, groups)
    through = torch.linspace(-1, 2, wanted.numel(), dtype=torch.float64).view_as(wanted)
    gradients = torch.autograd.grad((wanted * through).sum(), [rows, dense, *weights])
    transforms = Transforms(tuple(Group(*group) for group in groups))
    pairs = Pairs(code.offsets, code.indices, code.d_sae)
    for leaf, found in (
        (dense, transforms.of_all(rows, dense)),
        (values, transforms.of_pairs(rows, values, pairs)),
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        mine = torch.autograd.grad((found * through).sum(), [rows, leaf, *weights])
        on = gradients[1] if leaf is dense else pairs.of(gradients[1])
        for one, other in zip(mine, [gradients[0], on, *gradients[2:]], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_the_gradients_of_pairs_are_finite_differences():
    rows, strengths, groups = leaves()
    code = dictionaries.SparseCode.from_dense(strengths)
    pairs = Pairs(code.offsets, code.indices, code.d_sae)

    def of_pairs(x, values, *weights):
        split = tuple(Group(U, V) for U, V in zip(weights[::2], weights[1::2], strict=True))
        return Transforms(split).of_pairs(x, values, pairs)

    weights = [tensor for group in groups for tensor in group]
    given = (rows, code.values.requires_grad_(), *weights)
    assert torch.autograd.gradcheck(of_pairs, given, fast_mode=True)


def test_without_pairs_nothing_is_written_and_nothing_learns():
    rows, strengths, groups = leaves()
    code = dictionaries.SparseCode.from_dense(torch.zeros_like(strengths))
    pairs = Pairs(code.offsets, code.indices, code.d_sae)
    found = Transforms(tuple(Group(*g) for g in groups)).of_pairs(rows, code.values, pairs)
    assert (found == 0).all()
    (gradient,) = torch.autograd.grad(found.sum(), [groups[0][0]])
    assert (gradient == 0).all()


def test_i10_norms_by_gram_matrices_are_those_of_the_maps_with_their_gradient():
    _, _, groups = leaves()
    weights = [tensor for group in groups for tensor in group]
    found = Transforms(tuple(Group(*group) for group in groups)).norms()
    wanted = torch.cat([torch.linalg.matrix_norm(U @ V) for U, V in groups])
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
    by = torch.linspace(1, 2, len(found), dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad((found * by).sum(), weights),
        torch.autograd.grad((wanted * by).sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    silent = Group(torch.zeros(1, 4, 2, requires_grad=True), torch.ones(1, 2, 3))
    silent.norms().sum().backward()
    assert (silent.U.grad == 0).all()


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["all", "pairs"])
@pytest.mark.parametrize("options", ["relu-hn-target-rms", "topk-hn", "gated"])
def test_every_weight_gets_the_gradient_of_dense_autograd(options, share, monkeypatch):
    monkeypatch.setattr(backends, "wanted_share", share)
    dictionary = molt(**VARIANTS[options])
    rows = dictionary.normalise(inputs())
    output = dictionary(rows)
    norms = dictionary.decoder_norms()
    penalty = output.code.weighted_sum(norms).mean()
    (output.reconstruction[WRITES].square().sum() + penalty).backward()
    x, fired = rows[READS], output.code.to_sparse().to_dense() != 0
    t = {name: each.clone().requires_grad_() for name, each in dictionary.tensors().items()}
    if options == "gated":
        z = x @ t["W_enc"]
        f = torch.relu(t["r_mag"].exp() * z + t["b_mag"]) * (z + t["b_gate"] > 0)
    else:
        f = (x @ t["W_enc"] + t["b_enc"]) * fired
    whole = maps(t)
    y = torch.einsum("bt,toi,bi->bo", f, whole, x) + t["b_dec"]
    (y.square().sum() + (f @ torch.linalg.matrix_norm(whole)).mean()).backward()
    named = dict(dictionary.named_parameters())
    for name, each in t.items():
        own = {"W_enc": "encoder", "b_mag": "activation.b_mag", "r_mag": "activation.r_mag"}
        gradient = named[own.get(name, "b_enc" if name == "b_gate" else name)].grad
        if gradient is None or each.grad is None:
            assert gradient is each.grad or not (gradient if each.grad is None else each.grad).any()
            continue
        gradient = gradient.T if name == "W_enc" else gradient
        torch.testing.assert_close(gradient, each.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("k", [2, 4], ids=["some", "all"])
def test_dead_transforms_reconstruct_with_their_raw_pre_activations(k):
    dictionary = with_tensors(molt(TopK(k=3)), b_enc=torch.full((11,), -30.0).double())
    dead = torch.tensor([0, 4, 6, 9])
    rows = dictionary.normalise(inputs())
    output = dictionary(rows)
    found = dictionary.reconstruct_with(rows, output, dead, k)[WRITES]
    t, x = dictionary.tensors(), rows[READS]
    h = x @ t["W_enc"] + t["b_enc"]
    g = (h * torch.linalg.matrix_norm(maps(t)))[:, dead]
    chosen = torch.zeros_like(g).scatter(1, g.topk(k, dim=1).indices, 1)
    wanted = torch.einsum("bt,toi,bi->bo", h[:, dead] * chosen, maps(t)[dead], x)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    found.square().sum().backward()
    living = [i for i in range(11) if i not in dead.tolist()]
    reached = dictionary.encoder.grad.abs().sum(dim=1)
    assert (reached[living] == 0).all()
    assert (reached[dead] > 0).sum() >= min(k, len(dead))
    assert dictionary.b_dec.grad is None


def test_ranges_of_features_and_the_bias_add_up_to_the_reconstruction():
    dictionary = molt(Relu())
    rows = dictionary.normalise(inputs())
    output = dictionary(rows)
    found = dictionary.without_features(rows)[WRITES]
    for start, stop in ((0, 3), (3, 6), (6, 11)):
        found = found + dictionary.decode_between(output.code, rows, start, stop)[WRITES]
    torch.testing.assert_close(found, output.reconstruction[WRITES], rtol=1e-12, atol=1e-12)


def test_c11_one_transform_that_is_always_on_is_any_linear_host():
    rows = torch.from_numpy(raw_rows(60))
    host = torch.randn(5, 7, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    y = rows @ host.T
    solved = torch.linalg.lstsq(rows, y).solution.T
    u, s, v = torch.linalg.svd(solved, full_matrices=False)
    one = random_dictionary(
        settings(TopK(k=1), ranks={5: 1}, scale="none", scale_out="none"), WIDTHS
    )
    zeros = {"W_enc": torch.zeros(7, 1).double(), "b_dec": torch.zeros(5).double()}
    one = with_tensors(
        one, **zeros, b_enc=torch.ones(1).double(), **{"U.5": (u * s)[None], "V.5": v[None]}
    )
    torch.testing.assert_close(one.reconstruct(rows)[WRITES], y, rtol=1e-9, atol=1e-9)
    found = dictionaries.jacobian(one, rows[:4])
    torch.testing.assert_close(found, host.expand(4, 5, 7), rtol=1e-9, atol=1e-9)


def test_d12_transforms_of_rank_one_that_read_a_constant_are_a_transcoder():
    one = molt(TopK(k=3), ranks={1: 11}, scale="none", gate_on_decoder_norm=False)
    reads = torch.zeros(11, 1, 7, dtype=torch.float64)
    reads[:, 0, 6] = 0.5
    one = with_tensors(one, **{"V.1": reads})
    other = random_dictionary(
        TranscoderSettings(
            family="transcoder", hookpoint_in=READS, hookpoint_out=WRITES, d_sae=11,
            activation=TopK(k=3), decoder_norm="free", gate_on_decoder_norm=False,
        ),
        WIDTHS,
    )  # fmt: skip
    t = one.tensors()
    weights = {"W_enc": t["W_enc"], "b_enc": t["b_enc"], "b_dec": t["b_dec"]}
    twin = other.restore(
        other.config.model_copy(update={"scale": one.config.scale}),
        one.scales,
        {**weights, "W_dec": t["U.1"][:, :, 0].contiguous()},
    )
    rows = torch.from_numpy(raw_rows())
    rows[:, 6] = 2.0
    assert torch.equal(one.encode(rows).to_dense(), twin.encode(rows).to_dense())
    wanted = twin.reconstruct(rows)[WRITES]
    torch.testing.assert_close(one.reconstruct(rows)[WRITES], wanted, rtol=1e-10, atol=1e-10)


def test_i1_features_may_be_permuted_within_a_rank():
    dictionary = molt(JumpRelu(bandwidth=0.5))
    order = torch.tensor([4, 2, 0, 1, 3, 6, 5, 8, 10, 7, 9])
    t = dictionary.tensors()
    moved = {n: t[n][..., order] for n in ("W_enc", "b_enc", "threshold")}
    for rank, places in ((3, slice(0, 5)), (2, slice(5, 7)), (1, slice(7, 11))):
        own = order[places] - places.start
        moved |= {f"{n}.{rank}": t[f"{n}.{rank}"][own] for n in "UV"}
    other = with_tensors(dictionary, **moved)
    code, again = (d.encode(inputs()).to_dense() for d in (dictionary, other))
    torch.testing.assert_close(again, code[:, order], rtol=1e-12, atol=1e-12)
    wanted = dictionary.reconstruct(inputs())[WRITES]
    torch.testing.assert_close(other.reconstruct(inputs())[WRITES], wanted, rtol=1e-10, atol=1e-10)


def test_i2_activations_and_transforms_may_trade_factors_where_the_gate_sees_their_product():
    factors = torch.linspace(0.4, 3, 11, dtype=torch.float64)
    for on_norm in (True, False):
        dictionary = molt(TopK(k=3), gate_on_decoder_norm=on_norm)
        t = dictionary.tensors()
        moved = {"W_enc": t["W_enc"] * factors, "b_enc": t["b_enc"] * factors}
        for rank, places in ((3, slice(0, 5)), (2, slice(5, 7)), (1, slice(7, 11))):
            moved[f"U.{rank}"] = t[f"U.{rank}"] / factors[places, None, None]
        found = with_tensors(dictionary, **moved).reconstruct(inputs())[WRITES]
        wanted = dictionary.reconstruct(inputs())[WRITES]
        assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-9) == on_norm


def test_i3_a_rotation_of_the_input_that_encoder_and_transforms_share_changes_nothing():
    dictionary = molt(TopK(k=3), scale="none")
    draw = torch.Generator().manual_seed(8)
    turn = torch.linalg.qr(torch.randn(7, 7, generator=draw, dtype=torch.float64))[0]
    t = dictionary.tensors()
    turned = with_tensors(
        dictionary, W_enc=turn.T @ t["W_enc"], **{f"V.{r}": t[f"V.{r}"] @ turn for r in ORDER}
    )
    rows = inputs()[READS]
    found = turned.reconstruct(rows @ turn)[WRITES]
    wanted = dictionary.reconstruct(rows)[WRITES]
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_i9_without_biases_twice_the_input_is_four_times_the_output():
    dictionary = molt(Relu(), scale_out="dataset_rms")
    zeros = {"b_enc": torch.zeros(11).double(), "b_dec": torch.zeros(5).double()}
    dictionary = with_tensors(dictionary, **zeros)
    rows = inputs()[READS]
    for factor in (2.0, 0.3):
        found = dictionary.reconstruct(rows * factor)[WRITES]
        wanted = factor**2 * dictionary.reconstruct(rows)[WRITES]
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_the_fold_multiplies_weights_as_the_spec_says():
    dictionary = molt(JumpRelu(bandwidth=0.5))
    folded, t = dictionary.folded(), dictionary.tensors()
    a, c = (dictionary.scales[hook].record.a for hook in (READS, WRITES))
    assert a != c
    nu = dictionary.scales[WRITES].mean
    wanted = {
        "W_enc": t["W_enc"] * a, "b_enc": t["b_enc"], "b_dec": t["b_dec"] / c + nu,
        "threshold": t["threshold"] * a / c,
        **{f"U.{r}": t[f"U.{r}"] / c for r in ORDER}, **{f"V.{r}": t[f"V.{r}"] * a for r in ORDER},
    }  # fmt: skip
    for name, each in folded.tensors().items():
        torch.testing.assert_close(each, wanted[name], rtol=1e-12, atol=0)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_the_jacobian_is_its_closed_form(options):
    dictionary = molt(**options)
    rows = inputs()[READS]
    code = dictionary.encode(rows).to_dense()
    t, x = dictionary.tensors(), dictionary.normalise({READS: rows})[READS]
    slope = t["r_mag"].exp() if "r_mag" in t else torch.ones(11, dtype=torch.float64)
    whole = maps(t)
    wanted = torch.einsum("bt,toi->boi", code, whole)
    written = torch.einsum("toi,bi->bto", whole, x)
    wanted += torch.einsum("bt,bto,it->boi", (code != 0) * slope, written, t["W_enc"])
    a, c = (dictionary.scales[hook].record.a for hook in (READS, WRITES))
    found = dictionaries.jacobian(dictionary, rows)
    torch.testing.assert_close(found, wanted * a / c, rtol=1e-9, atol=1e-9)


def test_the_jacobian_is_finite_differences_of_the_reconstruction():
    dictionary = molt(TopK(k=3))
    rows = inputs(5)[READS]
    found = dictionaries.jacobian(dictionary, rows)
    step = 1e-6
    for dimension in range(7):
        move = torch.zeros(7, dtype=torch.float64)
        move[dimension] = step
        up, down = (dictionary.reconstruct(rows + sign * move)[WRITES] for sign in (1, -1))
        wanted = (up - down) / (2 * step)
        torch.testing.assert_close(found[:, :, dimension], wanted, rtol=1e-5, atol=1e-5)


def test_m11_the_cosine_to_itself_is_one_and_to_the_opposite_minus_one():
    dictionary = molt(TopK(k=3))
    rows = inputs(6)[READS]
    for sign in (1.0, -1.0):

        def host(given, sign=sign):
            same = dictionary.reconstruct_differentiably(given)
            return {WRITES: sign * 3 * same[WRITES]}

        for projections in (None, 2):
            found = dictionaries.jacobian_cosine(dictionary, host, rows, projections=projections)
            torch.testing.assert_close(found, torch.full((6,), sign).double())


def test_m11_the_cosine_is_that_of_the_two_jacobians_and_projections_come_close():
    widths = {READS: 30, WRITES: 20}
    dictionary = random_dictionary(settings(TopK(k=3)), widths)
    rows = torch.from_numpy(raw_rows(5, 30))
    draw = torch.Generator().manual_seed(1)
    mine = dictionaries.jacobian(dictionary, rows)
    noise = torch.randn(20, 30, generator=draw, dtype=torch.float64)
    linear = mine.mean(dim=0) + noise * mine.std()

    def host(given):
        return {WRITES: given[READS] @ linear.T}

    exact = dictionaries.jacobian_cosine(dictionary, host, rows)
    wanted = torch.cosine_similarity(mine.flatten(1), linear.flatten()[None], dim=1)
    torch.testing.assert_close(exact, wanted, rtol=1e-9, atol=1e-9)
    whole = dictionaries.jacobian_cosine(dictionary, host, rows, projections=20)
    torch.testing.assert_close(whole, exact, rtol=1e-9, atol=1e-9)
    some = torch.stack([
        dictionaries.jacobian_cosine(dictionary, host, rows, projections=8, seed=seed)
        for seed in range(4)
    ])  # fmt: skip
    assert (some.mean(dim=0) - exact).abs().max() < 0.1
    independent = noise / noise.norm()
    found = dictionaries.jacobian_cosine(
        dictionary, lambda given: {WRITES: given[READS] @ independent.T}, rows
    )
    assert found.abs().max() < 4 / math.sqrt(30)


def test_a_jacobian_along_no_direction_is_refused():
    with pytest.raises(ConfigError, match="projections"):
        dictionaries.jacobian_cosine(molt(TopK(k=3)), dict, inputs(), projections=0)


def test_a_code_alone_cannot_be_decoded():
    dictionary = molt(TopK(k=3))
    with pytest.raises(UnsupportedError, match="through transforms") as caught:
        dictionary.decode(dictionary.encode(inputs()))
    assert "inputs" in caught.value.hint


def test_what_stands_for_a_transform_is_its_leading_left_singular_vector():
    dictionary = molt(TopK(k=3))
    found, t = dictionary.logit_directions()[0], dictionary.tensors()
    for i, whole in enumerate(maps(t)):
        u, s, v = torch.linalg.svd(whole)
        sign = torch.sign(v[0] @ t["W_enc"][:, i])
        torch.testing.assert_close(found[i], sign * s[0] * u[:, 0], rtol=1e-9, atol=1e-9)
    assert dictionary.logit_score == "left_singular"
    assert dictionary.ranks().tolist() == [3] * 5 + [2] * 2 + [1] * 4
    parts = {"rank3": slice(0, 5), "rank2": slice(5, 7), "rank1": slice(7, 11)}
    assert dictionary.groups == {"rank": parts}


def test_a_record_may_list_its_ranks_in_any_order():
    options = Options.model_validate_json('{"ranks": {"16": 2, "128": 1, "64": 3}}')
    assert list(options.ranks) == [128, 64, 16]


def built(init=None, d_in=30, d_out=20, **more):
    widths = {READS: d_in, WRITES: d_out}
    return dictionaries.build(
        settings(TopK(k=4), **more),
        widths=widths,
        moments={h: ExactMoments(raw_rows(500, w)) for h, w in widths.items()},
        init=init or InitSettings(),
        seed=0,
    )


def test_transforms_start_as_long_as_k_of_them_need_to_be():
    plain = built(ranks={8: 60, 2: 200})
    t = plain.tensors()
    assert t["W_enc"].abs().max() <= 1 / math.sqrt(260)
    assert (t["b_enc"] == 0).all()
    assert (t["b_dec"] == 0).all()
    x = plain.normalise({READS: torch.from_numpy(raw_rows(500, 30)).float()})[READS]
    for rank in (8, 2):
        written = torch.einsum("tor,tri,bi->tbo", t[f"U.{rank}"], t[f"V.{rank}"], x)
        rms = written.square().sum(dim=2).mean().sqrt()
        # E‖x'‖² = 30 and E‖y'‖² = 20
        assert float(rms) == pytest.approx(math.sqrt(20) / 4, rel=0.1)


def test_its_encoder_bias_may_be_measured_on_a_sample():
    widths = {READS: 30, WRITES: 20}
    rows = {hook: raw_rows(500, width) for hook, width in widths.items()}
    plain = dictionaries.build(
        settings(BatchTopK(k=2.0), ranks={2: 40}),
        widths=widths,
        moments={hook: ExactMoments(each) for hook, each in rows.items()},
        init=InitSettings(firing_rate=0.1, decoder_bias="geometric_median"),
        seed=0,
        sample={hook: torch.from_numpy(each) for hook, each in rows.items()},
    )
    scores = torch.cat([s.clone() for s in plain.gate_scores(torch.from_numpy(rows[READS]))])
    share = (scores > 0).double().mean(dim=0)
    torch.testing.assert_close(share, torch.full((40,), 0.1).double(), rtol=0, atol=0.005)
    assert plain.decoder_bias_norm() > 0


def test_a_rank_beyond_the_narrower_width_is_refused():
    with pytest.raises(ConfigError, match="rank of any map from 30 to 20") as caught:
        built(ranks={21: 1, 2: 3})
    assert caught.value.hint


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"scale": "dataset_centred_rms"}, "a bias to each transform"),
        ({"d_sae": 12}, "d_sae = 12 is set, but ranks say how many features there are: 11"),
        ({"expansion": 2.0}, "expansion = 2.0 is set"),
        ({"ranks": {4: 0}}, "1 or more"),
        ({"ranks": {0: 4}}, "1 or more"),
        ({"ranks": {4: 1.5}}, "valid integer"),
        ({"ranks": {}}, "at least 1 item"),
        ({"hookpoint_out": READS}, "the identity"),
        ({"activation": TopK(k=12)}, "more than d_sae = 11"),
        ({"activation": Gated()}, "decoder lengths change nothing"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_the_reason(wrong, why):
    with pytest.raises(ValueError, match=why):
        settings(**{"activation": TopK(k=3), **wrong})


@pytest.mark.parametrize(
    "init", [{"decoder_bound": 0.5}, {"data_points": True}, {"search_decoder_norm": True}]
)
def test_ways_to_start_that_it_has_no_use_for_are_refused(init):
    with pytest.raises(ValueError, match="says nothing about how weights of family 'molt' start"):
        TrainSettings.model_validate(
            {
                "series": "s", "name": "n", "activations": {"name": "a"}, "budget": {"rows": 9000},
                "dictionary": settings(TopK(k=3)).model_dump(), "init": init,
            }
        )  # fmt: skip


def test_a_centred_input_is_refused_when_weights_are_restored():
    dictionary = molt(TopK(k=3))
    centred = {**dictionary.scales, READS: dictionary.scales[WRITES]}
    with pytest.raises(UnsupportedError, match="centred before transforms") as caught:
        FAMILIES["molt"].restore(dictionary.config, centred, dictionary.tensors())
    assert "dataset_rms" in caught.value.hint


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["all", "pairs"])
def test_narrow_weights_are_computed_with_widely(share, monkeypatch):
    monkeypatch.setattr(backends, "wanted_share", share)
    narrow = random_dictionary(settings(TopK(k=3)), WIDTHS, dtype=torch.bfloat16)
    wide = {name: each.float() for name, each in narrow.tensors().items()}
    config = narrow.config.model_copy(update={"dtype": "float32"})
    twin = narrow.restore(config, narrow.scales, wide)
    rows = {READS: inputs()[READS].float()}
    outputs = []
    for each in (narrow, twin):
        normalised = each.normalise(rows)
        each(normalised).reconstruction[WRITES].square().sum().backward()
        outputs.append(each.reconstruct(rows)[WRITES])
    torch.testing.assert_close(*outputs)
    for one, other in zip(narrow.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad.float(), other.grad, rtol=2e-2, atol=2e-1)
