"""A lake with a wide dictionary and everything that a default analysis says of its features.

Firings go through the real writer, as in `benchmarks.lake_data`, on contexts of made-up words at Zipf's
frequencies. What needs a language model or long products, logits and neighbours, is planted: lines of the
same shape and size, whose numbers mean nothing.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.lake_data import CONTEXT, Planted, drawn, written
from saestore.analyze.logits import BINS, LogitHistogram
from saestore.analyze.write import Output
from saestore.features import Analysis, arrow
from saestore.lake import Lake, Ref
from saestore.progress import Progress
from saestore.testing.analyses import synthetic_dictionary
from saestore.testing.stores import HOOKPOINT, synthetic_store
from saestore_schemas import tables
from saestore_schemas.analyze import AnalyzeSettings
from saestore_schemas.dictionary import Relu


NAME = "bench/wide"
VOCABULARY = 32_768
TOP, ALIKE = 10, 20
"""Tokens at each end of the logits and neighbours by each method: those of the default settings."""
_STARTS = ("", "b", "br", "c", "d", "f", "g", "l", "m", "n", "p", "s", "st", "t", "tr", "w")
_VOWELS = ("a", "e", "i", "o", "u", "ea", "ou", "y")
_TOGETHER = 8_192
"""Features whose planted lines are made at once."""


def build(folder: Path, *, bits: int, rows: int, progress: Progress) -> Analysis:
    """Write the lake, or find it written.

    Args:
        folder: Where.
        bits: There are as many features as a number of so many bits can name.
        rows: Rows of the store, 32 firings each.
        progress: Where to report.
    """
    lake = Lake.at(folder)
    if Ref("features", f"{NAME}/default") in lake.refs("features"):
        return Analysis.open(lake, NAME)
    rng = np.random.default_rng(0)
    shares = 1 / (np.arange(VOCABULARY - 1) + 2.7)  # Zipf's law as Mandelbrot has it
    tokens = rng.choice(VOCABULARY - 1, rows, p=shares / shares.sum()) + 1  # 0 is a BOS
    store = synthetic_store(
        lake, "rows", values={HOOKPOINT: np.zeros((rows, 1), np.float32)}, tokens=tokens.astype(np.int64),
        dtype="float16", context_size=CONTEXT, vocabulary=_vocabulary(),
    )  # fmt: skip
    synthetic_dictionary(lake, NAME, store, activation=Relu(), d_sae=1 << bits)
    # logits and neighbours are not computed: the settings of a default analysis say that they are there
    settings = AnalyzeSettings(dictionary=NAME, memory_mib=2048)
    planted = Planted((_histogram(1 << bits),), lambda output: _write(output, 1 << bits))
    written(lake, store, settings, drawn(rows, bits=bits), planted=planted, progress=progress)
    return Analysis.open(lake, NAME)


def _vocabulary() -> pa.Table:
    """Return distinct made-up words, half of them with a leading space."""
    syllables = [start + vowel for start in _STARTS for vowel in _VOWELS]
    n = len(syllables)
    words = [syllables[k % n] + syllables[k // n % n] for k in range(VOCABULARY)]
    words = ["<bos>"] + [
        " " * (k % 2) + word + ("s" * (k >= n * n)) for k, word in enumerate(words[1:])
    ]
    columns = {
        "token_id": np.arange(VOCABULARY, dtype=np.uint32),
        "token": words,
        "bytes": [word.encode() for word in words],
        "special": np.arange(VOCABULARY) == 0,
        "n_rows": pa.nulls(VOCABULARY, pa.uint64()),
    }
    return arrow.rows(tables.VOCABULARY.schema(), columns)


def _histogram(features: int) -> LogitHistogram:
    rng = np.random.default_rng(1)
    shape = np.exp(-(np.linspace(-4, 4, BINS) ** 2) / 2)
    counts = rng.poisson(shape / shape.sum() * VOCABULARY, (features, BINS)).astype(np.uint32)
    ends = np.abs(rng.normal(4, 0.5, (2, features))).astype(np.float32)
    return LogitHistogram("logit:direction", -ends[0], ends[1], counts)


def _write(output: Output, features: int) -> None:
    parts = [(low, min(low + _TOGETHER, features)) for low in range(0, features, _TOGETHER)]
    output.write(tables.LOGITS, (_logits(*part) for part in parts))
    output.write(tables.LOGIT_STATS, (_logit_stats(*part) for part in parts))
    output.write(tables.NEIGHBOURS, (_neighbours(*part, features) for part in parts))


def _logits(low: int, high: int) -> pa.Table:
    """Ten tokens at each end, the suppressed ones first."""
    rng, n, each = np.random.default_rng((2, low)), high - low, 2 * TOP
    value = -np.sort(-np.abs(rng.normal(3, 0.5, (n, 2, TOP))), axis=2)
    value[:, 0] *= -1
    columns = {
        "feature": np.repeat(np.arange(low, high, dtype=np.uint32), each),
        "score": arrow.repeated("direction", n * each),
        "head": np.zeros(n * each, np.uint16),
        "sign": np.tile(np.repeat(np.array([-1, 1], np.int8), TOP), n),
        "rank": np.tile(np.arange(TOP, dtype=np.uint16), 2 * n),
        "token_id": rng.integers(1, VOCABULARY, n * each).astype(np.uint32),
        "value": value.astype(np.float32).ravel(),
    }
    return arrow.rows(tables.LOGITS.schema(), columns)


def _logit_stats(low: int, high: int) -> pa.Table:
    rng, n = np.random.default_rng((3, low)), high - low
    drawn = {
        name: rng.normal(mean, 0.1, n).astype(np.float32)
        for name, mean in {
            "mean": 0, "std": 1, "skew": 0, "kurtosis": 3, "min": -4, "max": 4,
        }.items()
    }  # fmt: skip
    columns = {
        "feature": np.arange(low, high, dtype=np.uint32),
        "score": arrow.repeated("direction", n),
        "head": np.zeros(n, np.uint16),
        **drawn,
    }
    return arrow.rows(tables.LOGIT_STATS.schema(), columns)


def _neighbours(low: int, high: int, features: int) -> pa.Table:
    rng, n, each = np.random.default_rng((4, low)), high - low, 2 * ALIKE
    methods = pa.array(["dec_cos", "enc_cos"]).take(np.tile(np.repeat([0, 1], ALIKE), n))
    columns = {
        "feature": np.repeat(np.arange(low, high, dtype=np.uint32), each),
        "method": methods,
        "rank": np.tile(np.arange(ALIKE, dtype=np.uint16), 2 * n),
        "neighbour": rng.integers(0, features, n * each).astype(np.uint32),
        "score": -np.sort(-rng.beta(2, 8, (n, 2, ALIKE)), axis=2).astype(np.float32).ravel(),
    }
    return arrow.rows(tables.NEIGHBOURS.schema(), columns)
