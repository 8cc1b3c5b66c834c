"""The `direction` score: what a decoder vector alone does to the logits, by the direct path.

    direction_i(t) = <P d_i, gamma * u_t> - mean over t

d_i is the decoder vector in raw units, u_t the unembedding of token t, gamma the gain of the final
norm, P = I - 11'/d where that norm centres, else I. It is per unit of value / final-norm scale: a
row's logits, centred, are the sum of value * direction / scale over its features, plus the same for
everything else in the residual stream. It equals `W_dec @ W_U` on weights whose norm is folded and
whose unembedding is centred, as SAEDashboard shows; raw weights without gamma give other values.

The mean over tokens is taken out of the unembedding before the product, so adding one vector to
every u_t changes nothing, not even rounding. Scores are computed for a block of features at a time:
features times vocabulary never exists.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Float32, Int64, UInt32
from torch import Tensor

from saestore.compiled import compiled
from saestore.dictionaries.selection_loops import on_threads
from saestore.features import arrow
from saestore_schemas import tables
from saestore_schemas.table import Table


BINS = 50
"""Equal bins of a histogram of scores, from the smallest to the largest."""

_FEATURES = 128
"""Features in a block: enough for the matrix product; scores of 49 152 tokens are 25 MB."""

_A_THREAD = 16
"""Fewer features than this are not worth another thread."""

_TOKENS = 8192
"""Unembedding columns prepared at a time in float64."""


@dataclass(frozen=True)
class LogitRows:
    """What is known of the scores of some features.

    Attributes:
        ends: Their lines of `logits`.
        statistics: Their lines of `logit_stats`.
        counts: Tokens in each bin, a line of each of `statistics`.
    """

    ends: pa.Table
    statistics: pa.Table
    counts: UInt32[np.ndarray, "_ bin"]


@dataclass(frozen=True)
class LogitHistogram:
    """Histograms of one score of all features, for the table `histograms`.

    Attributes:
        what: Their name there.
        lo: Smallest score of each feature.
        hi: Largest.
        counts: Tokens in each of the equal bins between.
    """

    what: str
    lo: Float32[np.ndarray, " feature"]
    hi: Float32[np.ndarray, " feature"]
    counts: UInt32[np.ndarray, "feature bin"]


@dataclass(frozen=True)
class Projection:
    """The unembedding as decoder vectors meet it.

    Attributes:
        weight: P (gamma * (u_t - mean u)), one column a token.
        mean: P (gamma * mean u): what is subtracted.
    """

    weight: Float[Tensor, "d_model vocab"]
    mean: Float[Tensor, " d_model"]


def projection(
    unembedding: Float[Tensor, "d_model vocab"],
    gain: Float[Tensor, " d_model"] | None,
    *,
    centred: bool,
) -> Projection:
    """Return the projection of an unembedding, prepared in float64.

    Args:
        unembedding: W_U; its columns are the tokens that count.
        gain: Gain of the final norm; None if it is folded into W_U or there is none.
        centred: The final norm subtracts the mean over the residual stream (LayerNorm).
    """
    mean = unembedding.mean(dim=1, dtype=torch.float64)
    scale = torch.ones_like(mean) if gain is None else gain.double()

    def seen(columns: Tensor) -> Tensor:
        columns = scale[:, None] * columns
        return columns - columns.mean(dim=0) if centred else columns

    weight = torch.empty_like(unembedding)
    for low in range(0, unembedding.shape[1], _TOKENS):
        columns = unembedding[:, low : low + _TOKENS].double()
        weight[:, low : low + _TOKENS] = seen(columns - mean[:, None]).to(weight.dtype)
    return Projection(weight, seen(mean[:, None])[:, 0])


def logit_rows(
    vectors: Float[Tensor, "d_sae d_model"],
    onto: Projection,
    *,
    top_k: int,
    score: str = "direction",
    head: int = 0,
) -> Iterator[LogitRows]:
    """Return pieces of `logits` and `logit_stats`, in order, a block of features at a time.

    Args:
        vectors: Decoder vectors in the residual stream's basis, raw units.
        onto: The projection.
        top_k: Tokens kept at each end.
        score: Name of the score in the tables.
        head: Which head's vectors they are.
    """
    for first in range(0, len(vectors), _FEATURES):
        block = vectors[first : first + _FEATURES]
        scores = block @ onto.weight
        means = block.double() @ onto.mean
        up, down = extreme(scores, top_k, largest=True), extreme(scores, top_k, largest=False)
        spread = _distribution(scores, (down[0][:, 0], up[0][:, 0]), means)
        yield LogitRows(
            _named(tables.LOGITS.schema(), _ends(up, down), first, score, head),
            _named(tables.LOGIT_STATS.schema(), spread, first, score, head),
            counted(scores.float().cpu().numpy(), spread["min"], spread["max"]),
        )


def heads_together(each: Sequence[Iterator[LogitRows]]) -> Iterator[LogitRows]:
    """Return what `logit_rows` gives of several heads as one, in the order of the tables."""
    if len(each) == 1:
        yield from each[0]
        return
    for blocks in zip(*each, strict=True):
        yield LogitRows(
            _in_order(tables.LOGITS, [block.ends for block in blocks]),
            _in_order(tables.LOGIT_STATS, [block.statistics for block in blocks]),
            # by feature, then by head, as the lines of `logit_stats`
            np.stack([block.counts for block in blocks], axis=1).reshape(-1, BINS),
        )


def histograms(pieces: Sequence[LogitRows]) -> tuple[LogitHistogram, ...]:
    """Return the histograms of all features: one of each score, or of each head where there are several.

    Args:
        pieces: What `logit_rows` gives, of all features.
    """
    lines = pa.concat_tables([piece.statistics for piece in pieces]).combine_chunks()
    counts = np.concatenate([piece.counts for piece in pieces])
    names = sorted(
        {(each["score"], each["head"]) for each in lines.select(["score", "head"]).to_pylist()}
    )
    lo, hi, head = (np.asarray(lines[column]) for column in ("min", "max", "head"))
    found = []
    for score, number in names:
        own = head == number
        what = f"logit:{score}" if len(names) == 1 else f"logit:{score}:{number}"
        found.append(LogitHistogram(what, lo[own], hi[own], counts[own]))
    return tuple(found)


def counted(
    scores: Float32[np.ndarray, "feature vocab"],
    lo: Float32[np.ndarray, " feature"],
    hi: Float32[np.ndarray, " feature"],
) -> UInt32[np.ndarray, "feature bin"]:
    """Return how many scores fall into each of the equal bins from lo to hi; hi is in the last one.

    Bin floor((score - lo) * (50 / (hi - lo))) in float64; the first one where all scores are equal.
    """
    counts = np.zeros((len(scores), BINS), np.uint32)
    on_threads(_count, len(scores), scores, lo, hi, counts, least=_A_THREAD)
    return counts


@compiled
def _count(
    start: int, stop: int, scores: np.ndarray, lo: np.ndarray, hi: np.ndarray, counts: np.ndarray
) -> None:
    bins = counts.shape[1]
    for feature in range(start, stop):
        low = np.float64(lo[feature])
        width = np.float64(hi[feature]) - low
        a_bin = bins / width if width > 0 else 0.0
        own = scores[feature]
        found = np.zeros(bins + 1, np.uint32)
        for token in range(len(own)):
            found[np.uint32((np.float64(own[token]) - low) * a_bin)] += np.uint32(1)
        found[bins - 1] += found[bins]
        counts[feature] = found[:bins]


def _in_order(table: Table, parts: Sequence[pa.Table]) -> pa.Table:
    order: list[tuple[str, Literal["ascending", "descending"]]] = [
        (name, "descending" if descending else "ascending") for name, descending in table.order
    ]
    return pa.concat_tables(parts).sort_by(order)


def extreme(
    scores: Float[Tensor, "feature vocab"], k: int, *, largest: bool
) -> tuple[Float[Tensor, "feature k"], Int64[Tensor, "feature k"]]:
    """Return each row's k largest or smallest scores, extreme first, and their tokens.

    Equal scores stand by token, and of those that tie for the last place the smaller tokens are
    kept. If there are fewer tokens than k, all are returned.
    """
    k = min(k, scores.shape[1])
    values, tokens = scores.topk(min(k + 1, scores.shape[1]), dim=1, largest=largest)
    tied = (values[:, k - 1] == values[:, -1]) & (values.shape[1] > k)
    values, tokens = values[:, :k].clone(), tokens[:, :k].clone()
    for row in tied.nonzero().flatten().tolist():
        # topk may take any of those that tie for the last place
        order = scores[row].sort(descending=largest, stable=True).indices[:k]
        tokens[row], values[row] = order, scores[row, order]
    tokens, order = tokens.sort(dim=1)
    values, order = values.gather(1, order).sort(dim=1, descending=largest, stable=True)
    return values, tokens.gather(1, order)


def _ends(
    up: tuple[Float[Tensor, "feature k"], Int64[Tensor, "feature k"]],
    down: tuple[Float[Tensor, "feature k"], Int64[Tensor, "feature k"]],
) -> dict[str, Any]:
    """Return the columns of `logits` but for score and head, features counted from 0."""
    n, k = up[0].shape
    # sorted by sign: suppressed first
    values, tokens = (torch.stack([b, a], dim=1).reshape(-1) for a, b in zip(up, down, strict=True))
    return {
        "feature": np.repeat(np.arange(n, dtype=np.uint32), 2 * k),
        "sign": np.tile(np.repeat(np.array([-1, 1], np.int8), k), n),
        "rank": np.tile(np.arange(k, dtype=np.uint16), 2 * n),
        "token_id": tokens.cpu().numpy().astype(np.uint32),
        "value": values.float().cpu().numpy(),
    }


def _distribution(
    scores: Float[Tensor, "feature vocab"],
    ends: tuple[Float[Tensor, " feature"], Float[Tensor, " feature"]],
    means: Float[Tensor, " feature"],
) -> dict[str, Any]:
    """Return the columns of `logit_stats` but for score and head, features counted from 0.

    Moments are around the mean, which is 0 but for rounding; sums are float64.
    """
    own: np.ndarray = scores.cpu().numpy()
    n, vocab = own.shape
    power = own * own
    second = power.sum(axis=1, dtype=np.float64) / vocab
    power *= own
    third = power.sum(axis=1, dtype=np.float64) / vocab
    power *= own
    fourth = power.sum(axis=1, dtype=np.float64) / vocab
    flat = second == 0
    safe = np.where(flat, 1.0, second)
    undefined = {"skew": third / safe**1.5, "kurtosis": fourth / safe**2}
    return {
        "feature": np.arange(n, dtype=np.uint32),
        "mean": _float32(means),
        "std": np.sqrt(second).astype(np.float32),
        **{
            name: arrow.column(value.astype(np.float32), pa.float32(), null=flat)
            for name, value in undefined.items()
        },
        "min": _float32(ends[0]),
        "max": _float32(ends[1]),
    }


def _named(
    schema: pa.Schema, columns: dict[str, Any], first: int, score: str, head: int
) -> pa.Table:
    """Return the columns of some features as a table."""
    features = columns["feature"] + np.uint32(first)
    told = {
        "score": arrow.repeated(score, len(features)),
        "head": np.full(len(features), head, np.uint16),
    }
    return arrow.rows(schema, {**columns, **told, "feature": features})


def _float32(values: Float[Tensor, " feature"]) -> np.ndarray:
    found: np.ndarray = values.float().cpu().numpy()
    return found
