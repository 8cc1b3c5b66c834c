"""What a decoder vector does to the logits, by the direct path: the scores of features and tokens.

    direction_i(t)    = <P d_i, gamma * u_t> - mean over t
    additive_i(t)     = logit_scale_i direction_i(t),  logit_scale_i = mean over firings of value / sigma
    renormalised_i(t) = <P d_i / sigma(d_i) * gamma + beta, u_t> + b_t

d_i is the decoder vector in raw units, u_t the unembedding of token t, gamma and beta the gain and bias of
the final norm, P = I - 11'/d where that norm centres, else I, sigma the scale by which it divides a row.

`direction` is per unit of value / sigma: a row's logits, centred, are the sum of value * direction / sigma
over its features, plus the same for everything else in the residual stream and beta W_U + b. It equals
`W_dec @ W_U` on weights whose norm is folded and whose unembedding is centred, as SAEDashboard shows; raw
weights without gamma give other values. `additive` is the mean of what a feature adds where it fires, in
logits. `renormalised` takes the vector for a row of the residual stream, as llamascopium does: its length is
lost and biases count for every feature, so nothing adds up. A cap on logits comes after all of them.

The mean over tokens is taken out of the unembedding before the product, so adding one vector to
every u_t changes nothing, not even rounding. Scores are computed for a block of features at a time, all
from one product: features times vocabulary never exists.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float, Float32, Float64, Int64, UInt32
from torch import Tensor

from saestore.compiled import compiled
from saestore.dictionaries.selection_loops import on_threads
from saestore.features import arrow
from saestore.lm import FinalNorm, Unembedding
from saestore_schemas import tables
from saestore_schemas.analyze import LogitScore
from saestore_schemas.table import Table


BINS = 50
"""Equal bins of a histogram of scores, from the smallest to the largest."""

BLOCK = 128
"""Features in a block: enough for the matrix product; scores of 49 152 tokens are 25 MB."""

_A_THREAD = 16
"""Fewer features than this are not worth another thread."""

_TOKENS = 8192
"""Unembedding columns prepared at a time in float64."""

_LENGTHS = ("mean", "std", "min", "max")
"""Columns of `logit_stats` that grow with the score."""


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
        scaled: `lo` and `hi` are yet to be multiplied by the feature's logit scale.
    """

    what: str
    lo: Float32[np.ndarray, " feature"]
    hi: Float32[np.ndarray, " feature"]
    counts: UInt32[np.ndarray, "feature bin"]
    scaled: bool = False

    def of(
        self, features: slice, scale: Float64[np.ndarray, " feature"] | None
    ) -> tuple[str, UInt32[np.ndarray, "feature bin"], np.ndarray, np.ndarray]:
        """Return name, counts and ends of some features; zeros where the scale is undefined.

        Args:
            features: Which.
            scale: Their logit scales, NaN where undefined; needed if it is `scaled`.
        """
        lo, hi, counts = self.lo[features], self.hi[features], self.counts[features]
        if not self.scaled or scale is None:
            return self.what, counts, lo, hi
        known = ~np.isnan(scale)
        lo, hi = (times(np.where(known, scale, 0.0), ends) for ends in (lo, hi))
        return self.what, counts * known[:, None].astype(counts.dtype), lo, hi


