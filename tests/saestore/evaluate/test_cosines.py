"""The nearest other feature of each: against all pairs at once, in float64."""

import numpy as np
import pytest
import torch

from saestore.evaluate import cosines
from saestore.evaluate.cosines import Compared, nearest
from saestore.progress import Recorder
from saestore.testing.dictionaries import random_sae
from saestore_schemas.dictionary import TopK


@pytest.fixture(autouse=True, params=[3, 4, 64])
def _block(request, monkeypatch):
    monkeypatch.setattr(cosines, "BLOCK", request.param)


def vectors(n=11, d=7, seed=0):
    rng = torch.Generator().manual_seed(seed)
    found = torch.randn(n, d, generator=rng, dtype=torch.float64)
    return found * torch.linspace(0.1, 9, n, dtype=torch.float64)[:, None]  # of unequal length


def test_all_pairs_are_compared_once():
    given, done = vectors(), []
    unit = given / given.norm(dim=1, keepdim=True)
    every = (unit @ unit.T).abs().fill_diagonal_(-1)
    found = nearest(given, advance=done.append)
    np.testing.assert_allclose(found.cosine, every.max(dim=1).values, rtol=1e-12)
    assert list(found.feature) == every.argmax(dim=1).tolist()
    assert sum(done) == len(given)


def test_the_value_is_exact_whatever_the_type_of_the_weights():
    given = vectors(n=23)
    narrow = nearest(given.float())
    exact = given.float().double()
    pairs = torch.linalg.vecdot(exact, exact[narrow.feature]).abs()
    lengths = exact.norm(dim=1)
    np.testing.assert_allclose(
        narrow.cosine, pairs / (lengths * lengths[narrow.feature]), rtol=1e-14
    )


def test_opposite_vectors_are_near_and_zero_ones_are_near_nothing():
    given = vectors(5)
    given[3] = -2 * given[1]
    given[2] = 0
    found = nearest(given)
    assert found.cosine[1] == found.cosine[3] == pytest.approx(1, rel=1e-12)
    assert (found.feature[1], found.feature[3]) == (3, 1)
    assert np.isnan(found.cosine[2])
    assert found.feature[2] == -1
    assert 2 not in found.feature
    alone = nearest(vectors(1))
    assert np.isnan(alone.cosine).all()


def test_a_dictionary_is_compared_in_its_encoder_and_its_decoder():
    sae = random_sae(TopK(k=3)).folded()
    progress = Recorder()
    found = Compared.of(sae, progress)
    scores = {score.metric: score for score in found.scores()}
    assert progress.tasks[0]["advanced"] == progress.tasks[0]["total"] == 2 * sae.d_sae
    for name, weight in (("decoder", sae.W_dec), ("encoder", sae.encoder)):
        unit = torch.nn.functional.normalize(weight.detach().double())
        largest = (unit @ unit.T).abs().fill_diagonal_(0).max(dim=1).values
        assert scores[f"{name}_cosine_max[mean]"].value == pytest.approx(
            largest.mean().item(), rel=1e-9
        )
        assert scores[f"{name}_cosine_max[max]"].value == pytest.approx(
            largest.max().item(), rel=1e-9
        )
    both = torch.cosine_similarity(sae.encoder.double(), sae.W_dec.double())
    assert scores["enc_dec_cosine[q50]"].value == pytest.approx(
        both.sort().values[len(both) // 2].item(), rel=1e-5
    )
    assert scores["enc_dec_cosine[mean]"].n == sae.d_sae
