"""What is asked of each run of an array, as compiled loops: its order, its first, its smallest, its parts.

Threads take runs each; none of what they find depends on how many there are.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, Shaped, UInt16, UInt32

from saestore.compiled import compiled
from saestore.dictionaries.selection_loops import on_threads


_A_THREAD = 1 << 16
"""Fewer elements than this are not worth another thread."""
_HALF = np.uint64(32)
"""Bits of the place of an element in its run, below those of its key."""

_BYTES, _VALUES = 4, 256
"""Bytes of a key, and what each may be."""


def order_runs(
    keys: UInt32[np.ndarray, " _"], offsets: Int64[np.ndarray, " _"]
) -> Int64[np.ndarray, " _"]:
    """Return the indices that put each run in ascending order, ties as they stand.

    It goes by one byte of the keys after the other, without comparing: the time of an element does not grow
    with the length of its run.

    Args:
        keys: The keys.
        offsets: Ends of the runs, from 0. Each costs as much as some hundred elements.
    """
    keys, order = keys.copy(), np.arange(len(keys))
    over_runs(_order, offsets, keys, order)
    return order


def smallest_of_runs(
    keys: UInt32[np.ndarray, " _"], offsets: Int64[np.ndarray, " _"], n: int
) -> tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, " _"]]:
    """Return the indices of the n smallest of each run, ascending, ties as they stand, and their ends, from 0.

    Args:
        keys: The keys.
        offsets: Ends of the runs, from 0.
        n: How many; fewer of a run that has not so many.
    """
    ends = np.concatenate([[0], np.cumsum(np.minimum(np.diff(offsets), n))])
    found = np.empty(ends[-1], np.int64)
    over_runs(_smallest, offsets, keys, n, ends, found)
    return found, ends


def first_of_runs(
    wanted: Shaped[np.ndarray, " _"],
    values: Shaped[np.ndarray, " _"],
    offsets: Int64[np.ndarray, " _"],
) -> Int64[np.ndarray, " _"]:
    """Return where each run first holds what is wanted in it; len(values) where it does not.

    Args:
        wanted: What to look for, one for each run.
        values: The elements.
        offsets: Ends of the runs, from 0.
    """
    found = np.full(len(wanted), len(values))
    over_runs(_first, offsets, wanted, values, found)
    return found


def parted(
    context: UInt32[np.ndarray, " firing"],
    position: UInt16[np.ndarray, " firing"],
    strength: Float32[np.ndarray, " firing"],
    offsets: Int64[np.ndarray, " _"],
) -> tuple[Int64[np.ndarray, " _"], tuple[Any, ...]]:
    """Return the parts of each run that are of one context: their ends by run, from 0, and what each is.

    Args:
        context: Ascending in each run.
        position: Ascending in each part.
        strength: What the largest of a part is sought by.
        offsets: Ends of the runs, from 0.

    Returns:
        The ends; of each part the context, where it begins and ends, the largest strength, and its first position.
    """
    counts = np.zeros(len(offsets) - 1, np.int64)
    over_runs(_count_parts, offsets, context, counts)
    ends = np.concatenate([[0], np.cumsum(counts)])
    kinds = np.uint32, np.int64, np.int64, np.float32, np.uint16
    found = tuple(np.empty(ends[-1], kind) for kind in kinds)
    over_runs(_part, offsets, (context, position, strength), ends, found)
    return ends, found


def first_free(
    taken: Shaped[np.ndarray, " _"],
    offsets: Int64[np.ndarray, " _"],
    wanted: Int64[np.ndarray, " _"],
    total: int,
) -> tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, " _"]]:
    """Return the first places of each run that are not taken, and their ends, from 0.

    Args:
        taken: Places that are, in any order.
        offsets: Ends of the runs, from 0.
        wanted: How many places of each run; not more than there are.
        total: How many places there are.
    """
    ends = np.concatenate([[0], np.cumsum(wanted)])
    found = np.empty(ends[-1], np.int64)
    over_runs(_free, offsets, taken, total, ends, found)
    return found, ends


def over_runs(loop: Callable[..., None], offsets: Int64[np.ndarray, " _"], *more: Any) -> None:
    """Run loop(first run, run after the last, offsets, *more) on all threads, each with as many elements."""

    def work(first: int, stop: int) -> None:
        bounds = np.searchsorted(offsets[:-1], (first, stop)).tolist()
        # runs without elements at the end are of the last thread
        begin, end = bounds if stop < offsets[-1] else (bounds[0], len(offsets) - 1)
        loop(begin, end, offsets, *more)

    on_threads(work, int(offsets[-1]), least=_A_THREAD)


@compiled
def _order(first: int, stop: int, offsets: Any, keys: Any, order: Any) -> None:
    longest = 0
    for run in range(first, stop):
        longest = max(longest, offsets[run + 1] - offsets[run])
    room = np.empty(longest, np.uint32), np.empty(longest, np.int64)
    counts = np.zeros((_BYTES, _VALUES), np.int64)
    for run in range(first, stop):
        low, high = offsets[run], offsets[run + 1]
        counts[:] = 0
        for at in range(low, high):
            for byte in range(_BYTES):
                counts[byte, keys[at] >> np.uint32(8 * byte) & np.uint32(255)] += 1
        for byte in range(_BYTES):
            shift = np.uint32(8 * byte)
            if low < high and counts[byte, keys[low] >> shift & np.uint32(255)] < high - low:
                _by_byte(keys[low:high], order[low:high], shift, counts[byte], room)


@compiled
def _by_byte(keys: Any, order: Any, shift: Any, counts: Any, room: Any) -> None:
    """Put a run in the order of one byte, of whose values `counts` says how often each stands there."""
    key_room, order_room = room
    begin = 0
    for value in range(_VALUES):
        counts[value], begin = begin, begin + counts[value]
    for at in range(len(keys)):
        value = keys[at] >> shift & np.uint32(255)
        place = counts[value]
        counts[value] = place + 1
        key_room[place], order_room[place] = keys[at], order[at]
    keys[:] = key_room[: len(keys)]
    order[:] = order_room[: len(keys)]


@compiled
def _smallest(  # noqa: PLR0917 - arrays of one loop
    first: int, stop: int, offsets: Any, keys: Any, n: int, ends: Any, found: Any
) -> None:
    longest = 0
    for run in range(first, stop):
        longest = max(longest, ends[run + 1] - ends[run])
    heap = np.empty(longest, np.uint64)  # the largest of those held is first
    for run in range(first, stop):
        low, held = offsets[run], 0
        for at in range(low, offsets[run + 1]):
            item = np.uint64(keys[at]) << _HALF | np.uint64(at - low)
            if held < n:
                held = _push(heap, held, item)
            elif n > 0 and item < heap[0]:
                _sink(heap, held, item)
        for rank in range(held - 1, -1, -1):
            largest = heap[0]
            _sink(heap, rank, heap[rank])
            found[ends[run] + rank] = low + np.int64(largest & np.uint64(0xFFFFFFFF))


@compiled
def _push(heap: Any, held: int, item: Any) -> int:
    """Add an item to a heap with room for it; return how many it holds."""
    at = held
    while at > 0 and heap[(at - 1) // 2] < item:
        heap[at] = heap[(at - 1) // 2]
        at = (at - 1) // 2
    heap[at] = item
    return held + 1


@compiled
def _sink(heap: Any, held: int, item: Any) -> None:
    """Put an item in the place of the largest of a heap."""
    at, below = 0, 1
    while below < held:
        if below + 1 < held and heap[below + 1] > heap[below]:
            below += 1
        if heap[below] <= item:
            break
        heap[at] = heap[below]
        at, below = below, 2 * below + 1
    heap[at] = item


@compiled
def _first(first: int, stop: int, offsets: Any, wanted: Any, values: Any, found: Any) -> None:
    for run in range(first, stop):
        for at in range(offsets[run], offsets[run + 1]):
            if values[at] == wanted[run]:
                found[run] = at
                break


@compiled
def _count_parts(first: int, stop: int, offsets: Any, context: Any, counts: Any) -> None:
    for run in range(first, stop):
        low, high = offsets[run], offsets[run + 1]
        n = 1 if low < high else 0
        for at in range(low + 1, high):
            n += context[at] != context[at - 1]
        counts[run] = n


@compiled
def _part(first: int, stop: int, offsets: Any, columns: Any, ends: Any, found: Any) -> None:
    context, position, strength = columns
    to_context, begin, end, largest, place = found
    for run in range(first, stop):
        part = ends[run] - 1
        for at in range(offsets[run], offsets[run + 1]):
            if part < ends[run] or context[at] != to_context[part]:
                part += 1
                to_context[part], begin[part] = context[at], at
                largest[part], place[part] = strength[at], position[at]
            elif strength[at] > largest[part]:
                largest[part], place[part] = strength[at], position[at]
            end[part] = at + 1


@compiled
def _free(  # noqa: PLR0917 - arrays of one loop
    first: int, stop: int, offsets: Any, taken: Any, total: int, ends: Any, found: Any
) -> None:
    is_taken = np.zeros(total, np.bool_)
    for run in range(first, stop):
        for at in range(offsets[run], offsets[run + 1]):
            is_taken[taken[at]] = True
        place = -1
        for at in range(ends[run], ends[run + 1]):
            place += 1
            while is_taken[place]:
                place += 1
            found[at] = place
        for at in range(offsets[run], offsets[run + 1]):
            is_taken[taken[at]] = False
