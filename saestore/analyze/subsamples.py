"""Which contexts are shown for each feature: one function for each kind of subsample.

Every function returns rows sorted by (feature, stratum, rank), with at most n in a stratum; if
fewer are eligible all are returned. "Random" is the order of `saestore.analyze.order`.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt32

from saestore.analyze import segments
from saestore.analyze.block import FeatureBlock
from saestore.analyze.negative_loops import near_others, on_token
from saestore.analyze.negatives import Negatives
from saestore.analyze.order import sample_offsets
from saestore.analyze.scope import Scope
from saestore.analyze.segment_loops import first_free, smallest_of_runs
from saestore.analyze.top_tokens import top_tokens
from saestore.dictionaries.selection_loops import on_threads
from saestore_schemas.analyze import (
    IntervalSubsample,
    NearSubsample,
    ProportionSubsample,
    QuantileSubsample,
    SameTokenSubsample,
    SilentSubsample,
    Subsample,
    TopSubsample,
    UniformSubsample,
)


_A_THREAD = 64
"""Features that are worth another thread."""


@dataclass(frozen=True)
class Chosen:
    """The contexts chosen for every feature of a block.

    Attributes:
        feature: Feature within the block.
        stratum: Stratum.
        rank: Rank inside the stratum.
        context: Context.
        pair: Index into the block's peaks; -1 where the feature is silent.
        position: What is shown of the context: the feature's peak, or what makes it a negative.
        n_eligible: Contexts that the stratum was drawn from.
    """

    feature: Int64[np.ndarray, " example"]
    stratum: Int64[np.ndarray, " example"]
    rank: Int64[np.ndarray, " example"]
    context: UInt32[np.ndarray, " example"]
    pair: Int64[np.ndarray, " example"]
    position: Int64[np.ndarray, " example"]
    n_eligible: Int64[np.ndarray, " example"]


@dataclass(frozen=True)
class Asked:
    """Of what contexts are chosen.

    Attributes:
        block: The features.
        scope: The rows analysed.
        negatives: What hard negatives are found with.
    """

    block: FeatureBlock
    scope: Scope
    negatives: Negatives


def choose(subsample: Subsample, asked: Asked) -> Chosen:
    """Return the contexts that a subsample chooses for each feature of a block."""
    return _KINDS[subsample.kind](subsample, asked)


def _top(subsample: TopSubsample, asked: Asked) -> Chosen:
    peaks = asked.block.peaks
    return _smallest(~segments.as_keys(peaks.strength), peaks.offsets, subsample.n, asked.block)


def _uniform(subsample: UniformSubsample, asked: Asked) -> Chosen:
    return _smallest(_random(asked), asked.block.peaks.offsets, subsample.n, asked.block)


def _quantile(subsample: QuantileSubsample, asked: Asked) -> Chosen:
    block = asked.block
    peaks, q = block.peaks, subsample.q
    ascending = segments.order_within(segments.as_keys(peaks.strength), peaks.offsets)
    # number i of n is of stratum i q // n: of stratum s are those from ceil(s n / q) on
    counts = np.diff(peaks.offsets)
    within = -(-np.arange(q) * counts[:, None] // q)
    offsets = np.append((peaks.offsets[:-1, None] + within).reshape(-1), peaks.offsets[-1])
    return _smallest(_random(asked), offsets, subsample.n, block, strata=q, pairs=ascending)


def _interval(subsample: IntervalSubsample, asked: Asked) -> Chosen:
    block = asked.block
    peaks, q = block.peaks, subsample.q
    most = np.repeat(block.maxima.astype(np.float64), np.diff(peaks.offsets))
    stratum = np.zeros(len(peaks.strength), np.int64)
    for part in range(1, q):
        stratum += peaks.strength > most * part / q
    run = segments.run_of(peaks.offsets) * q + stratum
    by_run = np.argsort(run, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(run, minlength=block.n * q))])
    return _smallest(_random(asked), offsets, subsample.n, block, strata=q, pairs=by_run)


def _proportion(subsample: ProportionSubsample, asked: Asked) -> Chosen:
    block = asked.block
    peaks = block.peaks
    limit = np.repeat(block.maxima.astype(np.float64), np.diff(peaks.offsets)) * subsample.p
    weak = peaks.strength <= limit
    offsets = np.concatenate([[0], np.cumsum(segments.totals(weak, peaks.offsets))])
    keys = ~segments.as_keys(peaks.strength)
    firing = _smallest(keys, offsets, subsample.n, block, pairs=np.flatnonzero(weak))
    if not subsample.include_silent:
        return firing
    total = asked.scope.n_contexts
    free = total - np.diff(peaks.offsets)
    found = np.minimum(np.diff(offsets), subsample.n)
    wanted = np.minimum(free, subsample.n - found)
    place, ends = first_free(peaks.context, peaks.offsets, wanted, total)
    feature, rank = segments.run_of(ends), segments.rank_within(ends)
    eligible = np.diff(offsets) + free
    parts = [
        replace(firing, n_eligible=eligible[firing.feature]),
        Chosen(
            feature=feature,
            stratum=np.zeros(len(feature), np.int64),
            rank=rank + found[feature],
            context=place.astype(np.uint32),
            pair=np.full(len(feature), -1, np.int64),
            position=np.zeros(len(feature), np.int64),
            n_eligible=eligible[feature],
        ),
    ]
    by_feature = np.argsort(np.concatenate([each.feature for each in parts]), kind="stable")
    return Chosen(
        *(
            np.concatenate([getattr(each, field.name) for each in parts])[by_feature]
            for field in fields(Chosen)
        )
    )


def _silent(subsample: SilentSubsample, asked: Asked) -> Chosen:
    """Choose the first n places of the random order that no firing context occupies."""
    block, scope = asked.block, asked.scope
    offsets, total = block.peaks.offsets, scope.n_contexts
    free = total - np.diff(offsets)
    wanted = np.minimum(free, subsample.n)
    place, ends = first_free(_random(asked), offsets, wanted, total)
    feature, rank = segments.run_of(ends), segments.rank_within(ends)
    start = _starts(asked)
    context_at = np.empty(total, np.uint32)
    context_at[scope.shuffle_rank] = np.arange(total, dtype=np.uint32)
    return Chosen(
        feature=feature,
        stratum=np.zeros(len(feature), np.int64),
        rank=rank,
        context=context_at[(place + start[feature]) % total],
        pair=np.full(len(feature), -1, np.int64),
        position=np.zeros(len(feature), np.int64),
        n_eligible=free[feature],
    )


def _near(subsample: NearSubsample, asked: Asked) -> Chosen:
    """Choose contexts of the nearest other features in which the feature never fires."""
    block, known = asked.block, asked.negatives
    if known.alike is None or known.contexts is None:
        raise ValueError("near asks for features that are like each, and where all of them fire")
    others = known.alike.others(subsample, slice(block.first, block.first + block.n))
    everywhere = known.contexts
    return _negatives(
        near_others,
        (block.peaks.offsets, block.peaks.context),
        (everywhere.ends, everywhere.context, everywhere.position),
        (subsample.n, others, _starts(asked), asked.scope.shuffle_rank),
        asked,
    )


def _same_token(subsample: SameTokenSubsample, asked: Asked) -> Chosen:
    """Choose contexts that hold the feature's top token where it does not fire."""
    block, scope, known = asked.block, asked.scope, asked.negatives.tokens
    if known is None:
        raise ValueError("same_token asks for the contexts that hold each token")
    tokens = np.asarray(scope.tokens), np.asarray(scope.kept)
    token, _ = top_tokens(block, scope)
    return _negatives(
        on_token,
        (block.offsets, block.context, block.position),
        (scope.start, scope.length, *tokens, known.ends, known.places, known.order),
        (subsample.n, token.astype(np.int64), _starts(asked)),
        asked,
    )


