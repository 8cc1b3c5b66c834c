"""Oracles of transcoders: the laws of every family, and equality with an SAE where they meet."""

import pytest
import torch

from saestore import dictionaries
from saestore.dictionaries import HostMlp
from saestore.dictionaries.families import FAMILIES
from saestore.errors import ConfigError, UnsupportedError
from saestore.testing.dictionaries import (
    ExactMoments,
    SparseDictionaryContract,
    random_dictionary,
    random_sae,
    raw_rows,
)
from saestore_schemas.dictionary import AbsTopK, BatchTopK, Gated, JumpRelu, Relu, TopK
from saestore_schemas.families import SaeSettings, TranscoderSettings
from saestore_schemas.train import InitSettings, TrainSettings


READS, WRITES = "blocks.1.hook_mlp_in", "blocks.1.hook_mlp_out"
WIDTHS = {READS: 7, WRITES: 5}
ACTIVATIONS = [
    TopK(k=4), BatchTopK(k=3.5), JumpRelu(bandwidth=0.5), Relu(), Gated(), AbsTopK(k=4),
]  # fmt: skip


def settings(activation, **more):
    free = {"decoder_norm": "free", "d_sae": 11, "activation": activation}
    return TranscoderSettings.model_validate(
        {"family": "transcoder", "hookpoint_in": READS, "hookpoint_out": WRITES, **free, **more}
    )


def inputs(rows=13):
    return {READS: torch.from_numpy(raw_rows(rows))}


def variants():
    for activation in ACTIVATIONS:
        gated = isinstance(activation, Gated)
        yield {"activation": activation, "gate_on_decoder_norm": not gated, "glu": not gated}
        yield {"activation": activation, "skip": True}


def named(options):
    return "-".join(
        [options["activation"].kind, *(name for name in ("skip", "glu") if options.get(name))]
    )


@pytest.mark.parametrize("options", list(variants()), ids=named)
class TestTranscoderContract(SparseDictionaryContract):
    @pytest.fixture(autouse=True)
    def _choose(self, options):
        self.options = options

    def dictionary(self, dtype):
        return random_dictionary(settings(**self.options), WIDTHS, dtype=dtype)

    def inputs(self, rows=13):
        return inputs(rows)


def test_d8_of_one_hookpoint_it_is_an_sae():
    sae = random_sae(TopK(k=3), subtract_b_dec=False)
    (hook,) = sae.hookpoints_in
    config = sae.config.model_copy(update={"family": "transcoder"})
    twin = FAMILIES["transcoder"].restore(config, sae.scales, sae.tensors())
    rows = torch.from_numpy(raw_rows())
    assert torch.equal(twin.encode(rows).to_dense(), sae.encode(rows).to_dense())
    assert torch.equal(twin.reconstruct(rows)[hook], sae.reconstruct(rows)[hook])


def test_d8_a_skip_of_zero_adds_nothing_and_another_adds_its_map():
    with_skip = random_dictionary(settings(TopK(k=3), skip=True), WIDTHS)
    plain = {n: t for n, t in with_skip.tensors().items() if n != "W_skip"}
    options = with_skip.config.options.model_copy(update={"skip": False})
    config = with_skip.config.model_copy(update={"options": options})
    without = with_skip.restore(config, with_skip.scales, plain)
    zero = {**with_skip.tensors(), "W_skip": torch.zeros(7, 5, dtype=torch.float64)}
    silent = with_skip.restore(with_skip.config, with_skip.scales, zero)
    wanted = without.reconstruct(inputs())[WRITES]
    torch.testing.assert_close(silent.reconstruct(inputs())[WRITES], wanted, rtol=1e-12, atol=1e-12)
    read = with_skip.normalise(inputs())[READS]
    added = read @ with_skip.tensors()["W_skip"] / with_skip.scales[WRITES].record.a
    found = with_skip.reconstruct(inputs())[WRITES]
    torch.testing.assert_close(found, wanted + added, rtol=1e-9, atol=1e-9)


def test_a_code_alone_cannot_be_decoded_where_the_input_is_added():
    dictionary = random_dictionary(settings(TopK(k=3), skip=True), WIDTHS)
    with pytest.raises(UnsupportedError, match="linear map of its input") as caught:
        dictionary.decode(dictionary.encode(inputs()))
    assert "inputs" in caught.value.hint


def test_skip_decoder_and_encoder_all_get_their_gradient():
    dictionary = random_dictionary(settings(Relu(), skip=True), WIDTHS)
    rows = dictionary.normalise(inputs())
    dictionary(rows).reconstruction[WRITES].square().sum().backward()
    x = rows[READS].clone()
    tensors = {n: t.clone().requires_grad_() for n, t in dictionary.tensors().items()}
    f = torch.relu(x @ tensors["W_enc"] + tensors["b_enc"])
    out = f @ tensors["W_dec"] + tensors["b_dec"] + x @ tensors["W_skip"]
    out.square().sum().backward()
    for found, name in (
        (dictionary.encoder.grad.T, "W_enc"),
        (dictionary.W_dec.grad, "W_dec"),
        (dictionary.skip.grad, "W_skip"),
        (dictionary.b_dec.grad, "b_dec"),
    ):
        torch.testing.assert_close(found, tensors[name].grad, rtol=1e-9, atol=1e-9)


