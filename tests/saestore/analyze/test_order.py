import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from saestore.analyze.order import sample_offsets, shuffle_ranks
from saestore.mixing import splitmix64


MASK = (1 << 64) - 1


def reference(x):
    """splitmix64 on Python's integers."""
    z = (x + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_the_first_output_of_seed_zero_is_the_published_one():
    assert splitmix64(np.zeros(1, np.uint64))[0] == 0xE220A8397B1DCDAF


@settings(deadline=None)
@given(st.lists(st.integers(0, MASK), max_size=20))
def test_the_hash_is_splitmix64(numbers):
    assert splitmix64(np.array(numbers, np.uint64)).tolist() == [reference(n) for n in numbers]


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 1 << 70))
def test_ranks_are_those_of_the_hashes(contexts, seed):
    ranks = shuffle_ranks(contexts, seed=seed)
    order = sorted(range(contexts), key=lambda c: (reference((seed & MASK) ^ c), c))
    assert sorted(ranks) == list(range(contexts))
    assert np.argsort(ranks).tolist() == order


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 20), st.integers(1, 99), st.integers(0, 9))
def test_offsets_belong_to_the_feature_not_to_the_block(first, n, contexts, seed):
    offsets = sample_offsets(first, n, contexts=contexts, seed=seed)
    expected = [reference(reference(seed) ^ f) % contexts for f in range(first, first + n)]
    assert offsets.tolist() == expected


@pytest.mark.parametrize("seed", [0, 1])
def test_without_contexts_offsets_are_zero(seed):
    assert sample_offsets(0, 3, contexts=0, seed=seed).tolist() == [0, 0, 0]
