"""Memory that rows are kept in, and how rows move into it and out of it.

Rows of a store are some hundred bytes to a few KiB. Moved to random places one by one, they are
bound by memory's latency and by fetching what is about to be overwritten; the compiled loops here
store past the caches where rows allow it, and hold no lock of the interpreter.
`python -m benchmarks stream` measures what comes of it.
"""

import mmap

import numpy as np
from jaxtyping import Int64, Shaped, UInt8

from saestore.compiled import STREAMED, compiled, stream_copy, stream_end


_HUGE = 4 << 20
"""Bytes from which memory is taken in huge pages, where the system has them."""


def pages(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Shaped[np.ndarray, "..."]:
    """Return an array of zeros that begins at a page.

    numpy's own memory begins 16 bytes behind one, where some processors receive a file's bytes at
    half speed. Pages come when they are first touched, from the system, and go back to it with the
    array.
    """
    count = int(np.prod(shape, dtype=int))
    length = dtype.itemsize * count
    if not hasattr(mmap, "MAP_PRIVATE"):  # Windows
        return np.frombuffer(mmap.mmap(-1, max(length, 1)), dtype, count).reshape(shape)
    memory = mmap.mmap(-1, max(length, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if length >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype, count).reshape(shape)


def as_bytes(rows: Shaped[np.ndarray, "row ..."]) -> UInt8[np.ndarray, "row byte"]:
    """Return the bytes of contiguous rows, where they lie."""
    width = rows.itemsize * int(np.prod(rows.shape[1:], dtype=int))
    return rows.reshape(-1).view(np.uint8).reshape(len(rows), width)


def put_rows(
    target: UInt8[np.ndarray, "_ byte"],
    places: Int64[np.ndarray, " row"],
    rows: UInt8[np.ndarray, "row byte"],
) -> None:
    """Copy rows to their places; of rows with the same place, one of them is there afterwards.

    Args:
        target: `as_bytes` of where they go.
        places: Where each row goes; the caller knows that they are inside.
        rows: `as_bytes` of them, as wide as the target.
    """
    if target.shape[1] % STREAMED == 0 and target.ctypes.data % STREAMED == 0:
        _put_streaming(target, places, rows)
    else:
        _put(target, places, rows)


@compiled
def _put_streaming(
    target: UInt8[np.ndarray, "_ byte"],
    places: Int64[np.ndarray, " row"],
    rows: UInt8[np.ndarray, "row byte"],
) -> None:
    width = rows.shape[1]
    to, given = target.ctypes.data, rows.ctypes.data
    for row in range(len(rows)):
        stream_copy(to + places[row] * width, given + row * width, width)
    stream_end()


@compiled
def _put(
    target: UInt8[np.ndarray, "_ byte"],
    places: Int64[np.ndarray, " row"],
    rows: UInt8[np.ndarray, "row byte"],
) -> None:
    for row in range(len(rows)):
        for at in range(rows.shape[1]):
            target[places[row], at] = rows[row, at]
