"""The work on pairs by Triton, for CUDA: what torch does badly there.

    bags         a program a row adds decoder rows tile by tile, straight from narrow weights too
    ∂val         one product of a row with each of its vectors; nothing of size d is written
    long bags    by feature. One frequent feature would hold up everything if a program had to add
                 all of its rows: features are cut into pieces of `PIECE` pairs, whose sums are
                 added in order
    above        scores are read twice and nothing else is: no mask, no list of all pairs' rows
    maxima       torch reduces short stretches at an eighth of the memory's speed

The gradients of encoder and decoder are two passes over the same pairs, in an order that is found
once. One pass for both would save reading 12 bytes a pair beside the 4 d it gathers for either, and
would hold the decoder's gradient back until the encoder's is known.

What stays with torch: sorting pairs by feature (a radix sort), and the k largest of a row.
"""

from typing import Any

import torch
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

from saestore.dictionaries.backends import triton_kernels as kernels
from saestore.dictionaries.backends.torch_backend import Chosen, OnCuda, starts_of


PIECE = 64
"""Pairs of one feature that one program adds."""

TILE_ELEMENTS, LARGEST_WIDTH, LARGEST_TILE = 4096, 512, 16
"""Numbers, columns and pairs that a program holds at most: 32 registers a thread."""

STRETCH = 256
"""Values that a program of `sums` holds."""

LINE, LINES = 1024, 8
"""Scores that a program of `above` holds, and how often."""

MAXIMA = 4096
"""Scores that a program of `maxima` holds."""

OPTIONS = {"enable_fp_fusion": True}
"""Of the compiler. Said, because its default changes from release to release."""


