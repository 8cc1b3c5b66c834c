"""Sparse products for codes with a few entries a row, and their gradients.

A sparse step needs one dense product, the encoder's. Everything after the selection touches the
selected pairs only. With a pair being (row, feature, value) and δ the gradient of the reconstruction:

    ŷ      = Σ_j val_j W_dec[idx_j]                    a bag of decoder rows
    ∂val_j = δ · W_dec[idx_j]                          the same bag's gradient in its weights
    ∂W_dec[i] = Σ_{pairs of i} val δ_row               a bag of δ rows, pairs sorted by feature
    ∂W_enc[:, i] = Σ_{pairs of i} ∂val x_row           a bag of x rows, the same pairs

`backends` does them, by device. Pairs are sorted by row, then feature, and for the last two by
feature, then row, so every sum has one order and a step is reproducible.

Dense autograd needs five products of the encoder's size; `python -m benchmarks train_step` measures it.
Do not use it when pairs are a large share of all: the bags gather rows one by one.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad
from typing_extensions import override

from saestore.dictionaries import backends, gradients, products
from saestore.dictionaries.backends.torch_backend import ByFeature, row_ids


class Pairs:
    """Which features each row uses, readable by row and by feature.

    Attributes:
        offsets: Where each row's pairs start; one more than there are rows.
        indices: Features, ascending within a row.
        d_sae: Features of the dictionary.
        backend: Who does the work.
    """

    def __init__(
        self, offsets: Int64[Tensor, " _"], indices: Int64[Tensor, " firing"], d_sae: int
    ) -> None:
        self.offsets = offsets
        self.indices = indices
        self.d_sae = d_sae
        # Whoever begins goes on: gradients are asked for later, and in another thread.
        self.backend = backends.of(indices.device)
        self._by_feature: ByFeature | None = None
        self._between: dict[tuple[int, int], tuple[Pairs, Tensor]] = {}

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.indices)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    @property
    def row_ids(self) -> Int64[Tensor, " firing"]:
        """Row of each pair: made anew each time, for it is as large as the pairs."""
        return row_ids(self.offsets, len(self.indices))

    def of(self, matrix: Float[Tensor, "row d_sae"]) -> Float[Tensor, " firing"]:
        """Return a matrix's entries at the pairs."""
        return matrix[self.row_ids, self.indices]

    def by_feature(self) -> ByFeature:
        """Return the pairs' places, their rows, and where each feature's pairs start.

        Sorted by feature, then row.
        """
        if self._by_feature is None:
            self._by_feature = self.backend.by_feature(self.indices, self.offsets, self.d_sae)
        return self._by_feature

    def by_rows(
        self, values: Float[Tensor, " firing"], vectors: Float[Tensor, "d_sae _"]
    ) -> Float[Tensor, "row _"]:
        """Return, for each row, its features' vectors weighted and summed.

        Differentiable in the values.
        """
        return self.backend.bags(values, self.indices, vectors, self.offsets)

    def by_features(
        self, values: Float[Tensor, " firing"], rows: Float[Tensor, "row d"]
    ) -> Float[Tensor, "d_sae d"]:
        """Return, for each feature, the rows that use it weighted and summed; without gradient."""
        order, row_ids, starts = self.by_feature()
        return self.backend.long_bags(values.index_select(0, order), row_ids, rows, starts)

    def gradient(
        self,
        values: Float[Tensor, " firing"],
        rows: Float[Tensor, "row d"],
        place: gradients.Place | None,
    ) -> Float[Tensor, "d_sae d"] | None:
        """Return `by_features` as a gradient for autograd; None when it was added to its place.

        Args:
            values: Weight of each pair.
            rows: What is summed.
            place: Where the gradient is kept; None, nowhere.
        """
        if place is None or self.backend.gradient_bytes is None:
            return self.by_features(values, rows)
        order, row_ids, starts = self.by_feature()
        ordered, ends = values.index_select(0, order), starts.tolist()

        def part(start: int, stop: int) -> Tensor:
            inside, begin = slice(ends[start], ends[stop]), starts[start : stop + 1] - ends[start]
            return self.backend.long_bags(ordered[inside], row_ids[inside], rows, begin)

        place.add(part, max(1, self.backend.gradient_bytes // (rows[0].numel() * rows.itemsize)))
        return None

    def row_sums(self, values: Float[Tensor, " firing"]) -> Float[Tensor, " row"]:
        """Return each row's sum of values, differentiable."""
        result: Tensor = _RowSums.apply(values, self)  # type: ignore[no-untyped-call]
        return result

    def feature_sums(self, values: Float[Tensor, " firing"]) -> Float[Tensor, " d_sae"]:
        """Return each feature's sum of values, differentiable."""
        result: Tensor = _FeatureSums.apply(values, self)  # type: ignore[no-untyped-call]
        return result

    def spread(self, vector: Float[Tensor, " d_sae"]) -> Float[Tensor, " firing"]:
        """Return each pair's entry of a vector over features, differentiable."""
        result: Tensor = _Spread.apply(vector, self)  # type: ignore[no-untyped-call]
        return result

    def between(self, start: int, stop: int) -> tuple["Pairs", Int64[Tensor, " firing"]]:
        """Return the pairs of a range of features, counted from its start, and their places.

        Found once: encoder and decoder of a layer ask for the same ones.
        """
        if (start, stop) not in self._between:
            inside = (self.indices >= start) & (self.indices < stop)
            places = inside.nonzero()[:, 0]
            counted = pad(inside.cumsum(0), (1, 0))
            chosen = Pairs(counted[self.offsets], self.indices[places] - start, stop - start)
            self._between[start, stop] = chosen, places
        return self._between[start, stop]

    @classmethod
    def side_by_side(cls, parts: "Sequence[Pairs]") -> "Pairs":
        """Return the pairs of stretches of features that follow each other, for the same rows."""
        counts = torch.stack([part.offsets.diff() for part in parts], dim=1)
        starts = pad(counts.reshape(-1).cumsum(0), (1, 0))
        cells = starts[:-1].view(counts.shape)
        indices = parts[0].indices.new_empty(sum(map(len, parts)))
        found = cls(starts[:: len(parts)], indices, sum(part.d_sae for part in parts))
        first = 0
        for number, part in enumerate(parts):
            shift = cells[:, number] - part.offsets[:-1]
            places = torch.arange(len(part), device=indices.device) + shift[part.row_ids]
            indices[places] = part.indices + first
            found._between[first, first + part.d_sae] = part, places
            first += part.d_sae
        return found


class _Placed(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        places, *parts = inputs
        ctx.places = places
        whole: Tensor = parts[0].new_empty(sum(map(len, parts)))
        for where, part in zip(places, parts, strict=True):
            whole[where] = part
        return whole

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(gradients[0][where] for where in ctx.places)


class _Parted(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        places, whole = inputs
        ctx.places, ctx.length = places, len(whole)
        return tuple(whole[where] for where in places)

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        whole = gradients[0].new_zeros(ctx.length)
        for where, gradient in zip(ctx.places, gradients, strict=True):
            whole[where] = gradient
        return None, whole


class _Added(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        total, part = inputs
        ctx.shape = part.shape
        total[:, -part.shape[-1] :] += part
        ctx.mark_dirty(total)
        result: Tensor = total
        return result

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0], gradients[0][:, -ctx.shape[-1] :].sum_to_size(ctx.shape)


def added(total: Float[Tensor, "row _"], part: Float[Tensor, "... _"]) -> Float[Tensor, "row _"]:
    """Add a part, or one row to all, to a total's last columns, in its memory; differentiable.

    Autograd's own sum of slices would keep all parts, or copy the total for each.
    """
    result: Tensor = _Added.apply(total, part)  # type: ignore[no-untyped-call]
    return result


Places = Sequence[Int64[Tensor, " _"]]
"""Where in a whole the entries of each of its parts stand; no place twice."""


def placed(parts: Sequence[Float[Tensor, " _"]], places: Places) -> Float[Tensor, " firing"]:
    """Return the whole whose parts stand at some places, differentiable."""
    whole: Tensor = _Placed.apply(places, *parts)  # type: ignore[no-untyped-call]
    return whole


def parted(whole: Float[Tensor, " firing"], places: Places) -> tuple[Float[Tensor, " _"], ...]:
    """Return the parts of a whole, differentiable; cheaper than an index for each."""
    parts: tuple[Tensor, ...] = _Parted.apply(places, whole)  # type: ignore[no-untyped-call]
    return parts


class _RowSums(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        values, pairs = inputs
        ctx.pairs = pairs
        sums: Tensor = pairs.backend.sums(values, pairs.offsets)
        return sums

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return upstream[0][ctx.pairs.row_ids], None


class _FeatureSums(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        values, pairs = inputs
        ctx.pairs = pairs
        order, _, starts = pairs.by_feature()
        sums: Tensor = pairs.backend.sums(values.index_select(0, order), starts)
        return sums

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return upstream[0][ctx.pairs.indices], None


class _Spread(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        vector, pairs = inputs
        ctx.pairs = pairs
        result: Tensor = vector[pairs.indices]
        return result

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        pairs: Pairs = ctx.pairs
        order, _, starts = pairs.by_feature()
        return pairs.backend.sums(upstream[0].index_select(0, order), starts), None


class _Picked(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        rows, shift, encoder, bias, values, pairs = inputs
        ctx.save_for_backward(rows, encoder)
        ctx.pairs, ctx.place = pairs, gradients.place_of(encoder)
        del shift, bias  # their gradients need no value
        result: Tensor = values.detach()
        return result

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows, encoder = ctx.saved_tensors
        pairs: Pairs = ctx.pairs
        gradient = upstream[0].contiguous()
        needs = ctx.needs_input_grad
        sums = pairs.feature_sums(gradient) if needs[1] or needs[3] else None
        return (
            pairs.by_rows(gradient, encoder) if needs[0] else None,
            _to_shift(sums, encoder) if needs[1] else None,
            pairs.gradient(gradient, rows, ctx.place) if needs[2] else None,
            sums if needs[3] else None,
            None,
            None,
        )


def _to_shift(sums: Tensor | None, encoder: Tensor) -> Tensor | None:
    """Return the gradient of what was subtracted from every row: no row's own is needed for it."""
    return None if sums is None else -(sums @ encoder.to(sums.dtype))


class _DecoderGradient(torch.autograd.Function):
    """Hands a reconstruction through, and gives the decoder its sparse gradient."""

    @staticmethod
    @override
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        reconstruction, decoder, values, pairs = inputs
        ctx.save_for_backward(values)
        ctx.pairs, ctx.place = pairs, gradients.place_of(decoder)
        ctx.mark_dirty(reconstruction)  # itself, not a view: a bias may be added in its place
        through: Tensor = reconstruction
        return through

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (values,) = ctx.saved_tensors
        pairs: Pairs = ctx.pairs
        gradient = upstream[0].contiguous()
        needed = ctx.needs_input_grad[1]
        to_decoder = pairs.gradient(values, gradient, ctx.place) if needed else None
        return gradient, to_decoder, None, None


def picked(
    rows: Float[Tensor, "row d_in"],
    shift: Float[Tensor, " d_in"] | None,
    encoder: Float[Tensor, "d_sae d_in"],
    bias: Float[Tensor, " d_sae"],
    values: Float[Tensor, " firing"],
    pairs: Pairs,
) -> Float[Tensor, " firing"]:
    """Return already computed pre-activations at some pairs, with their gradient.

    Args:
        rows: What the encoder read.
        shift: What was subtracted from every row before; None, nothing that has a gradient.
        encoder: Encoder vectors, one a row.
        bias: Encoder bias.
        values: `rows @ encoder.T + bias` at the pairs.
        pairs: Where they are.
    """
    result: Tensor = _Picked.apply(  # type: ignore[no-untyped-call]
        rows, shift, encoder, bias, values, pairs
    )
    return result


def decoded(
    values: Float[Tensor, " firing"], decoder: Float[Tensor, "d_sae d_out"], pairs: Pairs
) -> Float[Tensor, "row d_out"]:
    """Return Σ_j values_j decoder[idx_j] for each row, with its gradient; no bias."""
    reconstruction = pairs.by_rows(values, decoder.detach())
    result: Tensor = _DecoderGradient.apply(  # type: ignore[no-untyped-call]
        reconstruction, decoder, values.detach(), pairs
    )
    return result


class _Taken(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        values, pairs = inputs
        ctx.pairs, ctx.shape = pairs, values.shape
        found: Tensor = pairs.of(values)
        return found

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradients[0].new_zeros(ctx.shape)
        gradient[ctx.pairs.row_ids, ctx.pairs.indices] = gradients[0]  # no pair is there twice
        return gradient, None


def taken(values: Float[Tensor, "row d_sae"], pairs: Pairs) -> Float[Tensor, " firing"]:
    """Return a matrix's entries at the pairs, with their gradient."""
    result: Tensor = _Taken.apply(values, pairs)  # type: ignore[no-untyped-call]
    return result


class _Dense(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        rows, shift, encoder, bias, values = inputs
        ctx.save_for_backward(rows, encoder)
        ctx.dtype = products.asked(rows.device)
        del shift, bias
        result: Tensor = values.detach()
        return result

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows, encoder = ctx.saved_tensors
        gradient = upstream[0]
        needs = ctx.needs_input_grad
        sums = gradient.sum(dim=0) if needs[1] or needs[3] else None
        return (
            products.product(gradient, encoder, ctx.dtype) if needs[0] else None,
            _to_shift(sums, encoder) if needs[1] else None,
            products.product(gradient.T, rows, ctx.dtype) if needs[2] else None,
            sums if needs[3] else None,
            None,
        )


def dense(
    rows: Float[Tensor, "row d_in"],
    shift: Float[Tensor, " d_in"] | None,
    encoder: Float[Tensor, "d_sae d_in"],
    bias: Float[Tensor, " d_sae"],
    values: Float[Tensor, "row d_sae"],
) -> Float[Tensor, "row d_sae"]:
    """Return all already computed pre-activations, with their gradient; see `picked`."""
    result: Tensor = _Dense.apply(  # type: ignore[no-untyped-call]
        rows, shift, encoder, bias, values
    )
    return result
