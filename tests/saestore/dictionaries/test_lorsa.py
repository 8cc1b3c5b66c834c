"""Oracles of Lorsas: attention written out in loops, multi-head attention itself, and the laws of families."""

import math

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb as turn_neighbours
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as turn_halves

from saestore import dictionaries
from saestore.dictionaries import ContextRows, Contexts, attention, contexts, rotary
from saestore.dictionaries.families import FAMILIES
from saestore.errors import ConfigError, UnsupportedError
from saestore.testing.dictionaries import (
    ExactMoments,
    SparseDictionaryContract,
    random_dictionary,
    raw_rows,
)
from saestore_schemas.attention import AttentionSettings, NtkSettings, RopeSettings
from saestore_schemas.dictionary import AbsTopK, BatchTopK, Gated, JumpRelu, Relu, TopK
from saestore_schemas.families import LorsaSettings
from saestore_schemas.train import InitSettings


READS, WRITES = "blocks.1.ln1.hook_normalized", "blocks.1.hook_attn_out"
WIDTHS = {READS: 7, WRITES: 5}
D_SAE, GROUPS = 12, 3
NTK = {"factor": 8.0, "low": 1.0, "high": 4.0, "context_size": 40}
ROPE = {"dim": 4, "base": 50.0, "pairs": "adjacent"}


def settings(activation, *, d_sae=D_SAE, n_qk=GROUPS, d_qk=6, rope=None, **more):
    how = {name: more.pop(name) for name in ("qk_norm", "scale_by") if name in more}
    how = {"scale" if name == "scale_by" else name: value for name, value in how.items()}
    return LorsaSettings.model_validate(
        {
            "family": "lorsa", "hookpoint_in": READS, "hookpoint_out": WRITES, "d_sae": d_sae,
            "activation": activation, "attention": {"n_qk": n_qk, "d_qk": d_qk, "rope": rope, **how},
            **more,
        }
    )  # fmt: skip


def lorsa(activation=None, **more):
    return random_dictionary(settings(activation or TopK(k=4), **more), WIDTHS)


def ragged(rows, *, hooks=(READS,), seed=5):
    """Contexts of several lengths with a BOS, two documents each, and not all rows wanted."""
    rng = np.random.default_rng(seed)
    lengths = []
    while sum(lengths) < rows:
        lengths.append(min(int(rng.integers(1, 9)), rows - sum(lengths)))
    documents = np.concatenate(
        [np.minimum(np.arange(n), 1) + (np.arange(n) >= 4) for n in lengths] or [np.zeros(0)]
    )
    starts = np.cumsum([0, *lengths])
    wanted = np.setdiff1d(np.arange(rows), starts[:-1][np.array(lengths, dtype=int) > 1])
    layout = Contexts(*(torch.as_tensor(x, dtype=torch.int64) for x in (starts, documents, wanted)))
    whole = {
        hook: torch.from_numpy(raw_rows(rows, WIDTHS[hook], seed=n + 2))
        for n, hook in enumerate(hooks)
    }
    return ContextRows(whole, layout)


VARIANTS = {
    "topk-rope-norm": {"activation": TopK(k=4), "rope": ROPE, "qk_norm": "rms"},
    "topk-z": {"activation": TopK(k=4), "gate_on_decoder_norm": False, "rope": {"ntk": NTK}},
    "batchtopk": {
        "activation": BatchTopK(k=3.5), "rope": {"pairs": "halves"}, "scale": "dataset_rms",
    },
    "jumprelu-z": {"activation": JumpRelu(bandwidth=0.5), "gate_on_decoder_norm": False},
    "relu-unit": {"activation": Relu(), "decoder_norm": "unit", "scale_by": 0.7},
}  # fmt: skip


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
class TestLorsaContract(SparseDictionaryContract):
    @pytest.fixture(autouse=True)
    def _choose(self, options):
        self.options = options

    def dictionary(self, dtype):
        return random_dictionary(settings(**self.options), WIDTHS, dtype=dtype)

    def inputs(self, rows=13):
        return ragged(rows)

    def test_a_row_does_not_depend_on_its_mates(self):
        """Its context alone, in another batch, or with other rows of it wanted: the same bits."""
        dictionary, inputs = self.dictionary(torch.float32), self.inputs(rows=90)
        dense = dictionary.encode(inputs).to_dense()
        for start, stop in ((0, 1), (3, 60), (59, 60), (20, 80)):
            some = dictionary.encode(contexts.part(inputs, start, stop))
            assert torch.equal(some.to_dense(), dense[start:stop])