class Triton(OnCuda):
    """Bags, their gradients, sums and thresholds as kernels."""

    name = "triton"

    def __init__(self) -> None:
        self._cut: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    @override
    def bags(
        self,
        values: Float[Tensor, " firing"],
        indices: Int[Tensor, " firing"],
        vectors: Float[Tensor, "_ d"],
        offsets: Int[Tensor, " _"],
    ) -> Float[Tensor, "_ d"]:
        """Return each bag's vectors weighted and summed, differentiable in the values."""
        result: Tensor = _Bags.apply(values, indices, vectors, offsets)  # type: ignore[no-untyped-call]
        return result

    @override
    def long_bags(
        self,
        values: Float[Tensor, " firing"],
        indices: Int[Tensor, " firing"],
        vectors: Float[Tensor, "_ d"],
        offsets: Int[Tensor, " _"],
    ) -> Float[Tensor, "_ d"]:
        """Return the same for bags of which some may be very long; without gradient."""
        out, how = _room(values, vectors, offsets)
        n_bags, width = out.shape
        if out.numel() == 0:
            return out
        bag_of, first_piece, first_part = self._pieces(offsets, len(values))
        kind = torch.float64 if how["SUM"] == tl.float64 else torch.float32
        parts = torch.empty(2 * len(values) // PIECE + 1, width, dtype=kind, device=out.device)
        across = -(-width // how["WIDE"])
        vectors = vectors.contiguous()
        kernels.pieces[(len(bag_of), across)](
            out, parts, values.contiguous(), indices.contiguous(), vectors, offsets, bag_of,
            first_piece, first_part, width, n_bags, PIECE=PIECE, **how,
        )  # fmt: skip
        kernels.joined[(n_bags, across)](out, parts, first_part, width, **how)
        return out

    def _pieces(self, offsets: Tensor, pairs: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the bag of each piece, and where each bag's pieces and parts start.

        Kept for the next call: encoder and decoder have the same bags.
        """
        cut = self._cut  # another thread may keep its own meanwhile
        if cut is None or cut[0] is not offsets:
            n_pieces = ((offsets.diff() + PIECE - 1) // PIECE).clamp_(min=1)
            first_piece = starts_of(n_pieces)
            first_part = starts_of(torch.where(n_pieces > 1, n_pieces, 0))
            # How many there are is known on the device only; waiting for it costs more than spare programs.
            every = torch.arange(len(n_pieces) + pairs // PIECE, device=offsets.device)
            bag_of = torch.searchsorted(first_piece[1:], every, right=True)
            self._cut = cut = offsets, bag_of, first_piece, first_part
        return cut[1:]

    @override
    def sums(
        self, values: Float[Tensor, " firing"], offsets: Int[Tensor, " _"]
    ) -> Float[Tensor, " _"]:
        """Return the sum of each stretch of values."""
        out = values.new_empty(len(offsets) - 1)
        if len(out):
            kernels.sums[(len(out),)](
                out, values.contiguous(), offsets, TILE=STRETCH, SUM=_sum_type(values), **OPTIONS
            )
        return out

    @override
    def above(
        self, scores: Float[Tensor, "row d_sae"], limits: Float[Tensor, " d_sae"], *, most: int
    ) -> Chosen | None:
        """Return the pairs whose score exceeds their feature's limit; None when they are too many."""
        rows, width = scores.shape
        scores = scores.detach().to(torch.promote_types(scores.dtype, torch.float32))
        if scores.stride(1) != 1:
            scores = scores.contiguous()
        limits = limits.detach().to(scores.dtype).contiguous()
        blocks = max(1, -(-width // (LINE * LINES)))
        counts = torch.zeros(rows * blocks, dtype=torch.int64, device=scores.device)
        how = {"LINES": LINES, "WIDE": LINE, **OPTIONS}
        lines = (scores.stride(0), width)
        if scores.numel():
            kernels.count_above[(rows, blocks)](counts, scores, limits, *lines, **how)
        offsets = starts_of(counts)
        total = int(offsets[-1])
        if total > most:
            return None
        indices = torch.empty(total, dtype=torch.int64, device=scores.device)
        if total:
            kernels.fill_above[(rows, blocks)](indices, offsets, scores, limits, *lines, **how)
        return offsets[::blocks].contiguous(), indices

    @override
    def maxima(self, scores: Float[Tensor, "row _"], wide: int) -> Float[Tensor, "row _"]:
        """Return the largest of each `wide` scores that lie side by side in a row."""
        rows, count = len(scores), scores.shape[1] // wide
        out = scores.new_empty(rows, count)
        if out.numel():
            tile = max(MAXIMA // wide, 1)
            kernels.maxima[(rows, -(-count // tile))](
                out, scores, scores.stride(0), count, TILE=tile, WIDE=wide, **OPTIONS
            )
        return out


class _Bags(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        values, indices, vectors, offsets = inputs
        vectors = vectors.contiguous()
        ctx.save_for_backward(values, indices, vectors, offsets)
        out, how = _room(values, vectors, offsets)
        if out.numel():
            grid = (len(out), -(-out.shape[1] // how["WIDE"]))
            kernels.bags[grid](
                out, values.contiguous(), indices.contiguous(), vectors, offsets, out.shape[1],
                **how,
            )  # fmt: skip
        return out

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, indices, vectors, offsets = ctx.saved_tensors
        rows = gradients[0].contiguous()
        out = torch.zeros_like(values)
        if out.numel() and rows.numel():
            kernels.dots[(len(rows),)](
                out, rows, indices.contiguous(), vectors, offsets, rows.shape[1],
                **sizes(rows.shape[1], values, vectors),
            )  # fmt: skip
        return out, None, None, None


def _room(values: Tensor, vectors: Tensor, offsets: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """Return memory for a sum of each bag, and the sizes of the programs that fill it."""
    kind = torch.promote_types(values.dtype, vectors.dtype)
    shape = (len(offsets) - 1, vectors.shape[1])
    out = torch.empty(shape, dtype=kind, device=values.device)
    return out, sizes(shape[1], values, vectors)


def sizes(width: int, *inputs: Tensor) -> dict[str, Any]:
    """Return how many pairs and columns a program works on at once, in which type it adds, and how."""
    wide = min(1 << max(width - 1, 0).bit_length(), LARGEST_WIDTH)
    tile = min(TILE_ELEMENTS // wide, LARGEST_TILE)
    return {"TILE": tile, "WIDE": wide, "SUM": _sum_type(*inputs), **OPTIONS}


def _sum_type(*inputs: Tensor) -> Any:
    return tl.float64 if any(each.dtype == torch.float64 for each in inputs) else tl.float32