def test_it_starts_untied_with_a_silent_skip():
    plain = dictionaries.build(
        settings(TopK(k=3), skip=True, decoder_norm="unit"),
        widths=WIDTHS,
        moments={h: ExactMoments(raw_rows(200, w)) for h, w in WIDTHS.items()},
        init=InitSettings(),
        seed=0,
    )
    tensors = plain.tensors()
    assert tensors["W_enc"].shape == (7, 11)
    assert tensors["W_dec"].shape == (11, 5)
    assert (tensors["W_skip"] == 0).all()
    torch.testing.assert_close(plain.decoder_norms(), torch.ones(11))
    assert torch.isnan(plain.enc_dec_cosine()).all()


def relu_mlp(rows):
    """Return what an MLP of 5 outputs writes, and its weights."""
    draw = torch.Generator().manual_seed(2)
    into, back, out, bias = (
        torch.randn(shape, generator=draw, dtype=torch.float64)
        for shape in ((7, 11), (11,), (11, 5), (5,))
    )
    return torch.relu(rows @ into + back) @ out + bias, (into, back, out, bias)


def test_c12_neurons_of_a_relu_mlp_are_a_transcoder_without_error():
    rows = inputs()[READS]
    wanted, parts = relu_mlp(rows)
    plain = random_dictionary(settings(Relu(), scale="none"), WIDTHS)
    tensors = dict(zip(("W_enc", "b_enc", "W_dec", "b_dec"), parts, strict=True))
    found = plain.restore(plain.config, plain.scales, tensors).reconstruct(rows)[WRITES]
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def started_from(respond, **init):
    """A transcoder that starts from an MLP, its sample, and the mean row of its store."""
    stored = {h: ExactMoments(raw_rows(200, w, seed=w)) for h, w in WIDTHS.items()}
    sample = {h: torch.from_numpy(raw_rows(60, w, seed=9)) for h, w in WIDTHS.items()}
    made = dictionaries.build(
        settings(TopK(k=3), skip=True, dtype="float64"),
        widths=WIDTHS,
        moments=stored,
        init=InitSettings(from_host="mlp", **init),
        seed=0,
        sample=sample,
        host=None if respond is None else HostMlp(respond),
    )
    return made, sample, torch.from_numpy(stored[READS].mean)


@pytest.mark.parametrize("rank", [None, 3])
def test_it_starts_from_what_the_hosts_mlp_answers_to_its_encoder(rank):
    made, sample, mean = started_from(
        lambda rows: relu_mlp(rows)[0], active_subspace=rank, decoder_vector_norm=0.5
    )
    tensors, x = made.tensors(), sample[READS]
    along = tensors["W_enc"].T / tensors["W_enc"].norm(dim=0).unsqueeze(1)
    answers, _ = relu_mlp(mean + along * (x - mean).norm(dim=1).mean())
    wanted = answers - answers.mean(dim=0)
    if rank is not None:
        y = sample[WRITES] - sample[WRITES].mean(dim=0)
        directions = torch.linalg.svd(y, full_matrices=False).Vh[:rank]
        wanted = wanted @ directions.T @ directions
    wanted = 0.5 * wanted / wanted.norm(dim=1, keepdim=True)
    torch.testing.assert_close(tensors["W_dec"], wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(tensors["W_enc"].norm(dim=0), torch.ones(11).double())
    assert not tensors["b_enc"].any()
    assert not tensors["W_skip"].any()


@pytest.mark.parametrize(
    ("respond", "reason"),
    [
        (None, "no host model"),
        (lambda rows: rows, "expected rows of width 5"),
        (lambda rows: rows.new_ones(len(rows), 5), "the same whatever it reads"),
    ],
)
def test_a_host_that_is_no_mlp_of_its_hookpoints_is_refused(respond, reason):
    with pytest.raises(ConfigError, match=reason):
        started_from(respond)


@pytest.mark.parametrize(
    ("init", "reason"),
    [
        ({"from_host": "attention"}, "'attention' says nothing about how weights of family 'trans"),
        ({"from_host": "mlp", "data_points": True}, "remove data_points"),
        ({"from_host": "mlp", "encoder_bound": 0.1}, "remove encoder_bound"),
    ],
)
def test_what_goes_with_no_mlp_is_refused_when_settings_load(init, reason):
    run = {"series": "s", "name": "n", "activations": {"name": "a"}, "budget": {"rows": 9000}}
    given = {**run, "dictionary": settings(TopK(k=3)).model_dump(), "init": {"from_host": "mlp"}}
    TrainSettings.model_validate(given)
    with pytest.raises(ValueError, match=reason):
        TrainSettings.model_validate({**given, "init": init})


def test_tying_it_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="needs an encoder of the hookpoints"):
        TrainSettings.model_validate(
            {
                "series": "s", "name": "n", "activations": {"name": "a"}, "budget": {"rows": 9000},
                "dictionary": settings(TopK(k=3)).model_dump(), "init": {"tie": True},
            }
        )  # fmt: skip


def test_settings_without_a_family_are_an_sae():
    run = {"series": "s", "name": "n", "activations": {"name": "a"}, "budget": {"rows": 9000}}
    sae = {"hookpoint": READS, "d_sae": 9, "activation": {"kind": "topk", "k": 2}}
    assert isinstance(
        TrainSettings.model_validate({**run, "dictionary": sae}).dictionary, SaeSettings
    )
