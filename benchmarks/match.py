"""Correlations between the features of two dictionaries, from firings, beside a product of dense matrices.

The reference centres and scales both dictionaries' activations, zeros included, and multiplies them: what is
written in a line of numpy. Its answer is compared with ours before anything is timed. It holds every activation
and every pair of features; ours holds the firings and one line of the pairs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch

from benchmarks.harness import Contender, Goal, Options, Setup, timed
from saestore.analyze.between.correlation import correlate
from saestore.analyze.between.rows import Codes


GOAL = 20
"""Times as fast as the dense product."""
ACTIVE = 32
"""Features that fire on a row."""
AGREE = 1e-4
"""Difference of correlations at most: the reference multiplies in float32."""


class Match:
    """Two dictionaries whose features fire at unequal rates."""

    name = "match"
    doc = "correlations of two dictionaries' features, beside a dense product of their activations"

    @contextmanager
    def setup(self, options: Options) -> Iterator[Setup]:
        """Draw firings, and compare both answers once."""
        if options.threads:
            torch.set_num_threads(options.threads)
        rows, features = (4_096, 512) if options.quick else (32_768, 4_096)
        one, other = (firings(seed, rows, features) for seed in (0, 1))
        ours, theirs = (each(one, other) for each in (sparse, dense))
        if not np.allclose(ours, theirs, atol=AGREE):
            msg = "the best correlations differ"
            raise RuntimeError(msg)
        yield Setup(
            contenders=(
                Contender("saestore", lambda: (features, timed(partial(sparse, one, other)))),
                Contender(
                    "dense",
                    lambda: (features, timed(partial(dense, one, other))),
                    f"numpy {np.__version__}",
                ),
            ),
            goals=(Goal("saestore", "dense", "rate", ">=", GOAL),),
            unit="features",
            sizes={"rows": rows, "features of each": features, "L0": ACTIVE},
        )


def firings(seed: int, rows: int, features: int) -> Codes:
    """Return what fires on some rows: about as many features on each, some much more often than others."""
    rng = np.random.default_rng(seed)
    feature = (features * rng.random((rows, ACTIVE)) ** 2).astype(np.int64)
    key = np.unique(feature * rows + np.arange(rows)[:, None])
    feature, row = key // rows, key % rows
    ends = np.concatenate([[0], np.cumsum(np.bincount(feature, minlength=features))])
    return Codes(ends, row, rng.lognormal(size=len(row)).astype(np.float32), rows)


def sparse(one: Codes, other: Codes) -> np.ndarray:
    """Return the best correlation of each feature, as `saestore match` finds it; phi comes along."""
    return correlate(one, other, np.arange(one.n_rows), whole=False)["pearson"].forth.score


def dense(one: Codes, other: Codes) -> np.ndarray:
    """Return the same by a product of dense matrices."""
    a, b = (_standard(each) for each in (one, other))
    best: np.ndarray = (a.T @ b).max(axis=1)
    return best


def _standard(codes: Codes) -> np.ndarray:
    """Return all activations with mean 0 and length 1, a column a feature."""
    found = np.zeros((codes.n_rows, len(codes.counts)), np.float32)
    found[codes.row, np.repeat(np.arange(len(codes.counts)), codes.counts)] = codes.value
    found -= found.mean(axis=0, dtype=np.float64).astype(np.float32)
    found /= np.sqrt(np.einsum("ij,ij->j", found, found, dtype=np.float64)).astype(np.float32)
    return found


BENCH = Match()