def naive(dictionary, inputs, tensors):
    """z and reconstruction of the wanted rows, in loops, from normalised rows and the file's tensors."""
    rows, layout = contexts.around(inputs, READS)
    how = dictionary.config.options.attention
    size = dictionary.d_sae // how.n_qk
    z = []
    offsets, documents = layout.offsets.tolist(), layout.documents.tolist()
    for row in layout.wanted.tolist():
        start = max(o for o in offsets if o <= row)
        seen = [u for u in range(start, row + 1) if documents[u] in (0, documents[row])]
        out = []
        for group in range(how.n_qk):
            of = {}
            for side, places in (("Q", [row]), ("K", seen)):
                vectors = rows[places] @ tensors[f"W_{side}"][group] + tensors[f"b_{side}"][group]
                if how.qk_norm == "rms":
                    mean = (vectors**2).mean(dim=1, keepdim=True)
                    norm = tensors[f"{side.lower()}_norm"][group]
                    vectors = vectors / (mean + how.eps).sqrt() * norm
                turned = [
                    turn(v, u - start, how.rope) for v, u in zip(vectors, places, strict=True)
                ]
                of[side] = torch.stack(turned)
            scores = (of["K"] @ of["Q"][0]) / how.divisor
            own = slice(group * size, (group + 1) * size)
            values = rows[seen] @ tensors["W_V"][own].T + tensors["b_V"][own]
            out.append(torch.softmax(scores, dim=0) @ values)
        z.append(torch.cat(out))
    return torch.stack(z)


