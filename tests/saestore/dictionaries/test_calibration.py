"""The threshold of BatchTopK: against a full sort, by hand, with ties, and streamed."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as st_numpy

from saestore.dictionaries import Calibration, calibration
from saestore.errors import UnsupportedError
from saestore.testing.dictionaries import D_SAE, HOOK, random_sae, raw_rows
from saestore_schemas.dictionary import BatchTopK, ThresholdInference, TopK


def calibrated(parts, k):
    counting = Calibration(float(k))
    for _ in range(Calibration.PASSES):
        for part in parts:
            counting.add(part)
        counting.end_pass()
    return counting.found()


ROWS = [[1.0, -2, 3, -4], [-5, 6, -7, 8]]
OTHER = [[1.0, 2, 3, 4], [-5, -6, 0.5, -8]]


@pytest.mark.parametrize(
    ("scores", "k", "low", "high", "middle"),
    [
        (ROWS, 2, 0, 1, 0.5),
        (ROWS, 1.5, 1, 3, 2),
        (ROWS, 1, 3, 6, 4.5),
        (OTHER, 2, 0.5, 1, 0.75),
    ],
)
def test_h15_thresholds_by_hand(scores, k, low, high, middle):
    found = calibrated([torch.tensor(scores)], k)
    assert low <= found.threshold < high
    assert found.threshold == middle
    assert found.l0 == k
    assert (found.rows, found.wanted) == (2, k)


matrices = st_numpy.arrays(
    np.float32,
    st.tuples(st.integers(1, 12), st.integers(1, 9)),
    elements=st.floats(-4, 4, width=32) | st.sampled_from([0.0, 1.0, np.float32(1e-40), 1.5]),
)


@settings(max_examples=60, deadline=None)
@given(matrices)
def test_every_device_counts_alike(scores):
    bits = torch.from_numpy(scores).view(torch.int32).view(-1)
    uppers = {int(each) >> 16 for each in bits[bits > 0]}
    for upper in (None, *uppers):
        assert np.array_equal(calibration.by_torch(bits, upper), calibration.counted(bits, upper))


@settings(max_examples=150, deadline=None)
@given(matrices, st.integers(1, 40))
def test_it_is_what_a_full_sort_finds_however_the_rows_are_cut(scores, quarters):
    k = quarters / 4
    found = calibrated(torch.from_numpy(scores).split(5), k)
    assert found == calibrated([torch.from_numpy(scores)], k)
    positive = np.sort(scores[scores > 0])[::-1]
    wanted = math.floor(k * len(scores))
    fired = int((scores > np.float32(found.threshold)).sum())
    assert found.l0 == pytest.approx(fired / len(scores))
    if wanted >= len(positive):
        assert fired == len(positive)
    elif wanted == 0 or positive[wanted - 1] != positive[wanted]:
        assert fired == wanted
    else:  # equal scores: the nearer of the two counts that are possible
        tied = positive[wanted]
        possible = [(positive > tied).sum(), (positive >= tied).sum()]
        assert abs(fired - wanted) == min(abs(each - wanted) for each in possible)


def test_neighbouring_numbers_are_cut_apart():
    low = np.float32(1.0)
    high = np.nextafter(low, np.float32(2))
    found = calibrated([torch.tensor([[low, high]])], 1)
    assert (torch.tensor([low, high]) > found.threshold).tolist() == [False, True]


def test_it_needs_two_passes():
    counting = Calibration(1.0)
    counting.add(torch.ones(2, 2))
    with pytest.raises(RuntimeError, match="0 of 2 passes"):
        counting.found()


@pytest.mark.parametrize("gated", [False, True])
def test_a_calibrated_dictionary_fires_k_times_a_row(gated):
    dictionary = random_sae(BatchTopK(k=2.6), gate_on_decoder_norm=gated, dtype=torch.float32)
    x = torch.from_numpy(raw_rows(500, seed=4))
    assert dictionary.config.semantics.inference == ThresholdInference(source="ema")
    counting = Calibration(2.6)
    for _ in range(Calibration.PASSES):
        for scores in dictionary.gate_scores(x):
            counting.add(scores)
        counting.end_pass()
    found = counting.found()
    record = ThresholdInference(source="exact", rows=found.rows, l0=found.l0)
    exact = dictionary.with_threshold(found.threshold, record)
    assert exact.encode(x).l0().double().mean() == 2.6 == found.l0
    assert exact.config.semantics.inference == record
    assert (exact.thresholds() == np.float32(found.threshold)).all()
    assert len(exact.thresholds()) == D_SAE
    # The same rows together in training: the same firings.
    rows = exact.normalise({HOOK: x.float()})
    assert torch.equal(exact(rows).code.to_sparse().indices, exact.encode(x).indices)


def test_only_batch_dependent_codes_take_a_threshold():
    with pytest.raises(UnsupportedError, match="topk needs no calibrated threshold"):
        random_sae(TopK(k=2)).with_threshold(1.0, ThresholdInference(source="exact"))
