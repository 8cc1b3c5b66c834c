"""Oracles of crosscoders: hand values, the laws of every family, and SAEs where they meet."""

import pytest
import torch

from saestore import dictionaries
from saestore.dictionaries.families import FAMILIES
from saestore.errors import UnsupportedError
from saestore.testing.dictionaries import (
    ExactMoments,
    SparseDictionaryContract,
    random_dictionary,
    raw_rows,
)
from saestore.train import objectives
from saestore_schemas.dictionary import BatchTopK, JumpRelu, Relu, TopK
from saestore_schemas.families import CrossCoderSettings, SaeSettings
from saestore_schemas.objective import LossSettings
from saestore_schemas.train import InitSettings


HEADS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
WIDTHS = dict(zip(HEADS, (7, 4, 5), strict=True))


def settings(activation, hookpoints=HEADS, **more):
    return CrossCoderSettings.model_validate(
        {"family": "crosscoder", "hookpoints": hookpoints, "d_sae": 11, "activation": activation}
        | more
    )


def rows_of(widths, rows=13):
    return {
        hook: torch.from_numpy(raw_rows(rows, width, seed=number + 5))
        for number, (hook, width) in enumerate(widths.items())
    }


VARIANTS = {
    "topk": {"activation": TopK(k=4), "gate_on_decoder_norm": False},
    "topk-hn-none": {"activation": TopK(k=4), "scale": "none"},
    "batchtopk": {"activation": BatchTopK(k=3.5)},
    "batchtopk-l2": {"activation": BatchTopK(k=3.5), "head_norm": "l2"},
    "jumprelu": {"activation": JumpRelu(bandwidth=0.5)},
    "jumprelu-h": {"activation": JumpRelu(bandwidth=0.5), "gate_on_decoder_norm": False},
    "relu": {"activation": Relu()},
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
class TestCrossCoderContract(SparseDictionaryContract):
    @pytest.fixture(autouse=True)
    def _choose(self, options):
        self.options = options

    def dictionary(self, dtype):
        return random_dictionary(settings(**self.options), WIDTHS, dtype=dtype)

    def inputs(self, rows=13):
        return rows_of(WIDTHS, rows)


def test_h11_hand_values():
    t = lambda *values: torch.tensor(values, dtype=torch.float64)  # noqa: E731 - twelve tables
    names = ("blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre")
    plain = random_dictionary(
        settings(Relu(), names, d_sae=4, scale="none"), dict.fromkeys(names, 2)
    )
    one = plain.restore(
        plain.config,
        plain.scales,
        {
            "W_enc.0": t([1, 0.5, 0, 0.2], [0, 1, 0.5, 0.3]),
            "W_enc.1": t([0.5, 0, 1, 0.4], [0.5, 1, 0, 0.6]),
            "b_enc": t(0.4, 0.4, 0.4, 0.4),
            "W_dec.0": t([1, 0.5], [0.5, 1], [0, 0.5], [0.2, 0.3]),
            "W_dec.1": t([0.5, 0], [1, 0.5], [0.5, 1], [0.4, 0.6]),
            "b_dec.0": t(0.1, 0.2),
            "b_dec.1": t(0.2, 0.1),
        },
    )
    code = one.encode({names[0]: t([1, 2]), names[1]: t([2, 1])})
    torch.testing.assert_close(code.to_dense(), t([2.9, 3.9, 3.4, 2.6]))
    ones = dictionaries.SparseCode.from_dense(torch.ones(1, 4, dtype=torch.float64))
    decoded = one.decode(ones)
    torch.testing.assert_close(decoded[names[0]], t([1.8, 2.5]))
    torch.testing.assert_close(decoded[names[1]], t([2.6, 2.2]))
    norms = one.head_norms()
    torch.testing.assert_close(norms[:, 0], t(1.118, 1.118, 0.5, 0.361), rtol=0, atol=5e-4)
    torch.testing.assert_close(norms[:, 1], t(0.5, 1.118, 1.118, 0.721), rtol=0, atol=5e-4)


def test_d10_one_head_is_an_sae():
    hook, width = HEADS[0], 7
    cross = random_dictionary(settings(TopK(k=3), (hook,)), {hook: width})
    free = {"decoder_norm": "free", "gate_on_decoder_norm": True, "subtract_b_dec": False}
    sae = random_dictionary(
        SaeSettings(hookpoint=hook, d_sae=11, activation=TopK(k=3), **free), {hook: width}
    )
    tensors = cross.tensors()
    same = sae.restore(
        sae.config, sae.scales, {n: tensors[n if n in tensors else f"{n}.0"] for n in sae.tensors()}
    )
    inputs = rows_of({hook: width})
    assert torch.equal(cross.encode(inputs).to_dense(), same.encode(inputs).to_dense())
    assert torch.equal(cross.reconstruct(inputs)[hook], same.reconstruct(inputs)[hook])


def test_d10_a_head_twice_with_half_the_encoder_gives_the_same_code_and_double_loss():
    one = random_dictionary(settings(Relu(), HEADS[:1], scale="none"), {HEADS[0]: 7})
    names = ("blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre")
    two = random_dictionary(settings(Relu(), names, scale="none"), dict.fromkeys(names, 7))
    tensors = one.tensors()
    double = {n: tensors[f"{n.split('.')[0]}.0" if "." in n else n] for n in two.tensors()}
    double |= {n: double[n] / 2 for n in ("W_enc.0", "W_enc.1")}
    two = two.restore(two.config, two.scales, double)
    rows = torch.from_numpy(raw_rows())
    alone, both = one({HEADS[0]: rows}), two(dict.fromkeys(names, rows))
    torch.testing.assert_close(both.code.activations, alone.code.activations)
    lost = [error(one, {HEADS[0]: rows}, alone), error(two, dict.fromkeys(names, rows), both)]
    torch.testing.assert_close(lost[1], 2 * lost[0])


def error(dictionary, rows, output):
    (term, *_) = objectives.terms(LossSettings(), dictionary, variance=1.0, total_steps=1)
    nobody = torch.zeros(0, dtype=torch.int64)
    return term(objectives.Pass(dictionary, rows, rows, output, nobody, 0))


def test_d10_block_diagonal_heads_are_saes_whose_losses_add():
    cross = random_dictionary(settings(Relu(), HEADS[:2], d_sae=11, scale="none"), WIDTHS)
    tensors = {name: each.clone() for name, each in cross.tensors().items()}
    for head, own in enumerate((slice(0, 6), slice(6, 11))):
        others = torch.ones(11, dtype=torch.bool)
        others[own] = False
        tensors[f"W_enc.{head}"][:, others] = 0
        tensors[f"W_dec.{head}"][others] = 0
    cross = cross.restore(cross.config, cross.scales, tensors)
    inputs = {hook: rows for hook, rows in rows_of(WIDTHS).items() if hook in HEADS[:2]}
    together = error(cross, inputs, cross(inputs))
    apart = 0.0
    for head, own in enumerate((slice(0, 6), slice(6, 11))):
        x = inputs[HEADS[head]]
        f = torch.relu(x @ tensors[f"W_enc.{head}"][:, own] + tensors["b_enc"][own])
        missed = x - f @ tensors[f"W_dec.{head}"][own] - tensors[f"b_dec.{head}"]
        apart = apart + missed.square().sum() / len(x)
    torch.testing.assert_close(together, apart)


def test_d10_the_sum_of_head_norms_is_at_least_their_length():
    l1 = random_dictionary(settings(Relu()), WIDTHS)
    semantics = l1.config.semantics.model_copy(update={"head_norm": "l2"})
    config = l1.config.model_copy(update={"semantics": semantics})
    l2 = l1.restore(config, l1.scales, l1.tensors())
    assert (l1.decoder_norms() > l2.decoder_norms()).all()
    alone = {n: t if n.endswith(".0") else t * 0 for n, t in l1.tensors().items()}
    norms = [d.restore(d.config, d.scales, alone).decoder_norms() for d in (l1, l2)]
    torch.testing.assert_close(*norms)


def test_a_top_k_on_lengths_that_folding_would_change_is_refused():
    dictionary = random_dictionary(settings(TopK(k=4)), WIDTHS)
    with pytest.raises(UnsupportedError, match="scaled unequally") as caught:
        dictionary.folded()
    assert "with_unit_decoder" in caught.value.hint
    unit = dictionary.with_unit_decoder()
    inputs, wanted = rows_of(WIDTHS), dictionary.reconstruct(rows_of(WIDTHS))
    for raw in (unit.folded(), dictionary.in_raw_units()):
        for hook, rows in raw.reconstruct(inputs).items():
            torch.testing.assert_close(rows, wanted[hook], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("repeat", [True, False])
def test_heads_start_equal_if_they_are_to(repeat):
    names = ("blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre")
    plain = dictionaries.build(
        settings(TopK(k=3), names),
        widths=dict.fromkeys(names, 6),
        moments={hook: ExactMoments(raw_rows(50, 6, seed=1)) for hook in names},
        init=InitSettings(repeat_heads=repeat),
        seed=0,
    )
    tensors = plain.tensors()
    assert torch.equal(tensors["W_dec.0"], tensors["W_dec.1"]) == repeat
    for head in (0, 1):
        assert torch.equal(tensors[f"W_enc.{head}"].T, tensors[f"W_dec.{head}"])


def test_every_family_is_registered_once():
    assert all(name == family.family for name, family in FAMILIES.items())