def turn(vector, position, rope):
    """One vector turned pair by pair by complex multiplication."""
    if rope is None:
        return vector
    dim = rope.dim or len(vector)
    out = list(vector)
    for pair in range(dim // 2):
        a, b = (2 * pair, 2 * pair + 1) if rope.pairs == "adjacent" else (pair, pair + dim // 2)
        angle = position * float(rotary.frequencies(rope, dim)[pair])
        cos, sin = math.cos(angle), math.sin(angle)
        out[a], out[b] = vector[a] * cos - vector[b] * sin, vector[a] * sin + vector[b] * cos
    return torch.stack(out)


@pytest.mark.parametrize("name", ["topk-rope-norm", "topk-z", "batchtopk", "relu-unit"])
def test_z_is_attention_written_out_in_loops(name):
    dictionary = lorsa(**VARIANTS[name])
    inputs = dictionary.normalise(ragged(17))
    wanted = naive(dictionary, inputs, dictionary.tensors())
    torch.testing.assert_close(dictionary.pre_activations(inputs), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("activation", [Relu(), TopK(k=4), AbsTopK(k=11)], ids=lambda a: a.kind)
def test_every_gradient_is_that_of_the_loops(activation, monkeypatch):
    monkeypatch.setattr(attention, "PATTERN_BYTES", 600)  # groups one after the other
    dictionary = lorsa(activation, rope=ROPE, qk_norm="rms")
    inputs = dictionary.normalise(ragged(17))
    output = dictionary(inputs)
    output.reconstruction[WRITES].pow(3).sum().backward()
    tensors = {n: t.clone().requires_grad_() for n, t in dictionary.tensors().items()}
    z = naive(dictionary, inputs, tensors)
    kept = output.code.to_sparse().to_dense() != 0
    (torch.where(kept, z, 0.0) @ tensors["W_O"] + tensors["b_dec"]).pow(3).sum().backward()
    ours = dict(dictionary.named_parameters())
    names = {"encoder": "W_V", "b_enc": "b_V", "W_dec": "W_O"}
    assert len(ours) == 10
    for name, parameter in ours.items():
        wanted = tensors[names.get(name, name)].grad
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-8, atol=1e-8)


def test_the_gradient_of_attention_is_its_finite_difference():
    draw = torch.Generator().manual_seed(0)
    layout = ragged(7).contexts
    shapes = ((2, 7, 3), (2, 7, 3), (7, 4))
    given = [
        torch.randn(shape, generator=draw, dtype=torch.float64).requires_grad_() for shape in shapes
    ]
    assert torch.autograd.gradcheck(lambda q, k, v: attention.mixed(q, k, v, layout, 1.3), given)


def test_c13_pairs_of_both_signs_are_multi_head_attention():
    heads, width, rows = 2, 3, 9
    draw = torch.Generator().manual_seed(1)
    host = {
        name: torch.randn(shape, generator=draw, dtype=torch.float64)
        for name, shape in {
            "W_Q": (heads, 7, width), "W_K": (heads, 7, width), "W_V": (heads, 7, width),
            "W_O": (heads, width, 5), "b_Q": (heads, width), "b_K": (heads, width),
        }.items()
    }  # fmt: skip
    plain = lorsa(
        TopK(k=heads * width), d_sae=2 * heads * width, n_qk=heads, d_qk=width, scale="none"
    )
    pairs = torch.cat([host["W_V"].transpose(1, 2), -host["W_V"].transpose(1, 2)], dim=1)
    outputs = torch.cat([host["W_O"], -host["W_O"]], dim=1)
    tensors = {n: host[n] for n in ("W_Q", "W_K", "b_Q", "b_K")}
    tensors |= {"W_V": pairs.reshape(-1, 7), "b_V": torch.zeros(12).double()}
    tensors |= {"W_O": outputs.reshape(-1, 5), "b_dec": torch.zeros(5).double()}
    one = plain.restore(plain.config, plain.scales, tensors)
    x = torch.from_numpy(raw_rows(rows)) / 5
    q, k, v = (
        (x @ host[f"W_{n}"] + (host[f"b_{n}"].unsqueeze(1) if n != "V" else 0)).unsqueeze(0)
        for n in "QKV"
    )
    mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)[0]
    wanted = (mixed @ host["W_O"]).sum(dim=0)
    torch.testing.assert_close(one.reconstruct(x)[WRITES], wanted, rtol=1e-12, atol=1e-12)
    assert (one.encode(x).l0() == heads * width).all()


def test_d13_without_queries_z_is_the_mean_of_what_is_seen():
    dictionary = lorsa(Relu(), rope=ROPE)
    silent = {n: t * 0 if n in {"W_Q", "b_Q"} else t for n, t in dictionary.tensors().items()}
    one = dictionary.restore(dictionary.config, dictionary.scales, silent)
    rows = one.normalise({READS: torch.from_numpy(raw_rows())})
    values = rows[READS] @ silent["W_V"].T + silent["b_V"]
    mean = values.cumsum(dim=0) / torch.arange(1, 14).unsqueeze(1)
    torch.testing.assert_close(one.pre_activations(rows), mean, rtol=1e-12, atol=1e-12)


def test_d13_contexts_of_one_row_are_a_linear_map():
    dictionary = lorsa(Relu(), rope=ROPE, qk_norm="rms")
    rows = torch.from_numpy(raw_rows())
    alone = Contexts(torch.arange(14), torch.ones(13, dtype=torch.int64), torch.arange(13))
    given = dictionary.normalise(ContextRows({READS: rows}, alone))
    tensors = dictionary.tensors()
    wanted = given[READS] @ tensors["W_V"].T + tensors["b_V"]
    torch.testing.assert_close(dictionary.pre_activations(given), wanted, rtol=1e-12, atol=1e-12)


def test_d13_groups_are_heads_that_share_queries_and_keys():
    grouped = lorsa(Relu(), rope=ROPE, qk_norm="rms")
    apart = lorsa(Relu(), rope=ROPE, qk_norm="rms", n_qk=D_SAE)
    tensors = {
        name: t.repeat_interleave(D_SAE // GROUPS, dim=0) if name[-2:] in {"_Q", "_K", "rm"} else t
        for name, t in grouped.tensors().items()
    }
    apart = apart.restore(apart.config, apart.scales, tensors)
    inputs = ragged(13)
    found, wanted = (one.encode(inputs).to_dense() for one in (apart, grouped))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_d14_with_all_kept_it_is_linear_in_the_values():
    dictionary, inputs = lorsa(AbsTopK(k=D_SAE), rope=ROPE), ragged(13)
    bias = dictionary.without_features(inputs)[WRITES]

    def of(vectors, biases):
        tensors = {**dictionary.tensors(), "W_V": vectors, "b_V": biases}
        one = dictionary.restore(dictionary.config, dictionary.scales, tensors)
        return one(one.normalise(inputs)).reconstruction[WRITES] - bias

    draw = torch.Generator().manual_seed(2)
    sides = [
        (torch.randn(12, 7, generator=draw).double(), torch.randn(12, generator=draw).double())
        for _ in range(2)
    ]
    (a, p), (b, q) = sides
    torch.testing.assert_close(of(2 * a - b, 2 * p - q), 2 * of(a, p) - of(b, q))


def test_i1_features_may_change_places_within_their_group():
    dictionary, inputs = lorsa(JumpRelu(bandwidth=0.5), rope=ROPE), ragged(13)
    places = torch.tensor([2, 0, 3, 1, 4, 7, 6, 5, 11, 10, 9, 8])
    moved = {
        n: t[places] if n in {"W_V", "b_V", "W_O", "threshold"} else t
        for n, t in dictionary.tensors().items()
    }
    one = dictionary.restore(dictionary.config, dictionary.scales, moved)
    code = dictionary.encode(inputs).to_dense()
    torch.testing.assert_close(one.encode(inputs).to_dense(), code[:, places])
    found, wanted = (each.reconstruct(inputs)[WRITES] for each in (one, dictionary))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_i6_a_row_changes_nothing_before_it():
    dictionary = lorsa(rope=ROPE, qk_norm="rms").float()
    rows = torch.from_numpy(raw_rows(13)).float()
    other = rows.clone()
    other[8] += 3
    before, after = (dictionary.reconstruct(each)[WRITES] for each in (rows, other))
    assert torch.equal(before[:8], after[:8])
    assert not torch.equal(before[8:], after[8:])


def test_i6_rows_after_a_context_are_inert():
    dictionary = lorsa(rope=ROPE, qk_norm="rms")
    rows = torch.from_numpy(raw_rows(20))
    whole, short = dictionary.encode(rows).to_dense(), dictionary.encode(rows[:13]).to_dense()
    torch.testing.assert_close(whole[:13], short, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pairs", ["adjacent", "halves"])
def test_i6_patterns_depend_on_distances_alone(pairs):
    rope = RopeSettings(base=50.0, pairs=pairs, dim=4)
    draw = torch.Generator().manual_seed(3)
    q, k = (torch.randn(3, 9, 6, generator=draw, dtype=torch.float64) for _ in range(2))
    hidden = torch.ones(9, 9).triu(1).bool()
    here, there = (
        attention.pattern(
            rotary.turned(q, places, rope), rotary.turned(k, places, rope), hidden, 1.0
        )
        for places in (torch.arange(9), torch.arange(9) + 1000)
    )
    torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-9)


def test_i6_documents_see_themselves_and_what_stands_before_the_first():
    dictionary = lorsa(Relu(), rope=ROPE)
    rows = torch.from_numpy(raw_rows(9))
    documents = torch.tensor([0, 1, 1, 1, 2, 2, 2, 3, 3])
    layout = Contexts(torch.tensor([0, 9]), documents, torch.arange(9))

    def code(given):
        return dictionary.encode(ContextRows({READS: given}, layout)).to_dense()

    plain = code(rows)
    for row, affected in ((0, range(9)), (2, (2, 3)), (5, (5, 6)), (7, (7, 8))):
        other = rows.clone()
        other[row] += 2
        changed = (code(other) != plain).any(dim=1).nonzero()[:, 0].tolist()
        assert changed == list(affected)


def test_rows_that_are_not_wanted_get_no_code_but_are_seen():
    dictionary, inputs = lorsa(Relu(), rope=ROPE), ragged(13)
    layout = inputs.contexts
    everyone = Contexts(layout.offsets, layout.documents, torch.arange(13))
    dense = dictionary.encode(ContextRows(inputs.whole, everyone)).to_dense()
    assert torch.equal(dictionary.encode(inputs).to_dense(), dense[layout.wanted])
    assert dictionary.reconstruct(inputs)[WRITES].shape == (len(layout.wanted), 5)


def test_patterns_of_a_context_sum_to_its_pre_activations():
    dictionary = lorsa(rope=ROPE, qk_norm="rms")
    rows = torch.from_numpy(raw_rows(9))
    documents = torch.tensor([0, 1, 1, 1, 1, 2, 2, 2, 2])
    inputs = ContextRows({READS: rows}, Contexts(torch.tensor([0, 9]), documents, torch.arange(9)))
    features = torch.tensor([9, 0, 7])
    found = dictionary.z_patterns(inputs, features)
    z = dictionary.pre_activations(dictionary.normalise(inputs))
    torch.testing.assert_close(found.sum(dim=2).T, z[:, features], rtol=1e-12, atol=1e-12)
    assert (found.triu(1) == 0).all()
    assert (found[:, 5:, 1:5] == 0).all()
    with pytest.raises(ConfigError, match="patterns are of a context"):
        dictionary.z_patterns(ragged(13), features)


def test_a_fold_is_of_patterns_too():
    dictionary = lorsa(rope=ROPE, qk_norm="rms")
    rows, features = torch.from_numpy(raw_rows(9)), torch.tensor([3, 8])
    found = dictionary.folded().z_patterns(rows, features)
    wanted = dictionary.z_patterns(rows, features)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pairs", ["adjacent", "halves"])
def test_positions_turn_as_in_transformers(pairs):
    draw = torch.Generator().manual_seed(4)
    x = torch.randn(2, 9, 6, generator=draw, dtype=torch.float64)
    places = torch.arange(9)
    angles = places.unsqueeze(1) * 100.0 ** (-torch.arange(0, 6, 2).double() / 6)
    if pairs == "halves":
        cos, sin = (torch.cat([f(angles)] * 2, dim=-1).unsqueeze(0) for f in (torch.cos, torch.sin))
        wanted, _ = turn_halves(x.unsqueeze(0), x.unsqueeze(0), cos, sin)
        wanted = wanted[0]
    else:
        sin, cos = angles.sin().unsqueeze(0), angles.cos().unsqueeze(0)
        wanted = turn_neighbours(x.transpose(0, 1).unsqueeze(0), sin, cos)[0].transpose(0, 1)
    found = rotary.turned(x, places, RopeSettings(base=100.0, pairs=pairs))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_frequencies_by_parts_are_those_of_llama_3():
    config = LlamaConfig(
        hidden_size=128, num_attention_heads=2, max_position_embeddings=131072,
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        },
    )  # fmt: skip
    wanted, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    ntk = NtkSettings(factor=8.0, low=1.0, high=4.0, context_size=8192)
    found = rotary.frequencies(RopeSettings(base=500000.0, ntk=ntk), 64)
    torch.testing.assert_close(found.float(), wanted, rtol=1e-5, atol=0)
    slower = rotary.frequencies(RopeSettings(base=500000.0, scale=4.0), 64)
    plain = rotary.frequencies(RopeSettings(base=500000.0), 64)
    torch.testing.assert_close(slower, plain / 4)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"d_sae": 13}, "nearest number that does is 12"),
        ({"hookpoint_out": READS}, "attention writes elsewhere"),
        ({"activation": Gated(), "gate_on_decoder_norm": False}, "gated.*attended"),
        (
            {"attention": {"n_qk": 3, "d_qk": 4, "rope": {"dim": 6}}},
            "even rope.dim of at most d_qk",
        ),
        ({"attention": {"n_qk": 3, "d_qk": 5, "rope": {}}}, "even rope.dim"),
        ({"attention": {"n_qk": 3, "d_qk": 4, "rope": {"dim": 3}}}, "must be even"),
        (
            {"attention": {"n_qk": 3, "d_qk": 4, "rope": {"ntk": {**NTK, "high": 0.5}}}},
            "must be above ntk.low",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(change, reason):
    given = settings(TopK(k=2)).model_dump()
    with pytest.raises(ValueError, match=reason):
        LorsaSettings.model_validate(given | change)


def test_what_needs_a_linear_encoder_says_so():
    dictionary = lorsa(Relu())
    output = dictionary(dictionary.normalise(ragged(5)))
    with pytest.raises(UnsupportedError, match="no product of rows") as caught:
        _ = output.pre.linear.bias
    assert "jumprelu" in caught.value.hint


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_weights_are_widened_where_rows_meet_them(dtype):
    narrow = random_dictionary(settings(Relu(), rope=ROPE, qk_norm="rms"), WIDTHS, dtype=dtype)
    wide = {name: tensor.double() for name, tensor in narrow.tensors().items()}
    exact = narrow.restore(narrow.config, narrow.scales, wide)
    inputs = ragged(13)
    found, wanted = (one.reconstruct(inputs)[WRITES] for one in (narrow, exact))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)