@dataclass(frozen=True)
class Projection:
    """The unembedding as decoder vectors meet it.

    Attributes:
        weight: P (gamma * (u_t - mean u)), one column a token.
        mean: P (gamma * mean u): what is subtracted.
        norm: The final norm; None without one.
        constant: Logits of a vector of zeros; None where they are not wanted.
    """

    weight: Float[Tensor, "d_model vocab"]
    mean: Float[Tensor, " d_model"]
    norm: FinalNorm | None = None
    constant: Float[Tensor, " vocab"] | None = None

    @classmethod
    def of(cls, unembedding: Unembedding, *, tokens: int, device: torch.device) -> "Projection":
        """Return that of a language model.

        Args:
            unembedding: What it does to rows.
            tokens: Columns that count; those beyond pad the matrix: no text can say them.
            device: Where the vectors are.
        """
        columns = unembedding.W_U[:, :tokens]
        bare = projection(columns, unembedding.gain, centred=unembedding.centred)
        constant = unembedding.b_U[:tokens].double()
        if unembedding.norm is not None:
            bias = unembedding.norm.bias.double()
            parts = torch.split(columns, _TOKENS, dim=1)
            constant = constant + torch.cat([bias @ each.double() for each in parts])
        return cls(
            bare.weight.to(device), bare.mean.to(device), unembedding.norm, constant.to(device)
        )

    def renormalised_(
        self,
        scores: Float[Tensor, "feature vocab"],
        block: Float[Tensor, "feature d_model"],
        means: Float[Tensor, " feature"],
    ) -> Float[Tensor, "feature vocab"]:
        """Return the scores `renormalised`, made of `direction` in its place.

        Args:
            scores: Their `direction`.
            block: The vectors.
            means: What was subtracted from each line of the scores.
        """
        sigma = torch.ones_like(means) if self.norm is None else self.norm.scale(block.double())
        scores /= sigma.to(scores)[:, None]
        scores += (means / sigma).to(scores)[:, None]
        if self.constant is not None:
            scores += self.constant.to(scores)
        return scores


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
    scores: Sequence[LogitScore] = ("direction",),
    head: int = 0,
) -> Iterator[LogitRows]:
    """Return pieces of `logits` and `logit_stats`, in order, a block of features at a time.

    Args:
        vectors: Decoder vectors in the residual stream's basis, raw units.
        onto: The projection.
        top_k: Tokens kept at each end.
        scores: Which, by their names in the tables: `renormalised`, and one that is the product itself.
        head: Which head's vectors they are.
    """
    for first in range(0, len(vectors), BLOCK):
        block = vectors[first : first + BLOCK]
        found = block @ onto.weight
        means = block.double() @ onto.mean
        parts = []
        for score in sorted(scores, key=lambda each: each == "renormalised"):  # which overwrites
            if score == "renormalised":
                found = onto.renormalised_(found, block, means)
            given = None if score == "renormalised" else means
            parts.append(_rows(found, given, top_k, first, (score, head)))
        yield together(parts)


def _rows(
    scores: Float[Tensor, "feature vocab"],
    means: Float[Tensor, " feature"] | None,
    top_k: int,
    first: int,
    name: tuple[LogitScore, int],
) -> LogitRows:
    """Return the lines of a block's scores; means are of what was subtracted, None if nothing was."""
    up, down = extreme(scores, top_k, largest=True), extreme(scores, top_k, largest=False)
    held: np.ndarray = scores.float().cpu().numpy()
    lo, hi = (_float32(values[:, 0]) for values, _ in (down, up))
    spread = _distribution(held, None if means is None else means.cpu().numpy())
    return LogitRows(
        _named(tables.LOGITS.schema(), _ends(up, down), first, *name),
        _named(tables.LOGIT_STATS.schema(), {**spread, "min": lo, "max": hi}, first, *name),
        counted(held, lo, hi),
    )


def together(parts: Sequence[LogitRows]) -> LogitRows:
    """Return what is known of the scores of the same features as one, in the order of the tables."""
    if len(parts) == 1:
        return parts[0]
    ends = pa.concat_tables([part.ends for part in parts])
    statistics = pa.concat_tables([part.statistics for part in parts])
    order = _order(tables.LOGIT_STATS, statistics)
    counts = np.concatenate([part.counts for part in parts])
    return LogitRows(
        ends.take(_order(tables.LOGITS, ends)), statistics.take(order), counts[order.to_numpy()]
    )


def heads_together(each: Sequence[Iterator[LogitRows]]) -> Iterator[LogitRows]:
    """Return what `logit_rows` gives of several heads as one, in the order of the tables."""
    for blocks in zip(*each, strict=True):
        yield together(blocks)


def with_additive(
    found: LogitRows, scale: Float64[np.ndarray, " d_sae"], *, of: LogitScore = "direction"
) -> LogitRows:
    """Return lines with those of `additive` among them; none of a feature whose scale is undefined.

    The scale is positive: tokens and ranks are those of the score that is multiplied.

    Args:
        found: The lines of other scores; counts are not needed any more, and not made.
        scale: Logit scale of each feature, NaN where it never fires.
        of: Which score is multiplied.
    """
    added = []
    for lines, columns in ((found.ends, ("value",)), (found.statistics, _LENGTHS)):
        features = lines["feature"].to_numpy()
        mine = (lines["score"].to_numpy(zero_copy_only=False) == of) & ~np.isnan(scale[features])
        own = lines.filter(pa.array(mine))
        for name in ("score", *columns):
            value: Any = arrow.repeated("additive", own.num_rows)
            if name != "score":
                value = pa.array(times(scale[features[mine]], own[name].to_numpy()))
            at = own.schema.get_field_index(name)
            own = own.set_column(at, own.schema.field(at), value)
        added.append(own)
    ends, statistics = (
        pa.concat_tables([lines, own])
        for lines, own in zip((found.ends, found.statistics), added, strict=True)
    )
    return LogitRows(
        ends.take(_order(tables.LOGITS, ends)),
        statistics.take(_order(tables.LOGIT_STATS, statistics)),
        np.zeros((0, BINS), np.uint32),
    )


