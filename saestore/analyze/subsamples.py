"""Which contexts are shown for each feature: one function for each kind of subsample.

Every function returns rows sorted by (feature, stratum, rank), with at most n in a stratum; if
fewer are eligible all are returned. "Random" is the order of `saestore.analyze.order`.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
from jaxtyping import Int64, UInt32

from saestore.analyze import segments
from saestore.analyze.block import FeatureBlock
from saestore.analyze.order import sample_offsets
from saestore.analyze.scope import Scope
from saestore_schemas.analyze import (
    IntervalSubsample,
    ProportionSubsample,
    QuantileSubsample,
    SilentSubsample,
    Subsample,
    TopSubsample,
    UniformSubsample,
)


@dataclass(frozen=True)
class Chosen:
    """The contexts chosen for every feature of a block.

    Attributes:
        feature: Feature within the block.
        stratum: Stratum.
        rank: Rank inside the stratum.
        context: Context.
        pair: Index into the block's peaks; -1 where the feature is silent.
        n_eligible: Contexts that the stratum was drawn from.
    """

    feature: Int64[np.ndarray, " example"]
    stratum: Int64[np.ndarray, " example"]
    rank: Int64[np.ndarray, " example"]
    context: UInt32[np.ndarray, " example"]
    pair: Int64[np.ndarray, " example"]
    n_eligible: Int64[np.ndarray, " example"]


def choose(subsample: Subsample, block: FeatureBlock, scope: Scope) -> Chosen:
    """Return the contexts that a subsample chooses for each feature of a block."""
    return _KINDS[subsample.kind](subsample, block, scope)


def _top(subsample: TopSubsample, block: FeatureBlock, _scope: Scope) -> Chosen:
    peaks = block.peaks
    pair = segments.order_within(~segments.as_keys(peaks.value), peaks.offsets)
    return _first(pair, peaks.offsets, subsample.n, block, strata=1)


def _uniform(subsample: UniformSubsample, block: FeatureBlock, scope: Scope) -> Chosen:
    pair = segments.order_within(_random(block, scope), block.peaks.offsets)
    return _first(pair, block.peaks.offsets, subsample.n, block, strata=1)


def _quantile(subsample: QuantileSubsample, block: FeatureBlock, scope: Scope) -> Chosen:
    peaks, q = block.peaks, subsample.q
    ascending = segments.order_within(segments.as_keys(peaks.value), peaks.offsets)
    counts = np.repeat(np.diff(peaks.offsets), np.diff(peaks.offsets))
    stratum = segments.rank_within(peaks.offsets) * q // np.maximum(counts, 1)
    run = segments.run_of(peaks.offsets) * q + stratum
    sizes = np.bincount(run, minlength=block.n * q)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    order = segments.order_within(_random(block, scope)[ascending], offsets)
    return _first(ascending[order], offsets, subsample.n, block, strata=q)


def _interval(subsample: IntervalSubsample, block: FeatureBlock, scope: Scope) -> Chosen:
    peaks, q = block.peaks, subsample.q
    most = np.repeat(block.maxima.astype(np.float64), np.diff(peaks.offsets))
    stratum = np.zeros(len(peaks.value), np.int64)
    for part in range(1, q):
        stratum += peaks.value > most * part / q
    run = segments.run_of(peaks.offsets) * q + stratum
    by_run = np.argsort(run, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(run, minlength=block.n * q))])
    order = segments.order_within(_random(block, scope)[by_run], offsets)
    return _first(by_run[order], offsets, subsample.n, block, strata=q)


def _proportion(subsample: ProportionSubsample, block: FeatureBlock, scope: Scope) -> Chosen:
    peaks = block.peaks
    limit = np.repeat(block.maxima.astype(np.float64), np.diff(peaks.offsets)) * subsample.p
    weak = peaks.value <= limit
    order = segments.order_within(~segments.as_keys(peaks.value), peaks.offsets)
    offsets = np.concatenate([[0], np.cumsum(segments.totals(weak, peaks.offsets))])
    firing = _first(order[weak[order]], offsets, subsample.n, block, strata=1)
    if not subsample.include_silent:
        return firing
    total = scope.n_contexts
    free = total - np.diff(peaks.offsets)
    found = np.minimum(np.diff(offsets), subsample.n)
    feature, rank, place = _free(
        peaks.context.astype(np.int64), peaks.offsets, np.minimum(free, subsample.n - found), total
    )
    eligible = np.diff(offsets) + free
    parts = [
        replace(firing, n_eligible=eligible[firing.feature]),
        Chosen(
            feature=feature,
            stratum=np.zeros(len(feature), np.int64),
            rank=rank + found[feature],
            context=place.astype(np.uint32),
            pair=np.full(len(feature), -1, np.int64),
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


def _silent(subsample: SilentSubsample, block: FeatureBlock, scope: Scope) -> Chosen:
    """Choose the first n places of the random order that no firing context occupies."""
    offsets, total = block.peaks.offsets, scope.n_contexts
    taken = segments.sorted_within(_random(block, scope), offsets).astype(np.int64)
    free = total - np.diff(offsets)
    feature, rank, place = _free(taken, offsets, np.minimum(free, subsample.n), total)
    start = sample_offsets(block.first, block.n, contexts=total, seed=scope.seed).astype(np.int64)
    context_at = np.empty(total, np.uint32)
    context_at[scope.shuffle_rank] = np.arange(total, dtype=np.uint32)
    return Chosen(
        feature=feature,
        stratum=np.zeros(len(feature), np.int64),
        rank=rank,
        context=context_at[(place + start[feature]) % total],
        pair=np.full(len(feature), -1, np.int64),
        n_eligible=free[feature],
    )


def _free(
    taken: Int64[np.ndarray, " pair"],
    offsets: Int64[np.ndarray, " _"],
    wanted: Int64[np.ndarray, " feature"],
    total: int,
) -> tuple[
    Int64[np.ndarray, " example"], Int64[np.ndarray, " example"], Int64[np.ndarray, " example"]
]:
    """Return the first free places of each feature, as features, ranks from 0 and places.

    With the taken places ascending, place number t less t counts the free places before it; so the
    k-th free place is k plus how many of those counts are at most k.

    Args:
        taken: Places that are not free, ascending inside each feature.
        offsets: Where each feature's end.
        wanted: How many places of each feature; not more than are free.
        total: How many places there are.
    """
    free_before = taken - segments.rank_within(offsets) + segments.run_of(offsets) * (total + 1)
    feature = np.repeat(np.arange(len(wanted)), wanted)
    rank = segments.rank_within(np.concatenate([[0], np.cumsum(wanted)]))
    at_most = np.searchsorted(free_before, feature * (total + 1) + rank, side="right")
    return feature, rank, rank + at_most - offsets[feature]


def _random(block: FeatureBlock, scope: Scope) -> UInt32[np.ndarray, " pair"]:
    """Return the place of each pair's context in its feature's random order."""
    start = sample_offsets(block.first, block.n, contexts=scope.n_contexts, seed=scope.seed)
    place: np.ndarray = scope.shuffle_rank[block.peaks.context].astype(np.int64)
    place -= np.repeat(start.astype(np.int64), np.diff(block.peaks.offsets))
    place %= max(scope.n_contexts, 1)
    return place.astype(np.uint32)


def _first(
    pair: Int64[np.ndarray, " pair"],
    offsets: Int64[np.ndarray, " _"],
    n: int,
    block: FeatureBlock,
    *,
    strata: int,
) -> Chosen:
    """Return the first n pairs of each run, where runs are features times strata."""
    rank = segments.rank_within(offsets)
    kept = rank < n
    run = segments.run_of(offsets)[kept]
    return Chosen(
        feature=run // strata,
        stratum=run % strata,
        rank=rank[kept],
        context=block.peaks.context[pair[kept]],
        pair=pair[kept],
        n_eligible=np.diff(offsets)[run],
    )


_KINDS: dict[str, Callable[..., Chosen]] = {
    "top": _top,
    "quantile": _quantile,
    "uniform": _uniform,
    "silent": _silent,
    "proportion": _proportion,
    "interval": _interval,
}
"""Subsample kind to the function that chooses."""
