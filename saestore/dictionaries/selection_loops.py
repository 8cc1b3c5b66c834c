"""Selection on the CPU as compiled loops over rows; `selection` says what each must return.

`torch.topk` sorts what it returns and looks at rows as if nothing were known about them; here a row is scanned
against what the k-th largest of the row before lets expect, and of the few that exceed it the largest are
selected. Rows are shared out to as
many threads as torch uses; what is returned does not depend on their number.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Int32, Int64
from torch import Tensor

from saestore.compiled import compiled


SAMPLE = 1 << 15
"""Scores looked at to guess how large the largest are; a wrong guess costs time only."""

ROWS_A_THREAD = 64
"""Fewer rows than this are not worth another thread."""

STRETCH = 256
"""Rows that one thread counts or sums at least."""

_EXPECTED = 0.85, 0.5
"""The k-th largest of a row is expected above this share of the row's before; what is found does not depend on it."""

Found = tuple[Int64[Tensor, " _"], Int64[Tensor, " firing"]]


def largest(scores: Float[Tensor, "row d_sae"], k: int) -> Found:
    """Return at most k pairs of each row: its largest scores, positive ones only."""
    given = _array(scores)
    indices = np.empty((len(given), k), dtype=np.int64)
    counts = np.empty(len(given), dtype=np.int64)
    on_threads(_largest, len(given), given, indices, counts)
    if (counts == k).all():
        return _tensors(np.arange(0, indices.size + 1, k), indices.reshape(-1))
    places = np.arange(k) < counts[:, None]
    return _tensors(_starts(counts), indices[places])


def largest_in_all(scores: Float[Tensor, "row d_sae"], count: int) -> Found:
    """Return at most `count` pairs: the largest scores of all rows, positive ones only."""
    given = _array(scores)
    if count == 0 or given.size == 0:
        return _tensors(np.zeros(len(given) + 1, dtype=np.int64), np.empty(0, dtype=np.int64))
    limits = np.zeros(given.shape[1], dtype=given.dtype)
    guess = _guess(given, count)
    limits[:] = guess
    starts, indices = _above(given, limits)
    if len(indices) < count and guess > 0:
        limits[:] = 0
        starts, indices = _above(given, limits)
    if len(indices) <= count:
        return _tensors(starts, indices)
    values = np.empty(len(indices), dtype=given.dtype)
    _gather(given, starts, indices, values)
    place = len(values) - count
    limit = np.partition(values, place)[place]
    kept = np.empty(count, dtype=np.int64)
    offsets = np.empty_like(starts)
    _cut(starts, indices, values, limit, offsets, kept)
    return _tensors(offsets, kept)


def above(
    scores: Float[Tensor, "row d_sae"], limits: Float[Tensor, " d_sae"], *, most: int
) -> Found | None:
    """Return the pairs whose score exceeds their feature's limit; None when they are more than `most`."""
    found = _above(_array(scores), _array(limits.to(scores.dtype)), most=most)
    return None if found is None else _tensors(*found)


