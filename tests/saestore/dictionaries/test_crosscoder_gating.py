"""Crosscoders whose heads gate by themselves: hand values, laws, and what they are made of.

With an encoder in common each head is a transcoder from all hookpoints side by side to its own: codes,
losses and gradients are compared with those of such transcoders.
"""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from saestore import dictionaries
from saestore.dictionaries.code import SparseCode
from saestore.errors import UnsupportedError
from saestore.evaluate.sparsity import Sparsity
from saestore.testing.dictionaries import SparseDictionaryContract, random_dictionary, raw_rows
from saestore.train import objectives
from saestore.train.counters import FiringCounters
from saestore_schemas.dictionary import AbsTopK, BatchTopK, Gated, JumpRelu, Relu, TopK
from saestore_schemas.families import CrossCoderSettings, SaeSettings, TranscoderSettings
from saestore_schemas.objective import AuxSettings, LossSettings


HEADS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
WIDTHS = dict(zip(HEADS, (7, 4, 5), strict=True))
L, F, B = len(HEADS), 11, 13


def settings(activation, hookpoints=HEADS, **more):
    given = {"gating": "per_head", "d_sae": F, "activation": activation, "hookpoints": hookpoints}
    return CrossCoderSettings.model_validate({"family": "crosscoder"} | given | more)


def made(activation, widths=WIDTHS, dtype=torch.float64, **more):
    return random_dictionary(settings(activation, tuple(widths), **more), widths, dtype=dtype)


def rows_of(widths=WIDTHS, rows=B):
    return {
        hook: torch.from_numpy(raw_rows(rows, width, seed=number + 5))
        for number, (hook, width) in enumerate(widths.items())
    }


VARIANTS = {
    "topk": TopK(k=4),
    "batchtopk": BatchTopK(k=3.5),
    "jumprelu": JumpRelu(bandwidth=0.5),
}


@pytest.mark.parametrize("activation", VARIANTS.values(), ids=VARIANTS)
class TestPerHeadCrossCoderContract(SparseDictionaryContract):
    @pytest.fixture(autouse=True)
    def _choose(self, activation):
        self.activation = activation

    def dictionary(self, dtype):
        return made(self.activation, dtype=dtype)

    def inputs(self, rows=B):
        return rows_of(rows=rows)


def test_h11_hand_values():
    t = lambda *values: torch.tensor(values, dtype=torch.float64)  # noqa: E731 - twelve tables
    names = ("blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre")
    plain = made(TopK(k=2), dict.fromkeys(names, 2), d_sae=4, scale="none")
    tensors = {
        "W_enc.0": t([1, 0.5, 0, 0.2], [0, 1, 0.5, 0.3]),
        "W_enc.1": t([0.5, 0, 1, 0.4], [0.5, 1, 0, 0.6]),
        "b_enc": t(0.4, 0.4, 0.4, 0.4),
        "W_dec.0": t([1, 0.5], [0.5, 1], [0, 0.5], [0.2, 0.3]),
        "W_dec.1": t([0.5, 0], [1, 0.5], [0.5, 1], [0.4, 0.6]),
        "b_dec.0": t(0.1, 0.2),
        "b_dec.1": t(0.2, 0.1),
    }
    one = plain.restore(plain.config, plain.scales, tensors)
    inputs = {names[0]: t([1, 2]), names[1]: t([2, 1])}
    code = one.encode(inputs)
    # h n at head 0: 3.24 4.36 1.70 .94, at head 1: 1.45 4.36 3.80 1.87
    torch.testing.assert_close(code.to_dense(), t([2.9, 3.9, 0, 0, 0, 3.9, 3.4, 0]))
    torch.testing.assert_close(one.by_feature(code).to_dense(), t([2.9, 3.9, 3.4, 0]))
    found = one.decode(code)
    torch.testing.assert_close(found[names[0]], t([4.95, 5.55]))
    torch.testing.assert_close(found[names[1]], t([5.8, 5.45]))
    assert one.groups == {"head": {names[0]: slice(0, 4), names[1]: slice(4, 8)}}


def test_d11_relu_gates_alike_at_all_heads():
    alone, inputs = made(Relu()), rows_of()
    options = alone.config.options.model_copy(update={"gating": "shared"})
    config = alone.config.model_copy(update={"options": options})
    shared = alone.restore(config, alone.scales, alone.tensors())
    code = alone.encode(inputs)
    torch.testing.assert_close(code.to_dense(), shared.encode(inputs).to_dense().repeat(1, L))
    assert code.n_rows == B
    for hook, rows in shared.reconstruct(inputs).items():
        torch.testing.assert_close(alone.reconstruct(inputs)[hook], rows)


