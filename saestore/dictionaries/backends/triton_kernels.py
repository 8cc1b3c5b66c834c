"""Triton kernels for pairs of row and feature; `triton_backend` calls them and says what they are for.

Every sum has one order: a program adds tiles of pairs one after the other, and what several programs
share is written apart and added by a last one. Inputs may be narrower than what is added up. All
sizes are free; blocks are powers of two, and what hangs over is masked.

Triton decides at import, by TRITON_INTERPRET, whether these run as machine code or, slowly and on
any machine, through numpy.
"""

import inspect
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl


def _kernel(function: Callable[..., Any]) -> Any:
    """Return a function as a kernel; a type checker's wrapper around it has no source."""
    return triton.jit(inspect.unwrap(function))


@_kernel
def _weighted_sum(
    values, indices, vectors, start, stop, columns, width,
    TILE: tl.constexpr, WIDE: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Return, at some columns, the sum of vectors weighted with values, of one stretch of pairs."""
    total = tl.zeros([WIDE], SUM)
    inside = columns < width
    for first in range(start, stop, TILE):
        places = first + tl.arange(0, TILE)
        there = places < stop
        which = tl.load(indices + places, mask=there, other=0)
        weights = tl.load(values + places, mask=there, other=0).to(SUM)
        part = tl.load(
            vectors + which[:, None] * width + columns[None, :],
            mask=there[:, None] & inside[None, :],
            other=0,
        ).to(SUM)
        total += tl.sum(weights[:, None] * part, axis=0)
    return total


@_kernel
def bags(
    out, values, indices, vectors, offsets, width,
    TILE: tl.constexpr, WIDE: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Write each bag's weighted sum: one program a bag and block of columns."""
    bag = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    start = tl.load(offsets + bag)
    stop = tl.load(offsets + bag + 1)
    total = _weighted_sum(
        values, indices, vectors, start, stop, columns, width, TILE, WIDE, SUM
    )  # fmt: skip
    tl.store(out + bag * width + columns, total.to(out.dtype.element_ty), mask=columns < width)


@_kernel
def pieces(
    out, parts, values, indices, vectors, offsets, bag_of,
    first_piece, first_part, width, n_bags,
    PIECE: tl.constexpr, TILE: tl.constexpr, WIDE: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Write the sum of each piece of a bag: to `out` where it is the whole bag, else to `parts`."""
    piece = tl.program_id(0).to(tl.int64)
    bag = tl.load(bag_of + piece)
    if bag < n_bags:  # the grid is as large as there may be pieces, not as there are
        before = piece - tl.load(first_piece + bag)
        start = tl.load(offsets + bag) + before * PIECE
        stop = tl.minimum(start + PIECE, tl.load(offsets + bag + 1))
        columns = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
        inside = columns < width
        total = _weighted_sum(
            values, indices, vectors, start, stop, columns, width, TILE, WIDE, SUM
        )  # fmt: skip
        part = tl.load(first_part + bag)
        if tl.load(first_part + bag + 1) == part:
            tl.store(out + bag * width + columns, total.to(out.dtype.element_ty), mask=inside)
        else:
            tl.store(parts + (part + before) * width + columns, total, mask=inside)


@_kernel
def joined(
    out, parts, first_part, width,
    TILE: tl.constexpr, WIDE: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Write the sum of each bag's parts, where it has some."""
    bag = tl.program_id(0).to(tl.int64)
    start = tl.load(first_part + bag)
    stop = tl.load(first_part + bag + 1)
    if stop > start:
        columns = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
        inside = columns < width
        total = tl.zeros([WIDE], SUM)
        for first in range(start, stop, TILE):
            places = first + tl.arange(0, TILE)
            some = tl.load(
                parts + places[:, None] * width + columns[None, :],
                mask=(places < stop)[:, None] & inside[None, :],
                other=0,
            )
            total += tl.sum(some, axis=0)
        tl.store(out + bag * width + columns, total.to(out.dtype.element_ty), mask=inside)


@_kernel
def dots(
    out, rows, indices, vectors, offsets, width,
    TILE: tl.constexpr, WIDE: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Write, for each pair, the product of its row with its vector: one program a row."""
    row = tl.program_id(0).to(tl.int64)
    start = tl.load(offsets + row)
    stop = tl.load(offsets + row + 1)
    for first in range(start, stop, TILE):
        places = first + tl.arange(0, TILE)
        there = places < stop
        which = tl.load(indices + places, mask=there, other=0)
        total = tl.zeros([TILE], SUM)
        for column in range(0, width, WIDE):
            columns = column + tl.arange(0, WIDE)
            inside = columns < width
            mine = tl.load(rows + row * width + columns, mask=inside, other=0).to(SUM)
            theirs = tl.load(
                vectors + which[:, None] * width + columns[None, :],
                mask=there[:, None] & inside[None, :],
                other=0,
            ).to(SUM)
            total += tl.sum(theirs * mine[None, :], axis=1)
        tl.store(out + places, total.to(out.dtype.element_ty), mask=there)


@_kernel
def sums(
    out, values, offsets, TILE: tl.constexpr, SUM: tl.constexpr
):  # fmt: skip
    """Write the sum of each stretch of values: one program a stretch."""
    stretch = tl.program_id(0).to(tl.int64)
    start = tl.load(offsets + stretch)
    stop = tl.load(offsets + stretch + 1)
    total = tl.zeros([TILE], SUM)
    for first in range(start, stop, TILE):
        places = first + tl.arange(0, TILE)
        total += tl.load(values + places, mask=places < stop, other=0).to(SUM)
    tl.store(out + stretch, tl.sum(total, axis=0).to(out.dtype.element_ty))


@_kernel
def count_above(
    counts, scores, limits, stride, width,
    LINES: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Write how many scores exceed the limit of their column: one program a row and block of lines."""
    row = tl.program_id(0).to(tl.int64)
    count = tl.zeros([WIDE], tl.int64)
    for line in range(LINES):
        columns = (tl.program_id(1) * LINES + line) * WIDE + tl.arange(0, WIDE)
        inside = columns < width
        found = tl.load(scores + row * stride + columns, mask=inside, other=0)
        limit = tl.load(limits + columns, mask=inside, other=0)
        count += ((found > limit) & inside).to(tl.int64)
    tl.store(counts + row * tl.num_programs(1) + tl.program_id(1), tl.sum(count, axis=0))


@_kernel
def fill_above(
    indices, offsets, scores, limits, stride, width,
    LINES: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Write the columns whose score exceeds its limit, row by row, ascending: programs as above."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.load(offsets + row * tl.num_programs(1) + tl.program_id(1))
    for line in range(LINES):
        columns = (tl.program_id(1) * LINES + line) * WIDE + tl.arange(0, WIDE)
        inside = columns < width
        found = tl.load(scores + row * stride + columns, mask=inside, other=0)
        limit = tl.load(limits + columns, mask=inside, other=0)
        above = ((found > limit) & inside).to(tl.int64)
        seen = tl.cumsum(above, axis=0)
        tl.store(indices + at + seen - 1, columns.to(tl.int64), mask=above == 1)
        at += tl.sum(above, axis=0)


@_kernel
def maxima(
    out, scores, stride, count,
    TILE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Write the largest of each stretch of `WIDE` scores of a row: one program a row and tile."""
    row = tl.program_id(0).to(tl.int64)
    stretches = tl.program_id(1) * TILE + tl.arange(0, TILE)
    there = stretches < count
    found = tl.load(
        scores + row * stride + stretches[:, None] * WIDE + tl.arange(0, WIDE)[None, :],
        mask=there[:, None],
        other=0,
    )
    tl.store(out + row * count + stretches, tl.max(found, axis=1), mask=there)
