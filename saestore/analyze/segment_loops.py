"""The order of the elements of each run, as a compiled loop.

It goes by one byte of the keys after the other, without comparing: equal ones stay as they stand, and the time
of an element does not grow with the length of its run.
"""

from typing import Any

import numpy as np
from jaxtyping import Int64, UInt32

from saestore.compiled import compiled
from saestore.dictionaries.selection_loops import on_threads


_A_THREAD = 1 << 16
"""Fewer elements than this are not worth another thread."""

_BYTES, _VALUES = 4, 256
"""Bytes of a key, and what each may be."""


def order_runs(
    keys: UInt32[np.ndarray, " _"], offsets: Int64[np.ndarray, " _"]
) -> Int64[np.ndarray, " _"]:
    """Return the indices that put each run in ascending order, ties as they stand.

    Args:
        keys: The keys.
        offsets: Ends of the runs, from 0. Each costs as much as some hundred elements.
    """
    keys, order = keys.copy(), np.arange(len(keys))

    def work(first: int, stop: int) -> None:
        begin, end = np.searchsorted(offsets[:-1], (first, stop)).tolist()
        _order(keys, order, offsets[begin : end + 1])

    on_threads(work, int(offsets[-1]), least=_A_THREAD)
    return order


@compiled
def _order(keys: Any, order: Any, offsets: Any) -> None:
    longest = 0
    for run in range(len(offsets) - 1):
        longest = max(longest, offsets[run + 1] - offsets[run])
    room = np.empty(longest, np.uint32), np.empty(longest, np.int64)
    counts = np.zeros((_BYTES, _VALUES), np.int64)
    for run in range(len(offsets) - 1):
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