KINDS = {
    "topk": (TopK(k=1), {"aux": {"coefficient": 0}}),
    "abstopk": (AbsTopK(k=5), {"aux": {"coefficient": 0}}),
    "batchtopk": (BatchTopK(k=1.4), {"aux": {"coefficient": 0}}),
    "jumprelu": (JumpRelu(), {"sparsity": {"kind": "tanh", "coefficient": 0.7, "warmup": 0}}),
    "relu": (Relu(), {"sparsity": {"kind": "l1", "coefficient": 0.3, "warmup": 0}}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_head_is_a_transcoder_from_all_hookpoints(kind):
    activation, loss = KINDS[kind]
    loss = LossSettings.model_validate(loss)
    cross = made(activation, scale="none")
    inputs = rows_of()
    output = cross(inputs)
    whole = lost(cross, inputs, inputs, output, loss)
    whole.backward()
    theirs = gradients(cross)
    encoder, bias, total = 0.0, 0.0, 0.0
    for head, (hook, width) in enumerate(WIDTHS.items()):
        one = random_dictionary(
            TranscoderSettings(
                family="transcoder", hookpoint_in="all", hookpoint_out=hook, d_sae=F,
                activation=activation.model_copy(update={"rank_over": None} if kind == "batchtopk" else {}),
                gate_on_decoder_norm=True, scale="none",
            ),
            {"all": sum(WIDTHS.values()), hook: width},
        )  # fmt: skip
        tensors = cross.tensors()
        same = {"W_enc": torch.cat([tensors[f"W_enc.{each}"] for each in range(L)])}
        same |= {"b_enc": tensors["b_enc"], "W_dec": tensors[f"W_dec.{head}"]}
        same |= {"b_dec": tensors[f"b_dec.{head}"]}
        if "threshold" in tensors:
            same["threshold"] = tensors["threshold"][head]
        one = one.restore(one.config, one.scales, same)
        read = {"all": torch.cat(list(inputs.values()), dim=1)}
        alone = one(read)
        own = slice(head * F, (head + 1) * F)
        torch.testing.assert_close(output.code.to_dense()[:, own], alone.code.to_dense())
        torch.testing.assert_close(output.reconstruction[hook], alone.reconstruction[hook])
        missed = lost(one, read, {hook: inputs[hook]}, alone, loss)
        missed.backward()
        total = total + missed.detach()
        code = cross.encode(inputs).to_dense()[:, own]
        torch.testing.assert_close(code, one.encode(read).to_dense())
        encoder, bias = one.encoder.grad + encoder, one.b_enc.grad + bias
        found = gradients(one)
        torch.testing.assert_close(
            theirs["W_dec"].split(list(WIDTHS.values()), 1)[head], found["W_dec"]
        )
        if kind == "jumprelu":
            torch.testing.assert_close(
                theirs["activation.threshold"][own], found["activation.threshold"]
            )
    torch.testing.assert_close(whole.detach(), total)
    torch.testing.assert_close(theirs["encoder"], encoder)
    torch.testing.assert_close(theirs["b_enc"], bias)


def gradients(dictionary):
    return {name: each.grad.clone() for name, each in dictionary.named_parameters()}


def lost(dictionary, rows, targets, output, loss):
    nobody = torch.zeros(0, dtype=torch.int64)
    seen = objectives.Pass(dictionary, rows, targets, output, nobody, 0)
    terms = objectives.terms(loss, dictionary, variance=1.0, total_steps=1)
    return sum(term(seen) for term in terms)


def test_heads_that_are_ranked_together_share_what_k_allows():
    cross, inputs = made(BatchTopK(k=2.3, rank_over="heads"), scale="none"), rows_of()
    h = sum(inputs[hook] @ cross.tensors()[f"W_enc.{head}"] for head, hook in enumerate(HEADS))
    h = h + cross.b_enc.detach()
    gate = (h.repeat(1, L) * cross.column_norms().detach()).relu()
    count = int(2.3 * B * L)
    limit = gate.flatten().sort(descending=True).values[count - 1]
    wanted = torch.where(gate >= limit, h.repeat(1, L), 0)
    torch.testing.assert_close(cross(inputs).code.to_dense().detach(), wanted)
    assert int((wanted != 0).sum()) == count
    assert cross.ranked == ((slice(0, L * F), pytest.approx(2.3 * L)),)
    assert [k for _, k in made(BatchTopK(k=2.3)).ranked] == [2.3] * L
    scaled = made(BatchTopK(k=2.3, rank_over="heads"))
    code = scaled.encode(inputs).to_dense()
    torch.testing.assert_close(scaled.folded().encode(inputs).to_dense(), code)


def test_a_feature_is_dead_where_no_head_lets_it_fire():
    counters = FiringCounters(6, torch.device("cpu"), gates=2)
    counters.update(torch.tensor([3, 0, 0, 0, 2, 0]), 8)
    assert counters.silent(8).tolist() == [False, True, True, True, False, True]
    assert counters.dead(8).tolist() == [2, 5]
    assert counters.count_dead(8) == 1


def test_dead_features_and_they_alone_learn_from_what_is_left_over():
    cross, inputs = made(TopK(k=2), scale="none"), rows_of()
    dead = torch.tensor([1, 6, 7])
    with torch.no_grad():
        cross.b_enc[dead] = -100.0
    output = cross(inputs)
    columns = [int(each) + head * F for head in range(L) for each in dead]
    _, aux = objectives.terms(
        LossSettings(aux=AuxSettings(coefficient=0.5, k=12)), cross, variance=4.0, total_steps=1
    )
    term = aux(objectives.Pass(cross, inputs, inputs, output, torch.tensor(columns), 0))
    # With k above their number all three are used at each head: Σ h W_dec over them.
    h = torch.cat(list(inputs.values()), 1) @ cross.W_enc.detach() + cross.b_enc.detach()
    errors = torch.cat([inputs[hook] - output.reconstruction[hook].detach() for hook in HEADS], 1)
    missed = (errors - h[:, dead] @ cross.W_dec.detach()[dead]).square().sum()
    spread = (errors - errors.mean(dim=0)).square().sum()
    torch.testing.assert_close(term.detach(), 0.5 * (9 / 12) * 4.0 * missed / spread)
    term.backward()
    live = torch.ones(F, dtype=torch.bool)
    live[dead] = False
    for each in (cross.W_dec.grad, cross.encoder.grad, cross.b_enc.grad.unsqueeze(1)):
        assert each[live].abs().max() < 1e-12
        assert (each[dead].abs().sum(dim=1) > 0).all()


def test_matryoshka_prefixes_are_those_of_features():
    cross, inputs = made(TopK(k=3)), rows_of()
    rows = cross.normalise(inputs)
    output = cross(rows)
    parts = [cross.decode_between(output.code, rows, *span) for span in ((0, 4), (4, F))]
    for hook, bias in cross.without_features(rows).items():
        whole = bias + sum(part[hook] for part in parts)
        torch.testing.assert_close(whole, output.reconstruction[hook])


def test_what_fires_somewhere_counts_once_and_what_it_writes_at_each_head():
    cross, inputs = made(TopK(k=3)), rows_of()
    code = cross.encode(inputs)
    dense = code.to_dense().view(B, L, F)
    assert not torch.equal(dense[:, 0], dense[:, 1])
    torch.testing.assert_close(cross.by_feature(code).to_dense(), dense.amax(dim=1))
    norms = cross.folded().column_norms().detach().numpy()
    sparsity = Sparsity(norms, cross.groups["head"], gates=L)
    for part in (slice(0, 5), slice(5, B)):
        some = SparseCode.from_dense(code.to_dense()[part])
        contexts = np.arange(B)[part] // 4
        sparsity.update(some.row_ids.numpy(), some.indices.numpy(), some.values.numpy(), contexts)
    found = {score.metric: score.value for score in sparsity.scores()}
    assert found["l0"] == pytest.approx(float((dense != 0).any(dim=1).sum()) / B)
    for head, hook in enumerate(HEADS):
        assert found[f"l0@{hook}"] == pytest.approx(float((dense[:, head] != 0).sum()) / B)
    l1 = (code.to_dense().numpy() * norms).sum() / B
    assert found["l1"] == pytest.approx(l1)
    assert sparsity.firings.tolist() == (dense != 0).any(dim=1).sum(dim=0).tolist()
    assert sparsity.sums == pytest.approx(dense.amax(dim=1).sum(dim=0).numpy())


def test_of_several_gates_the_value_furthest_from_zero_counts():
    dense = torch.tensor([[-3.0, 1.0, 0.0, 2.0, -1.0, 0.0], [0.0, 0.0, -5.0, 0.0, 0.5, -6.0]])
    found = SparseCode.from_dense(dense).largest(2).to_dense()
    assert found.tolist() == [[-3.0, 1.0, 0.0], [0.0, 0.5, -6.0]]


def test_a_unit_decoder_is_refused_and_the_canonical_form_says_so():
    cross = made(JumpRelu())
    with pytest.raises(UnsupportedError, match="heads gate by themselves"):
        cross.with_unit_decoder()
    assert dictionaries.canonical(cross).rewrites[-1] == (
        "decoder lengths kept: each head gates by its own"
    )


def test_as_a_jumprelu_it_has_the_same_codes():
    inputs = rows_of()
    above = made(TopK(k=2)).as_jumprelu([0.5, 1.0, 2.0]).tensors()["threshold"]
    assert torch.equal(above, torch.tensor([[0.5], [1.0], [2.0]]).double().expand(L, F))
    for activation in (BatchTopK(k=2), Relu()):
        cross = made(activation)
        torch.testing.assert_close(
            cross.as_jumprelu().encode(inputs).to_dense(), cross.encode(inputs).to_dense()
        )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"gate_on_decoder_norm": False}, "all heads decide alike"),
        ({"head_norm": "l2"}, "each head has its own"),
        ({"activation": Gated()}, "all heads decide alike"),
        ({"decoder_norm": "unit"}, "free"),
        (
            {"gating": "shared", "activation": BatchTopK(k=2, rank_over="heads")},
            "no heads that gate",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_when_settings_load(changes, why):
    with pytest.raises(ValidationError, match=why):
        settings(**{"activation": TopK(k=2)} | changes)


def test_rank_over_is_recorded_and_belongs_to_heads():
    assert settings(BatchTopK(k=2)).activation.rank_over == "head"
    with pytest.raises(ValidationError, match="no heads that gate"):
        SaeSettings(hookpoint="h", d_sae=F, activation=BatchTopK(k=2, rank_over="head"))


def shared(activation, **more):
    given = settings(activation, gating="shared", **more)
    return random_dictionary(given, WIDTHS)


def equally_long(cross, lengths):
    tensors = cross.tensors()
    for head in range(L):
        vectors = tensors[f"W_dec.{head}"]
        unit = vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        tensors[f"W_dec.{head}"] = unit * lengths.double().unsqueeze(1)
    return cross.restore(cross.config, cross.scales, tensors)


LENGTHS = torch.linspace(0.3, 2.5, F)
SAME = {
    "relu": lambda: shared(Relu(), gate_on_decoder_norm=False),
    "jumprelu": lambda: shared(JumpRelu()),
    "jumprelu-l2": lambda: shared(JumpRelu(), head_norm="l2"),
    "jumprelu-h": lambda: shared(JumpRelu(), gate_on_decoder_norm=False),
    "topk": lambda: equally_long(shared(TopK(k=3)), LENGTHS),
    "topk-h": lambda: equally_long(shared(TopK(k=3), gate_on_decoder_norm=False), LENGTHS * 0 + 2),
    "batchtopk": lambda: equally_long(shared(BatchTopK(k=3)), LENGTHS),
}


@pytest.mark.parametrize("kind", SAME)
def test_one_kind_of_gating_becomes_the_other_where_codes_stay(kind):
    one, inputs = SAME[kind](), rows_of()
    each = one.with_gating("per_head")
    code = one.encode(inputs).to_dense()
    torch.testing.assert_close(each.encode(inputs).to_dense(), code.repeat(1, L))
    assert 0 < float((code != 0).double().mean()) < 1
    back = each.with_gating("shared")
    torch.testing.assert_close(back.encode(inputs).to_dense(), code)
    assert (one.config.options.gating, each.config.options.gating) == ("shared", "per_head")
    for again in (each, back, each.folded()):
        for hook, rows in one.reconstruct(inputs).items():
            torch.testing.assert_close(again.reconstruct(inputs)[hook], rows)


@pytest.mark.parametrize(
    ("dictionary", "gating", "why"),
    [
        (lambda: shared(TopK(k=3)), "per_head", "not as long at one head"),
        (lambda: equally_long(shared(TopK(k=3), gate_on_decoder_norm=False), LENGTHS), "per_head", "not as long"),
        (lambda: shared(Gated(), gate_on_decoder_norm=False), "per_head", "gate of its own"),
        (lambda: made(TopK(k=3)), "shared", "not as long at one head"),
        (lambda: made(JumpRelu()), "shared", "fire at one head and not at another"),
        (lambda: made(BatchTopK(k=3, rank_over="heads")), "shared", "ranks all heads together"),
    ],
)  # fmt: skip
def test_another_gating_that_changes_codes_is_refused(dictionary, gating, why):
    with pytest.raises(UnsupportedError, match=why) as caught:
        dictionary().with_gating(gating)
    assert caught.value.hint