def _negatives(
    loop: Callable[..., None], own: Any, places: Any, wanted: tuple[Any, ...], asked: Asked
) -> Chosen:
    """Choose contexts by a loop over features, for each at most the first of what is wanted."""
    block, n = asked.block, int(wanted[0])
    found, eligible = np.zeros(block.n, np.int64), np.zeros(block.n, np.int64)
    shape = block.n, n
    context, position = np.zeros(shape, np.uint32), np.zeros(shape, np.uint16)
    out = found, eligible, context, position

    def work(first: int, stop: int) -> None:
        loop(first, stop, own, places, wanted, out)

    on_threads(work, block.n, least=_A_THREAD)
    rank = segments.rank_within(np.concatenate([[0], np.cumsum(found)]))
    feature = np.repeat(np.arange(block.n), found)
    chosen = context[feature, rank]
    return Chosen(
        feature=feature,
        stratum=np.zeros(len(feature), np.int64),
        rank=rank,
        context=chosen,
        pair=_pairs(block, feature, chosen),
        position=position[feature, rank].astype(np.int64),
        n_eligible=eligible[feature],
    )


def _pairs(
    block: FeatureBlock, feature: Int64[np.ndarray, " _"], context: UInt32[np.ndarray, " _"]
) -> Int64[np.ndarray, " _"]:
    """Return where in the block's peaks each feature's context is; -1 where the feature is silent."""
    peaks = block.peaks
    high = np.uint64(32)
    known = (segments.run_of(peaks.offsets).astype(np.uint64) << high) | peaks.context
    wanted = (feature.astype(np.uint64) << high) | context
    at = np.searchsorted(known, wanted)
    there = np.append(known, np.uint64(2**64 - 1))[at] == wanted
    return np.where(there, at, -1)


