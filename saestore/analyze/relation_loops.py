"""Counting what fires with what, as compiled loops: features with tokens, features with features.

One feature at a time is counted into arrays as long as the vocabulary or the dictionary, small enough
for a processor's cache, so neither features times tokens nor features times features ever exists.
Sums are added firing after firing in stored order, in float64: threads, which take features each, and
blocks change nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int8, Int64, UInt32

from saestore.analyze.block import FeatureBlock
from saestore.analyze.scope import Scope
from saestore.compiled import compiled, prefetch
from saestore.dictionaries.selection_loops import on_threads


SHIFTS = (-1, 0, 1)
"""Where a token is, from a firing."""

_A_THREAD = 1 << 14
"""Fewer firings than this are not worth another thread."""

_LINE = 16
"""Firings in one line of a cache, in a column of 4 bytes."""
_SOON, _LATER = 8, 16
"""Rows lie anywhere: the firings of the eighth one from now are asked for, and where those of the sixteenth lie."""

_ROUNDING = 1e-9
"""More than rounding does to a correlation."""

_UNSEEN = 64
"""Sums of what is not wanted: enough that none is waited for."""

_FEW = 4
"""A feature that meets fewer than one in so many does not look at all of them."""

_LISTS = (2, 3, 2)
"""Rankings by which tokens are kept at each shift: by n and sum, and of the token itself by lift."""


@dataclass(frozen=True)
class TokenCounts:
    """Tokens kept for the features of a block, by feature, shift, n descending, token.

    Attributes:
        feature: Feature within the block.
        shift: Where the token is.
        token: The token.
        n: Firings with it.
        sum: Sum of their values.
        max: Largest of them.
    """

    feature: Int64[np.ndarray, " _"]
    shift: Int8[np.ndarray, " _"]
    token: Int64[np.ndarray, " _"]
    n: Int64[np.ndarray, " _"]
    sum: Float64[np.ndarray, " _"]
    max: Float32[np.ndarray, " _"]


def tokens_of(block: FeatureBlock, scope: Scope, *, top_k: int, min_n: int) -> TokenCounts:
    """Return the tokens that each feature of a block fires on, before and after.

    Args:
        block: The features.
        scope: The rows analysed.
        top_k: Tokens kept by each ranking.
        min_n: Fewest firings on a token that is kept by its lift.
    """
    room = np.minimum(np.array(_LISTS) * top_k, block.counts[:, None]).reshape(-1)
    ends = np.concatenate([[0], np.cumsum(room)])
    found = [np.zeros(ends[-1], kind) for kind in (np.int64, np.int64, np.float64, np.float32)]
    held = np.zeros(len(room), np.int64)
    _by_firings(
        _tokens,
        (block.offsets, block.context, block.position, block.value),
        (scope.start, np.asarray(scope.tokens), np.asarray(scope.joined), scope.rows_of_token),
        (top_k, min_n, max(scope.n_rows, 1)),
        (ends, held, *found),
    )
    used = np.repeat(ends[:-1], held) + _places(held)
    which = np.repeat(np.arange(len(room)), held)
    return TokenCounts(
        which // len(SHIFTS),
        np.array(SHIFTS, np.int8)[which % len(SHIFTS)],
        *(each[used] for each in found),
    )


@dataclass(frozen=True)
class JointCounts:
    """Features kept for those of a block, by feature, then rank.

    Attributes:
        feature: Feature within the block.
        rank: Rank by phi, then by the other feature.
        other: The other feature.
        both: Rows on which both fire.
        product: Sum over them of value times value.
    """

    feature: Int64[np.ndarray, " _"]
    rank: Int64[np.ndarray, " _"]
    other: Int64[np.ndarray, " _"]
    both: Int64[np.ndarray, " _"]
    product: Float64[np.ndarray, " _"]


@dataclass(frozen=True)
class JointRows:
    """Rows whose firings are counted together.

    Attributes:
        n_rows: Kept rows among them.
        ends: Where the firings of each row end, from 0.
        feature: Feature of each firing, row after row.
        value: Its value.
        counts: Firings of each feature.
    """

    n_rows: int
    ends: Int64[np.ndarray, " _"]
    feature: UInt32[np.ndarray, " firing"]
    value: Float32[np.ndarray, " firing"]
    counts: Int64[np.ndarray, " d_sae"]


def together(
    block: tuple[
        Int64[np.ndarray, " _"], Int64[np.ndarray, " firing"], Float32[np.ndarray, " firing"]
    ],
    first: int,
    rows: JointRows,
    *,
    top_k: int,
    min_both: int,
) -> JointCounts:
    """Return the features that fire with each feature of a block.

    Args:
        block: Ends of the features' runs, from 0, and the row and value of each firing.
        first: First feature of the block.
        rows: All firings of these rows.
        top_k: Features kept.
        min_both: Fewest rows on which both fire.
    """
    n = len(block[0]) - 1
    room = np.minimum(top_k, np.where(np.diff(block[0]) < min_both, 0, top_k))
    ends = np.concatenate([[0], np.cumsum(room)])
    found = [np.zeros(ends[-1], kind) for kind in (np.int64, np.int64, np.float64)]
    held = np.zeros(n, np.int64)
    _by_firings(
        _together,
        block,
        (rows.ends, rows.feature, rows.value, rows.counts),
        (first, top_k, min_both, rows.n_rows),
        (ends, held, *found),
    )
    rank = _places(held)
    used = np.repeat(ends[:-1], held) + rank
    return JointCounts(np.repeat(np.arange(n), held), rank, *(each[used] for each in found))


def best_of_runs(
    ends: Int64[np.ndarray, " _"],
    scores: Float32[np.ndarray, " pair"],
    names: Int64[np.ndarray, " pair"],
    *,
    k: int,
) -> tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, " _"], Int64[np.ndarray, " _"]]:
    """Return the run, the rank and the place of the k pairs of largest score in each run, ties by name.

    Args:
        ends: Ends of the runs, from 0.
        scores: Score of each pair.
        names: What decides between equal scores: the smaller one is first.
        k: Pairs of each run, fewer where it has not so many.
    """
    held = np.minimum(np.diff(ends), k)
    out = np.empty(int(held.sum()), np.int64)
    _best(ends, scores, names, k, out)
    return np.repeat(np.arange(len(held)), held), _places(held), out


def _by_firings(loop: Callable[..., None], block: Any, *more: Any) -> None:
    """Run a loop over features on all threads, each with as many firings as the others."""
    offsets = block[0]

    def work(first: int, stop: int) -> None:
        begin, end = np.searchsorted(offsets[:-1], (first, stop)).tolist()
        loop(begin, end, block, *more)

    on_threads(work, int(offsets[-1]), least=_A_THREAD)


def _places(held: Int64[np.ndarray, " _"]) -> Int64[np.ndarray, " _"]:
    """Return 0 to n - 1 for each n."""
    found: np.ndarray = np.arange(held.sum()) - np.repeat(np.cumsum(held) - held, held)
    return found


@compiled
def _offer(
    scores: Float64[np.ndarray, " _"],
    names: Int64[np.ndarray, " _"],
    held: int,
    k: int,
    score: float,
    name: int,
) -> int:
    """Put a score in its place among the best k, ties by name; return how many there are."""
    at = held
    if held == k:
        at = k - 1
        if score < scores[at] or (score == scores[at] and name > names[at]):
            return held
    while at > 0 and (score > scores[at - 1] or (score == scores[at - 1] and name < names[at - 1])):
        scores[at], names[at] = scores[at - 1], names[at - 1]
        at -= 1
    scores[at], names[at] = score, name
    return min(held + 1, k)


@compiled
def _best(ends: Any, scores: Any, names: Any, k: int, out: Any) -> None:
    best, found, place = np.zeros(k), np.zeros(k, np.int64), 0
    for run in range(len(ends) - 1):
        held = 0
        for at in range(ends[run], ends[run + 1]):
            if held == k and scores[at] < best[k - 1]:
                continue
            held = _offer(best, found, held, k, scores[at], names[at] << 32 | at - ends[run])
        for rank in range(held):
            out[place] = ends[run] + (found[rank] & 0xFFFFFFFF)
            place += 1


@compiled
def _tokens(first: int, stop: int, firings: Any, rows: Any, wanted: Any, out: Any) -> None:
    offsets, context, position, value = firings
    starts, tokens, joined, rows_of_token = rows
    top_k, min_n, n_rows = wanted
    ends, held, out_token, out_n, out_sum, out_max = out
    size = len(rows_of_token)
    n, total, most = np.zeros(size, np.int64), np.zeros(size), np.zeros(size, np.float32)
    touched = np.zeros(size, np.int64)
    scores, names = np.zeros((4, 3 * top_k)), np.zeros((4, 3 * top_k), np.int64)
    for feature in range(first, stop):
        low, high = offsets[feature], offsets[feature + 1]
        for shift in range(-1, 2):
            seen = 0
            for firing in range(low, high):
                row = starts[context[firing]] + position[firing]
                if shift < 0 and not joined[row]:
                    continue
                if shift > 0 and (row + 1 == len(tokens) or not joined[row + 1]):
                    continue
                token = tokens[row + shift]
                if n[token] == 0:
                    touched[seen] = token
                    seen += 1
                n[token] += 1
                total[token] += value[firing]
                most[token] = max(most[token], abs(value[firing]))
            of_lift = (high - low) / n_rows if shift == 0 else 0.0
            counts = n, total, rows_of_token
            kept = _kept(touched, seen, counts, of_lift, min_n, top_k, scores, names)
            place = 3 * feature + shift + 1
            held[place] = kept
            for at in range(kept):
                token = names[3, at]
                out_token[ends[place] + at], out_n[ends[place] + at] = token, n[token]
                out_sum[ends[place] + at], out_max[ends[place] + at] = total[token], most[token]
            for at in range(seen):
                token = touched[at]
                n[token], total[token], most[token] = 0, 0.0, 0.0


@compiled
def _kept(  # noqa: PLR0917 - arrays of one loop
    touched: Any,
    seen: int,
    counts: Any,
    density: float,
    min_n: int,
    top_k: int,
    scores: Any,
    names: Any,
) -> int:
    """Put the tokens that some ranking keeps into the last row of `names`; return how many."""
    n, total, rows_of_token = counts
    kept = 0
    for ranking in range(3 if density > 0 else 2):
        listed = 0
        for at in range(seen):
            token = touched[at]
            score = abs(total[token])
            if ranking == 0:
                score = float(n[token])
            elif ranking == 2:  # noqa: PLR2004 - the third
                if n[token] < min_n:
                    continue
                score = n[token] / rows_of_token[token] / density
            listed = _offer(scores[ranking], names[ranking], listed, top_k, score, token)
        for at in range(listed):
            token = names[ranking, at]
            known = False
            for other in range(kept):
                known = known or names[3, other] == token
            if not known:
                kept = _offer(scores[3], names[3], kept, 3 * top_k, float(n[token]), token)
    return kept


@compiled
def _together(first: int, stop: int, block: Any, rows: Any, wanted: Any, out: Any) -> None:
    offsets, row, value = block
    starts, others, _, counts = rows
    first_feature, top_k, min_both, n_rows = wanted
    ends, held, out_other, out_both, out_product = out
    both, touched = np.zeros(len(counts), np.int32), np.zeros(len(counts), np.int32)
    scores, names = np.zeros(top_k), np.zeros(top_k, np.int64)
    # What is not kept is added up too, where nobody looks: no branch is as fast.
    slot = (top_k + np.arange(len(counts)) % _UNSEEN).astype(np.uint32)
    product = np.zeros(top_k + _UNSEEN)
    spread = np.sqrt(counts * (n_rows - counts.astype(np.float64)))
    for feature in range(first, stop):
        here, own = (offsets[feature], offsets[feature + 1]), first_feature + feature
        if here[1] - here[0] < min_both:
            continue
        pairs = 0
        for at in range(here[0], here[1]):
            pairs += starts[row[at] + 1] - starts[row[at]]
        few = pairs < len(both) // _FEW
        if few:
            seen = _met(row, here, starts, others, both, touched)
        else:
            seen = _counted(row, here, starts, others, min_both, both, touched)
        both[own] = 0
        kept = _correlated(
            (touched[:seen], both, counts, spread),
            (here[1] - here[0], n_rows, min_both),
            scores,
            names,
        )
        if kept > 0:
            _products(row, value, here, rows, names[:kept], slot, product)
        place = ends[feature]
        for rank in range(kept):
            out_other[place + rank], out_both[place + rank] = names[rank], both[names[rank]]
            out_product[place + rank] = product[rank]
            slot[names[rank]] = top_k + names[rank] % _UNSEEN
        held[feature] = kept
        if few:
            for at in range(seen):
                both[touched[at]] = 0
        else:
            both[:] = 0


@compiled
def _correlated(met: Any, wanted: Any, scores: Any, names: Any) -> int:
    """Put the features of largest phi, of those met often enough, in order; return how many."""
    touched, both, counts, spread = met
    own, n_rows, min_both = wanted
    kept, a = 0, float(own)
    own_spread = np.sqrt(a * (n_rows - a))
    for other in touched:
        if both[other] < min_both:
            continue
        b = float(counts[other])
        above = both[other] * n_rows - a * b
        # roots and quotients take longer than all the rest: most features need none
        if (
            kept == len(scores)
            and above < (scores[kept - 1] - _ROUNDING) * own_spread * spread[other]
        ):
            continue
        room = a * b * (n_rows - a) * (n_rows - b)
        if room > 0:
            kept = _offer(scores, names, kept, len(scores), above / np.sqrt(room), other)
    return kept


@compiled
def _met(row: Any, here: Any, starts: Any, others: Any, both: Any, touched: Any) -> int:
    """Count firings on a feature's rows by feature, and put the features into `touched`; return how many."""
    seen = 0
    for at in range(here[0], here[1]):
        _ask(row, at, starts, others)
        for firing in range(starts[row[at]], starts[row[at] + 1]):
            other = others[firing]
            touched[seen] = other
            seen += both[other] == 0
            both[other] += 1
    return seen