def test_a_number_of_features_by_expansion_makes_whole_groups():
    one = settings(TopK(k=2), d_sae=None, expansion=2.1, n_qk=5)
    assert one.features(7) == 15


def test_settings_and_family_agree_on_contexts():
    for name, family in FAMILIES.items():
        assert family.reads_contexts == (name == "lorsa")
    assert settings(TopK(k=2)).reads_contexts
    assert AttentionSettings(n_qk=1, d_qk=9).divisor == 3.0


def test_random_weights_have_the_lengths_of_the_recipe():
    plain = dictionaries.build(
        settings(TopK(k=3), d_sae=3000, n_qk=30, d_qk=16, qk_norm="rms"),
        widths=WIDTHS,
        moments={h: ExactMoments(raw_rows(200, w)) for h, w in WIDTHS.items()},
        init=InitSettings(),
        seed=0,
    )
    tensors = plain.tensors()
    assert float(tensors["W_V"].std()) == pytest.approx(3000**-0.5, rel=0.03)
    assert float(tensors["W_O"].std()) == pytest.approx(5**-0.5, rel=0.03)
    for name in ("W_Q", "W_K"):
        assert float(tensors[name].abs().max()) == pytest.approx((6 / 23) ** 0.5, rel=0.01)
    assert (tensors["q_norm"] == 1).all()


def test_differentiable_in_what_it_reads_it_is_the_same_function():
    dictionary, inputs = lorsa(rope=ROPE, qk_norm="rms"), ragged(13)
    rows = inputs.whole[READS].clone().requires_grad_()
    found = dictionary.reconstruct_differentiably(ContextRows({READS: rows}, inputs.contexts))
    torch.testing.assert_close(found[WRITES], dictionary.reconstruct(inputs)[WRITES])
    (slope,) = torch.autograd.grad(found[WRITES].sum(), rows)
    step = 1e-6 * torch.from_numpy(raw_rows(13, 7, seed=9))
    ends = [
        dictionary.reconstruct(ContextRows({READS: rows.detach() + s * step}, inputs.contexts))
        for s in (1, -1)
    ]
    change = (ends[0][WRITES] - ends[1][WRITES]).sum() / 2
    assert float(change) == pytest.approx(float((slope * step).sum()), rel=1e-5)


def test_rows_that_meet_have_no_jacobian_of_their_own():
    with pytest.raises(UnsupportedError, match="depends on the rows before it"):
        dictionaries.jacobian(lorsa(Relu()), torch.from_numpy(raw_rows(3)))