def _starts(asked: Asked) -> Int64[np.ndarray, " feature"]:
    """Return where each feature's random order starts."""
    block, scope = asked.block, asked.scope
    starts = sample_offsets(block.first, block.n, contexts=scope.n_contexts, seed=scope.seed)
    return starts.astype(np.int64)


def _random(asked: Asked) -> UInt32[np.ndarray, " pair"]:
    """Return the place of each pair's context in its feature's random order."""
    peaks, scope = asked.block.peaks, asked.scope
    place: np.ndarray = scope.shuffle_rank[peaks.context].astype(np.int64)
    place -= np.repeat(_starts(asked), np.diff(peaks.offsets))
    place %= max(scope.n_contexts, 1)
    return place.astype(np.uint32)


def _smallest(
    keys: UInt32[np.ndarray, " pair"],
    offsets: Int64[np.ndarray, " _"],
    n: int,
    block: FeatureBlock,
    *,
    strata: int = 1,
    pairs: Int64[np.ndarray, " _"] | None = None,
) -> Chosen:
    """Return the n pairs of smallest key of each run.

    Args:
        keys: Of all pairs.
        offsets: Ends of the runs, features times strata.
        n: How many of a run.
        block: The features.
        strata: Strata of a feature.
        pairs: What stands in the runs; absent, all pairs in order.
    """
    found, ends = smallest_of_runs(keys if pairs is None else keys[pairs], offsets, n)
    pair = found if pairs is None else pairs[found]
    run = segments.run_of(ends)
    return Chosen(
        feature=run // strata,
        stratum=run % strata,
        rank=segments.rank_within(ends),
        context=block.peaks.context[pair],
        pair=pair,
        position=block.peaks.position[pair].astype(np.int64),
        n_eligible=np.diff(offsets)[run],
    )


_KINDS: dict[str, Callable[..., Chosen]] = {
    "top": _top,
    "quantile": _quantile,
    "uniform": _uniform,
    "silent": _silent,
    "proportion": _proportion,
    "interval": _interval,
    "near": _near,
    "same_token": _same_token,
}
"""Subsample kind to the function that chooses."""