@compiled
def _counted(  # noqa: PLR0917 - arrays of one loop
    row: Any, here: Any, starts: Any, others: Any, least: int, both: Any, touched: Any
) -> int:
    """Likewise for many firings: put into `touched` the features that have `least`."""
    for at in range(here[0], here[1]):
        _ask(row, at, starts, others)
        for firing in range(starts[row[at]], starts[row[at] + 1]):
            both[others[firing]] += 1
    seen = 0
    for other in range(len(both)):
        touched[seen] = other
        seen += both[other] >= least
    return seen


@compiled
def _ask(row: Any, at: int, starts: Any, column: Any) -> None:
    """Ask for what is looked at some rows on, of the next feature too."""
    if at + _LATER < len(row):
        prefetch(starts, row[at + _LATER])
        begin, end = starts[row[at + _SOON]], starts[row[at + _SOON] + 1]
        for firing in range(begin, end, _LINE):
            prefetch(column, firing)
        prefetch(column, end - 1)


@compiled
def _products(  # noqa: PLR0917 - arrays of one loop
    row: Any, value: Any, here: Any, rows: Any, names: Any, slot: Any, product: Any
) -> None:
    """Add up value times value with some features: few pairs are kept of those counted."""
    starts, others, values, _ = rows
    for rank in range(len(names)):
        slot[names[rank]], product[rank] = rank, 0.0
    for at in range(here[0], here[1]):
        _ask(row, at, starts, others)
        _ask(row, at, starts, values)
        given = np.float64(value[at])
        for firing in range(starts[row[at]], starts[row[at] + 1]):
            product[slot[others[firing]]] += given * values[firing]
