"""Direct logit attribution: oracles A1 and A2, exact ends, moments."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from saestore.analyze.logits import extreme, heads_together, histograms, logit_rows, projection
from saestore.lm import LanguageModel
from saestore_schemas import tables
from saestore_schemas.lm import LmSettings


@pytest.fixture(params=["gpt2", "llama"])
def unembedding(request, tiny_models):
    """LayerNorm with a gain and a bias, and RMSNorm."""
    folder = tiny_models(request.param)
    model = LanguageModel.load(LmSettings(model=str(folder)), device="cpu")
    return model.unembedding()


def normed(x, unembedding, bias):
    """Return what the final norm does to rows, and its scale, in float64."""
    if unembedding.centred:
        x = x - x.mean(dim=-1, keepdim=True)
    scale = (x.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    return x / scale * unembedding.gain.double() + bias, scale


def test_a1_attributions_add_up_to_the_logits(unembedding):
    generator = torch.Generator().manual_seed(0)
    weight = unembedding.W_U.double()
    d, vocab = weight.shape
    features, rows = 40, 6
    decoder = torch.randn(features, d, generator=generator, dtype=torch.float64)
    code = torch.rand(rows, features, generator=generator, dtype=torch.float64)
    code[code < 0.7] = 0
    b_dec = torch.randn(d, generator=generator, dtype=torch.float64)
    error = torch.randn(rows, d, generator=generator, dtype=torch.float64)
    bias = torch.randn(d, generator=generator, dtype=torch.float64)
    residual = code @ decoder + b_dec + error
    out, scale = normed(residual, unembedding, bias)
    logits = out @ weight
    onto = projection(weight, unembedding.gain.double(), centred=unembedding.centred)
    parts = (code @ (decoder @ onto.weight) + b_dec @ onto.weight + error @ onto.weight) / scale
    constant = bias @ weight
    total = parts + constant - constant.mean()
    centred = logits - logits.mean(dim=-1, keepdim=True)
    assert (total - centred).abs().max() <= 1e-9 * centred.abs().max()
    assert torch.allclose(
        decoder @ onto.mean,
        (normed_direction(decoder, unembedding) @ weight).mean(dim=-1),
        rtol=1e-9,
    )
    assert vocab == onto.weight.shape[1]


def normed_direction(vectors, unembedding):
    if unembedding.centred:
        vectors = vectors - vectors.mean(dim=-1, keepdim=True)
    return vectors * unembedding.gain.double()


def test_a2_adding_one_vector_to_every_token_changes_nothing(unembedding):
    generator = torch.Generator().manual_seed(1)
    weight = unembedding.W_U.double()
    decoder = torch.randn(11, len(weight), generator=generator, dtype=torch.float64)
    shift = 100 * torch.randn(len(weight), 1, generator=generator, dtype=torch.float64)
    plain, shifted = (
        decoder @ projection(w, unembedding.gain.double(), centred=unembedding.centred).weight
        for w in (weight, weight + shift)
    )
    assert (plain - shifted).abs().max() <= 1e-9 * plain.abs().max()


def test_without_a_gain_it_is_the_centred_product():
    weight = torch.randn(5, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = projection(weight, None, centred=False)
    assert torch.allclose(found.weight, weight - weight.mean(dim=1, keepdim=True))
    assert torch.allclose(found.mean, weight.mean(dim=1))


@settings(deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([-2.0, -1.0, 0.0, 1.0]), min_size=6, max_size=6), min_size=1),
    st.integers(1, 8),
)
def test_ends_are_exact_with_ties_by_token(scores, k):
    scores = torch.tensor(scores)
    for largest, sign in ((True, -1), (False, 1)):
        values, tokens = extreme(scores, k, largest=largest)
        for row, own, ids in zip(scores.tolist(), values.tolist(), tokens.tolist(), strict=True):
            expected = sorted(range(6), key=lambda t: (sign * row[t], t))[:k]
            assert ids == expected
            assert own == [row[t] for t in expected]


def test_tables_hold_both_ends_and_the_moments():
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(7, 101, generator=generator)
    vectors = torch.randn(150, 7, generator=generator)
    vectors[4] = 0
    onto = projection(weight, torch.rand(7, generator=generator) + 0.5, centred=True)
    pieces = list(logit_rows(vectors, onto, top_k=3))
    assert len(pieces) > 1
    scores = (vectors @ onto.weight).numpy().astype(np.float64)
    lines = [row for piece in pieces for row in piece.ends.to_pylist()]
    assert [tuple(r[c] for c in tables.LOGITS.sort) for r in lines] == sorted(
        tuple(r[c] for c in tables.LOGITS.sort) for r in lines
    )
    for line in lines:
        order = np.argsort(-line["sign"] * scores[line["feature"]], kind="stable")
        assert line["token_id"] == order[line["rank"]]
        assert line["value"] == pytest.approx(scores[line["feature"], line["token_id"]], abs=1e-5)
    stats = [row for piece in pieces for row in piece.statistics.to_pylist()]
    assert [row["feature"] for row in stats] == list(range(150))
    flat = stats[4]
    assert (flat["std"], flat["skew"], flat["kurtosis"]) == (0, None, None)
    for row in stats[:4]:
        own = scores[row["feature"]]
        z = (own - own.mean()) / own.std()
        found = [row[name] for name in ("std", "skew", "kurtosis", "min", "max")]
        expected = [own.std(), (z**3).mean(), (z**4).mean(), own.min(), own.max()]
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_histograms_count_every_token_once_and_the_largest_in_the_last_bin():
    weight = torch.randn(7, 101, generator=torch.Generator().manual_seed(4))
    vectors = torch.randn(150, 7, generator=torch.Generator().manual_seed(5))
    vectors[4] = 0
    onto = projection(weight, None, centred=False)
    (found,) = histograms(list(logit_rows(vectors, onto, top_k=3, scores=("direction",))))
    assert found.what == "logit:direction"
    scores = (vectors @ onto.weight).numpy()
    assert np.array_equal(found.lo, scores.min(axis=1))
    assert np.array_equal(found.hi, scores.max(axis=1))
    assert (found.counts.sum(axis=1) == 101).all()
    assert found.counts[4].tolist() == [101, *[0] * 49]
    for counts, own in zip(found.counts[:4], scores[:4].astype(np.float64), strict=True):
        bins = [min(int((each - own.min()) * (50 / (own.max() - own.min()))), 49) for each in own]
        assert counts.tolist() == np.bincount(bins, minlength=50).tolist()
        assert counts[0] >= 1 <= counts[-1]


def test_histograms_of_several_heads_stand_beside_each_other():
    vectors = torch.randn(130, 5, generator=torch.Generator().manual_seed(6))
    weights = [torch.randn(5, n, generator=torch.Generator().manual_seed(n)) for n in (31, 47)]
    each = [
        logit_rows(vectors, projection(weight, None, centred=True), top_k=2, head=head)
        for weight, head in zip(weights, (1, 3), strict=True)
    ]
    found = histograms(list(heads_together(each)))
    assert [each.what for each in found] == ["logit:direction:1", "logit:direction:3"]
    for own, tokens in zip(found, (31, 47), strict=True):
        assert (own.counts.sum(axis=1) == tokens).all()
        assert len(own.counts) == len(own.lo) == 130