def times(
    scale: Float64[np.ndarray, " feature"], values: Float32[np.ndarray, " feature"]
) -> Float32[np.ndarray, " feature"]:
    """Return scores times scales, multiplied in float64."""
    return (scale * values.astype(np.float64)).astype(np.float32)


def histograms(
    pieces: Sequence[LogitRows],
    *,
    additive: LogitScore | None = None,
    shown: Collection[LogitScore] | None = None,
) -> tuple[LogitHistogram, ...]:
    """Return the histograms of all features: one of each score, or of each head where there are several.

    Args:
        pieces: What `logit_rows` gives, of all features.
        additive: The score of which `additive` is a multiple; None, that is not wanted.
        shown: Which scores are wanted; None, all.
    """
    lines = pa.concat_tables([piece.statistics for piece in pieces]).combine_chunks()
    counts = np.concatenate([piece.counts for piece in pieces])
    score = lines["score"].to_numpy(zero_copy_only=False)
    lo, hi, head = (np.asarray(lines[column]) for column in ("min", "max", "head"))
    heads = sorted(set(head.tolist()))
    found = []
    for name in sorted(set(score.tolist())):
        for number in heads:
            own = (head == number) & (score == name)
            beside = "" if len(heads) == 1 else f":{number}"
            what = f"logit:{name}{beside}"
            if shown is None or name in shown:
                found.append(LogitHistogram(what, lo[own], hi[own], counts[own]))
            if name == additive:
                what = f"logit:additive{beside}"
                found.append(LogitHistogram(what, lo[own], hi[own], counts[own], scaled=True))
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


def _order(table: Table, lines: pa.Table) -> "pa.Array[Any]":
    """Return which lines of a table come one after the other when it is sorted."""
    order: list[tuple[str, Literal["ascending", "descending"]]] = [
        (name, "descending" if descending else "ascending") for name, descending in table.order
    ]
    return pc.sort_indices(lines, sort_keys=order)


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
    scores: Float32[np.ndarray, "feature vocab"], given: Float64[np.ndarray, " feature"] | None
) -> dict[str, Any]:
    """Return the moments of `logit_stats`, features counted from 0; sums are float64.

    Args:
        scores: The scores.
        given: What was subtracted from each line, which leaves a mean of 0 but for rounding; None if
            nothing was: then moments are around the mean that is found.
    """
    n = len(scores)
    moments = np.zeros((n, 4))
    on_threads(_measure, n, scores, int(given is None), moments, least=_A_THREAD)
    means, second, third, fourth = moments.T
    flat = second == 0
    safe = np.where(flat, 1.0, second)
    undefined = {"skew": third / safe**1.5, "kurtosis": fourth / safe**2}
    return {
        "feature": np.arange(n, dtype=np.uint32),
        "mean": (means if given is None else given).astype(np.float32),
        "std": np.sqrt(second).astype(np.float32),
        **{
            name: arrow.column(value.astype(np.float32), pa.float32(), null=flat)
            for name, value in undefined.items()
        },
    }


@compiled
def _measure(start: int, stop: int, scores: np.ndarray, centred: int, moments: np.ndarray) -> None:
    """Fill in mean, and second to fourth moment around it; around 0 if not `centred`."""
    tokens = scores.shape[1]
    for feature in range(start, stop):
        own = scores[feature]
        mean = 0.0
        if centred:
            for token in range(tokens):
                mean += np.float64(own[token])
            mean /= tokens
        second, third, fourth = 0.0, 0.0, 0.0
        for token in range(tokens):
            away = np.float64(own[token]) - mean
            square = away * away
            second += square
            third += square * away
            fourth += square * square
        moments[feature] = mean, second / tokens, third / tokens, fourth / tokens


def _named(
    schema: pa.Schema, columns: dict[str, Any], first: int, score: LogitScore, head: int
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