def firings(activations: Float[Tensor, "row d_sae"]) -> Int64[Tensor, " d_sae"]:
    """Return on how many rows each feature is not zero."""
    given = _array(activations)
    counts = np.zeros((-(-len(given) // STRETCH), given.shape[1]), dtype=np.int32)
    on_threads(_firings, len(counts), given, counts, least=1)
    return torch.from_numpy(counts.sum(axis=0, dtype=np.int64))


def by_feature(
    indices: Int64[Tensor, " firing"], offsets: Int64[Tensor, " _"], d_sae: int
) -> tuple[Int32[Tensor, " firing"], Int32[Tensor, " firing"], Int32[Tensor, " _"]]:
    """Return pairs in order of feature, then row: places, rows, and where each feature's start."""
    starts = np.zeros(d_sae + 1, dtype=np.int32)
    order = np.empty(len(indices), dtype=np.int32)
    sorted_rows = np.empty(len(indices), dtype=np.int32)
    _by_feature(_array(indices), _array(offsets), starts, order, sorted_rows)
    return torch.from_numpy(order), torch.from_numpy(sorted_rows), torch.from_numpy(starts)


def sums(values: Float[Tensor, " firing"], offsets: Int[Tensor, " _"]) -> Float[Tensor, " _"]:
    """Return the sum of each stretch of values, in order."""
    out = values.new_zeros(len(offsets) - 1)
    _sums(_array(values), _array(offsets), out.numpy())
    return out


def _array(tensor: Tensor) -> Any:
    array: Any = tensor.detach().contiguous().numpy()
    return array


def _tensors(offsets: Any, indices: Any) -> Found:
    return torch.from_numpy(offsets), torch.from_numpy(indices)


def _starts(counts: Int64[np.ndarray, " _"]) -> Int64[np.ndarray, " _"]:
    starts = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="selection")


def on_threads(
    work: Callable[..., None], rows: int, *arguments: Any, least: int = ROWS_A_THREAD
) -> None:
    """Call work(first row, row after the last, *arguments) for stretches of rows, side by side."""
    threads = max(1, min(torch.get_num_threads(), rows // least))
    if threads == 1:
        work(0, rows, *arguments)
        return
    ends = [rows * i // threads for i in range(threads + 1)]
    pool = _pool(threads)
    running = [pool.submit(work, start, stop, *arguments) for start, stop in pairwise(ends)]
    for each in running:
        each.result()


def _guess(scores: Float[np.ndarray, "row d_sae"], count: int) -> float:
    """Return a score that about one and a half times `count` scores exceed; 0 when unsure."""
    flat = scores.reshape(-1)
    sample = flat[:: max(1, len(flat) // SAMPLE)]
    # The third term: four standard deviations of how many of the sample are that large.
    expected = len(sample) * count / len(flat)
    place = len(sample) - int(1.5 * expected + 4 * expected**0.5 + 8)
    return float(max(np.partition(sample, place)[place], 0)) if place > 0 else 0.0


def _above(
    scores: Float[np.ndarray, "row d_sae"], limits: Float[np.ndarray, " d_sae"], most: int = -1
) -> Any:
    counts = np.empty(len(scores), dtype=np.int64)
    on_threads(_count_above, len(scores), scores, limits, counts)
    starts = _starts(counts)
    if 0 <= most < starts[-1]:
        return None
    indices = np.empty(starts[-1], dtype=np.int64)
    on_threads(_fill_above, len(scores), scores, limits, starts, indices)
    return starts, indices


@compiled
def _largest(
    first: int,
    stop: int,
    scores: Float[np.ndarray, "row d_sae"],
    indices: Int64[np.ndarray, "row k"],
    counts: Int64[np.ndarray, " row"],
) -> None:
    width, k = scores.shape[1], indices.shape[1]
    places, values = np.empty(width, dtype=np.int64), np.empty(width, dtype=scores.dtype)
    limits = np.zeros(len(_EXPECTED) + 1, dtype=scores.dtype)
    for row in range(first, stop):
        line = scores[row]
        seen = 0
        for attempt in range(len(limits)):
            seen = _exceeding(line, limits[attempt], places)
            if seen >= k:
                break
        for i in range(seen):
            values[i] = line[places[i]]
        least = _number(values, seen, k)
        for i in range(len(_EXPECTED)):
            limits[i] = least * _EXPECTED[i]
        # Of scores equal to the least, the first ones.
        ties = k
        for i in range(seen):
            ties -= values[i] > least
        count = 0
        for i in range(seen):
            score = line[places[i]]
            tied = score == least and ties > 0
            ties -= tied
            if tied or score > least:
                indices[row, count] = places[i]
                count += 1
        counts[row] = count


@compiled
def _exceeding(line: Any, limit: Any, places: Any) -> int:
    """Write where scores exceed a limit, ascending; return how many do."""
    seen = 0
    for feature in range(len(line)):
        places[seen] = feature  # a branch would be guessed wrong as often as it is taken
        seen += line[feature] > limit
    return seen


@compiled
def _number(values: Any, held: int, k: int) -> Any:
    """Return the k-th largest of those held, which it moves about; 0 if they are fewer.

    Source: Hoare, "Algorithm 65: FIND" (1961).
    """
    if held < k:
        return values.dtype.type(0)
    low, high, place = 0, held - 1, k - 1
    while low < high:
        middle, up, down = values[(low + high) // 2], low, high
        while up <= down:
            while values[up] > middle:
                up += 1
            while values[down] < middle:
                down -= 1
            if up <= down:
                values[up], values[down] = values[down], values[up]
                up, down = up + 1, down - 1
        if down < place < up:
            break
        low, high = (low, down) if place <= down else (up, high)
    return values[place]


@compiled
def _count_above(
    first: int,
    stop: int,
    scores: Float[np.ndarray, "row d_sae"],
    limits: Float[np.ndarray, " d_sae"],
    counts: Int64[np.ndarray, " row"],
) -> None:
    for row in range(first, stop):
        count = 0
        for feature in range(scores.shape[1]):
            count += scores[row, feature] > limits[feature]
        counts[row] = count


@compiled
def _fill_above(
    first: int,
    stop: int,
    scores: Float[np.ndarray, "row d_sae"],
    limits: Float[np.ndarray, " d_sae"],
    starts: Int64[np.ndarray, " _"],
    indices: Int64[np.ndarray, " firing"],
) -> None:
    for row in range(first, stop):
        at = starts[row]
        line = scores[row]
        for feature in range(len(line)):
            if line[feature] > limits[feature]:
                indices[at] = feature
                at += 1


@compiled
def _gather(
    scores: Float[np.ndarray, "row d_sae"],
    starts: Int64[np.ndarray, " _"],
    indices: Int64[np.ndarray, " firing"],
    values: Float[np.ndarray, " firing"],
) -> None:
    for row in range(len(starts) - 1):
        for at in range(starts[row], starts[row + 1]):
            values[at] = scores[row, indices[at]]


@compiled
def _cut(
    starts: Int64[np.ndarray, " _"],
    indices: Int64[np.ndarray, " _"],
    values: Float[np.ndarray, " _"],
    limit: np.floating[Any],
    offsets: Int64[np.ndarray, " _"],
    kept: Int64[np.ndarray, " firing"],
) -> None:
    ties = len(kept)
    for at in range(len(values)):
        ties -= values[at] > limit
    count = 0
    offsets[0] = 0
    for row in range(len(starts) - 1):
        for at in range(starts[row], starts[row + 1]):
            tied = values[at] == limit and ties > 0
            if tied:
                ties -= 1
            if tied or values[at] > limit:
                kept[count] = indices[at]
                count += 1
        offsets[row + 1] = count


@compiled
def _firings(
    first: int,
    stop: int,
    activations: Float[np.ndarray, "row d_sae"],
    counts: Int32[np.ndarray, "_ d_sae"],
) -> None:
    for stretch in range(first, stop):
        for row in range(stretch * STRETCH, min((stretch + 1) * STRETCH, len(activations))):
            for feature in range(activations.shape[1]):
                counts[stretch, feature] += activations[row, feature] != 0


@compiled
def _by_feature(
    indices: Int64[np.ndarray, " firing"],
    offsets: Int64[np.ndarray, " _"],
    starts: Int32[np.ndarray, " _"],
    order: Int32[np.ndarray, " firing"],
    sorted_rows: Int32[np.ndarray, " firing"],
) -> None:
    for i in range(len(indices)):
        starts[indices[i] + 1] += 1
    for feature in range(len(starts) - 1):
        starts[feature + 1] += starts[feature]
    following = starts.copy()
    for row in range(len(offsets) - 1):
        for i in range(offsets[row], offsets[row + 1]):
            at = following[indices[i]]
            following[indices[i]] += 1
            order[at] = i
            sorted_rows[at] = row


@compiled
def _sums(
    values: Float[np.ndarray, " firing"],
    offsets: Int[np.ndarray, " _"],
    out: Float[np.ndarray, " _"],
) -> None:
    for at in range(len(out)):
        total = out[at]
        for i in range(offsets[at], offsets[at + 1]):
            total += values[i]
        out[at] = total
