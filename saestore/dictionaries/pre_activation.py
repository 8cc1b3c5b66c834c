"""Pre-activations, computed when they are asked for and without gradient, into memory that is kept.

An activation function looks at the numbers, decides, and asks for the gradient of what it keeps:
of some pairs (`at`) or of all (`dense`). Pages that the system has never handed out cost several
times what it takes to fill them, and h is by far the largest array of a step. Where each row is
decided by itself, h never exists whole: `chosen` computes and ranks some rows at a time, and what
follows the encoder's product finds them in the caches.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad
from typing_extensions import override

from saestore.dictionaries import backends, gradients, kernels, precision, products
from saestore.dictionaries.backends import Chosen
from saestore.dictionaries.backends.torch_backend import starts_of
from saestore.dictionaries.kernels import Pairs
from saestore.dictionaries.sigmoid import sigmoid
from saestore.errors import UnsupportedError


PRODUCT_FEATURES = 16
"""Narrower encoder products are filled up to this width: below it MKL sums a row differently from
place to place in the block (seen at up to 11 columns, never from 13 on)."""

GATHERED_FEATURES = 1024
"""Vectors of features that lie anywhere are copied so many at a time: all may be the whole encoder."""

RANKED_BYTES = 8 << 20
"""Known gate scores of some features are copied so many bytes at a time to be ranked: all of them at
once may be as large as all pre-activations."""

Choose = Callable[[Float[Tensor, "row _"]], Chosen]
"""Returns the pairs that are kept of some rows, from their gate scores."""


class Scratch(threading.local):
    """Kept memory, by name, for each thread; copies of its owner start with none."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def take(self, name: str, rows: int, width: int, like: Tensor) -> Float[Tensor, "row _"]:
        """Return memory of that shape with whatever it held before."""
        kept = self._kept.get(name)
        if (
            kept is None
            or kept.numel() < rows * width
            or kept.dtype != like.dtype
            or kept.device != like.device
        ):
            kept = torch.empty(rows * width, dtype=like.dtype, device=like.device)
            self._kept[name] = kept
        return kept[: rows * width].view(rows, width)

    @override
    def __reduce__(self) -> tuple[type["Scratch"], tuple[()]]:
        """Copy and pickle without contents."""
        return (Scratch, ())


@dataclass(frozen=True, eq=False)
class Projection:
    """Rows times vectors plus a bias; differentiable where asked.

    Attributes:
        rows: What is multiplied.
        shift: What was subtracted from every row before; None, nothing that has a gradient.
        vectors: By what, one feature a row.
        bias: What is added.
        dtype: Type to which the product's factors are rounded; None, their own.
        memory: Where the result goes; the next forward pass overwrites it.
        name: Its name there.
        given: How many of the rows count; absent, all.
        lent: Whether blocks of rows may lie where gradients will: of one projection at a time.
    """

    rows: Float[Tensor, "row d_in"]
    shift: Float[Tensor, " d_in"] | None
    vectors: Float[Tensor, "d_sae d_in"]
    bias: Float[Tensor, " d_sae"]
    dtype: torch.dtype | None = None
    memory: Scratch = field(default_factory=Scratch)
    name: str = "z"
    given: int | None = None
    lent: bool = False
    _whole: list[Tensor] = field(default_factory=list, repr=False)

    @classmethod
    def known_as(
        cls,
        values: Float[Tensor, "row d_sae"],
        rows: Float[Tensor, "row d_in"],
        shift: Float[Tensor, " d_in"] | None,
        vectors: Float[Tensor, "d_sae d_in"],
        bias: Float[Tensor, " d_sae"],
    ) -> "Projection":
        """Return one whose values are computed already; overwritten by the next forward pass."""
        return cls(rows, shift, vectors, bias, _whole=[values])

    @property
    def known(self) -> bool:
        """Whether the values of all rows are computed."""
        return bool(self._whole)

    @property
    def values(self) -> Float[Tensor, "row d_sae"]:
        """The values of all rows, without gradient."""
        if not self._whole:
            bias = self._wide_bias
            out = self.memory.take(self.name, len(self.rows), len(bias), bias)
            encoded(self.rows, self.vectors, bias, out, self.memory, self.dtype)
            self._whole.append(out[: self.given])
        return self._whole[0]

    def some(self, start: int, stop: int) -> Float[Tensor, "row d_sae"]:
        """Return the values of some rows, without gradient; overwritten by the next call."""
        out, rows = self._room(stop - start, len(self.bias)), self.rows[start:stop]
        return encoded(rows, self.vectors, self._wide_bias, out, self.memory, self.dtype)

    def some_of(
        self, start: int, stop: int, features: Int64[Tensor, " feature"]
    ) -> Float[Tensor, "row feature"]:
        """Return the same of some features, whose vectors are gathered some at a time."""
        rows, bias = self.rows[start:stop], self._wide_bias
        out = self._room(len(rows), len(features))
        for at in range(0, len(features), GATHERED_FEATURES):
            few = features[at : at + GATHERED_FEATURES]
            into, vectors = out[:, at : at + GATHERED_FEATURES], self.vectors.detach()[few]
            encoded(rows, vectors, bias[few], into, self.memory, self.dtype)
        return out

    def _room(self, rows: int, width: int) -> Float[Tensor, "row _"]:
        """Return memory for what is over before gradients are computed."""
        like = self._wide_bias
        spare = gradients.spare(rows, width, like) if self.lent else None
        return self.memory.take(self.name, rows, width, like) if spare is None else spare

    @property
    def _wide_bias(self) -> Float[Tensor, " d_sae"]:
        bias = self.bias.detach()
        return bias.to(precision.wide(bias.dtype))

    def at(self, pairs: Pairs) -> Float[Tensor, " firing"]:
        """Return the values at some pairs, differentiable."""
        return self.picked(pairs, pairs.of(self.values))

    def picked(self, pairs: Pairs, values: Float[Tensor, " firing"]) -> Float[Tensor, " firing"]:
        """Return values that are computed already at some pairs, differentiable."""
        rows = self.rows[: self.given]
        return kernels.picked(rows, self.shift, self.vectors, self.bias, values, pairs)

    def between(self, start: int, stop: int) -> "Projection":
        """Return the projection on the vectors of a range of features."""
        if (start, stop) == (0, len(self.bias)):
            return self
        own, rows = slice(start, stop), self.rows[: self.given]
        return Projection.known_as(
            self.values[:, own], rows, self.shift, self.vectors[own], self.bias[own]
        )

    def of(self, features: Int64[Tensor, " feature"]) -> "Projection":
        """Return the projection on some features' vectors alone, in memory of its own."""
        rows, bias = self.rows[: self.given], self.bias[features]
        # Its gradient is several times as fast as that of an index: no feature comes twice.
        vectors = self.vectors.index_select(0, features)
        if self.known:
            return Projection.known_as(self.values[:, features], rows, self.shift, vectors, bias)
        return Projection(rows, self.shift, vectors, bias, self.dtype)

    def dense(self) -> Float[Tensor, "row d_sae"]:
        """Return all values, differentiable."""
        rows = self.rows[: self.given]
        return kernels.dense(rows, self.shift, self.vectors, self.bias, self.values)


@torch.no_grad()
def encoded(
    rows: Float[Tensor, "row d_in"],
    vectors: Float[Tensor, "d_sae d_in"],
    bias: Float[Tensor, " d_sae"],
    out: Float[Tensor, "row d_sae"],
    scratch: Scratch,
    dtype: torch.dtype | None,
) -> Float[Tensor, "row d_sae"]:
    """Write rows times vectors plus a bias into `out`, without gradient, and return it.

    Args:
        rows: What the encoder reads.
        vectors: Encoder vectors, one a row.
        bias: Encoder bias.
        out: Where the result goes; may be a stretch of a wider matrix.
        scratch: Kept memory, for what is too narrow.
        dtype: Type to which factors are rounded; None, their own.
    """
    wide = bias.to(precision.wide(bias.dtype))
    missing = PRODUCT_FEATURES - len(bias)
    if missing <= 0:
        return products.biased(rows, vectors, wide, out, dtype)
    filled = scratch.take("narrow", len(rows), PRODUCT_FEATURES, out)
    products.biased(rows, pad(vectors, (0, 0, 0, missing)), pad(wide, (0, missing)), filled, dtype)
    return out.copy_(filled[:, : len(bias)])


@dataclass(frozen=True)
class Projections:
    """Projections side by side in one matrix, each of rows of its own on features of its own.

    Attributes:
        values: All results, without gradient; overwritten by the next forward pass.
        parts: In the order of their features; their values are stretches of these.
    """

    values: Float[Tensor, "row d_sae"]
    parts: tuple[Projection, ...]
    known: ClassVar[bool] = True

    @property
    def bias(self) -> Float[Tensor, " d_sae"]:
        """What was added."""
        return torch.cat([part.bias for part in self.parts])

    def at(self, pairs: Pairs) -> Float[Tensor, " firing"]:
        """Return the values at some pairs, differentiable."""
        chosen = [pairs.between(*span) for _, span in self._spans()]
        values = [part.at(own) for part, (own, _) in zip(self.parts, chosen, strict=True)]
        return kernels.placed(values, [places for _, places in chosen])

    def between(self, start: int, stop: int) -> "Projection | Projections":
        """Return the projections on the vectors of a range of features."""
        found = tuple(
            part.between(max(start, first) - first, min(stop, last) - first)
            for part, (first, last) in self._spans()
            if first < stop and start < last
        )
        return found[0] if len(found) == 1 else Projections(self.values[:, start:stop], found)

    def of(self, features: Int64[Tensor, " feature"]) -> "Projection | Projections":
        """Return the projections on the vectors of some features, which must ascend."""
        found = []
        for part, (first, last) in self._spans():
            own = features[(features >= first) & (features < last)] - first
            if len(own):
                found.append(part.of(own))
        if len(found) == 1:
            return found[0]
        return Projections(self.values[:, features], tuple(found))

    def dense(self) -> Float[Tensor, "row d_sae"]:
        """Return all values, differentiable; not copied."""
        result: Tensor = _Joined.apply(  # type: ignore[no-untyped-call]
            self.values, *(part.dense() for part in self.parts)
        )
        return result

    def _spans(self) -> Iterator[tuple[Projection, tuple[int, int]]]:
        """Yield each part with its first feature and the one after its last."""
        first = 0
        for part in self.parts:
            yield part, (first, first + len(part.bias))
            first += len(part.bias)


@dataclass(frozen=True)
class Repeated:
    """One projection that several gates decide on, each by its own lengths: its features once for each.

    Attributes:
        once: The projection, computed already.
        gates: How many.
    """

    once: Projection
    gates: int
    known: ClassVar[bool] = True

    @property
    def values(self) -> Float[Tensor, "row _"]:
        """The values of each gate's features side by side, without gradient: copies."""
        return self.once.values.repeat(1, self.gates)

    @property
    def bias(self) -> Float[Tensor, " _"]:
        """What was added."""
        return self.once.bias.repeat(self.gates)

    def taken(self, pairs: Pairs) -> Float[Tensor, " firing"]:
        """Return the values at some pairs, without gradient."""
        return self._once(pairs).of(self.once.values)

    def at(self, pairs: Pairs) -> Float[Tensor, " firing"]:
        """Return the values at some pairs, differentiable."""
        return self.once.at(self._once(pairs))

    def between(self, start: int, stop: int) -> "Projection | Projections":
        """Return the projections on the vectors of a range of columns."""
        width, found = len(self.once.bias), []
        for first in range(0, width * self.gates, width):
            low, high = max(start, first), min(stop, first + width)
            if low < high:
                found.append(self.once.between(low - first, high - first))
        return _beside(found)

    def of(self, features: Int64[Tensor, " feature"]) -> "Projection | Projections":
        """Return the projections on the vectors of some columns, which must ascend."""
        width, found = len(self.once.bias), []
        for first in range(0, width * self.gates, width):
            own = features[(features >= first) & (features < first + width)] - first
            if len(own):
                found.append(self.once.of(own))
        return _beside(found)

    def dense(self) -> Float[Tensor, "row _"]:
        """Return all values, differentiable."""
        return self.once.dense().repeat(1, self.gates)

    def _once(self, pairs: Pairs) -> Pairs:
        """Return the same pairs with what each gate calls its columns: the features."""
        width = len(self.once.bias)
        return Pairs(pairs.offsets, pairs.indices % width, width)


def _beside(parts: Sequence[Projection]) -> Projection | Projections:
    """Return known projections side by side; a single one as it is."""
    if len(parts) == 1:
        return parts[0]
    return Projections(torch.cat([part.values for part in parts], dim=1), tuple(parts))


class _Joined(torch.autograd.Function):
    """Hands on a matrix whose stretches are already there, and gives each its gradient."""

    @staticmethod
    @override
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        values, *parts = inputs
        ctx.sizes = [part.shape[1] for part in parts]
        result: Tensor = values.detach()
        return result

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *torch.split(gradients[0], ctx.sizes, dim=1)


@dataclass(frozen=True)
class Computed:
    """Pre-activations that autograd follows by itself: no product of rows and vectors.

    Attributes:
        graph: They, with their graph.
    """

    graph: Float[Tensor, "row d_sae"]
    known: ClassVar[bool] = True

    @property
    def values(self) -> Float[Tensor, "row d_sae"]:
        """The values, without gradient."""
        return self.graph.detach()

    @property
    def bias(self) -> Float[Tensor, " d_sae"]:
        """What was added.

        Raises:
            UnsupportedError: That is not known here.
        """
        raise UnsupportedError(
            "these pre-activations are no product of rows and encoder vectors, plus a bias",
            found="pre-activations of a family that attends",
            expected="those of a linear encoder",
            hint="use another activation.kind, such as jumprelu",
        )

    def at(self, pairs: Pairs) -> Float[Tensor, " firing"]:
        """Return the values at some pairs, differentiable."""
        return kernels.taken(self.graph, pairs)

    def between(self, start: int, stop: int) -> "Computed":
        """Return those of a range of features."""
        return Computed(self.graph[:, start:stop])

    def of(self, features: Int64[Tensor, " feature"]) -> "Computed":
        """Return those of some features alone."""
        return Computed(self.graph[:, features])

    def dense(self) -> Float[Tensor, "row d_sae"]:
        """Return all values, differentiable."""
        return self.graph


@dataclass(frozen=True, eq=False)
class PreActivation:
    """What an activation function decides on.

    Attributes:
        linear: What differentiates h; h itself when there is no `dimmer`.
        dimmer: Second projection of a GLU encoder, whose sigmoid multiplies the first; or None.
        lengths: Decoder lengths, differentiable.
        on_lengths: Whether the gate is h times decoder length.
        memory: Where gate scores go that are not h; the next forward pass overwrites them.
    """

    linear: Projection | Projections | Repeated | Computed
    dimmer: Projection | None
    lengths: Float[Tensor, " d_sae"]
    on_lengths: bool
    memory: Scratch = field(default_factory=Scratch)
    _found: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def d_sae(self) -> int:
        """Columns of the code: features, or features of each gate."""
        return len(self.lengths)

    @property
    def values(self) -> Float[Tensor, "row d_sae"]:
        """All of h, without gradient; overwritten by the next forward pass."""
        if "values" not in self._found:
            dimmer = None if self.dimmer is None else self.dimmer.values
            self._found["values"] = _dimmed(self.linear.values, dimmer)
        return self._found["values"]

    @property
    def gate(self) -> Float[Tensor, "row d_sae"]:
        """What is ranked or compared, likewise: h itself, or h times decoder length."""
        if "gate" not in self._found:
            linear = self.linear
            values = linear.once.values if isinstance(linear, Repeated) else self.values
            self._found["gate"] = self._gate(values, self.lengths)
        return self._found["gate"]

    def taken(self, pairs: Pairs) -> Float[Tensor, " firing"]:
        """Return h at some pairs, without gradient."""
        if isinstance(self.linear, Repeated):
            return self.linear.taken(pairs)
        return pairs.of(self.values)

    def between(self, start: int, stop: int) -> "PreActivation":
        """Return the pre-activations of a range of features alone."""
        own = slice(start, stop)
        found = {name: each[:, own] for name, each in self._found.items() if name != "dense"}
        dimmer = None if self.dimmer is None else self.dimmer.between(start, stop)
        linear, lengths = self.linear.between(start, stop), self.lengths[own]
        return PreActivation(linear, dimmer, lengths, self.on_lengths, self.memory, found)

    def of(self, features: Int64[Tensor, " feature"]) -> "PreActivation":
        """Return the pre-activations of some features alone; nothing here costs what all would."""
        dimmer = None if self.dimmer is None else self.dimmer.of(features)
        lengths = self.lengths[features]
        return PreActivation(self.linear.of(features), dimmer, lengths, self.on_lengths)

    def at(self, pairs: Pairs) -> Float[Tensor, " firing"]:
        """Return h at some pairs, differentiable."""
        values = self.linear.at(pairs)
        return values if self.dimmer is None else values * sigmoid(self.dimmer.at(pairs))

    def chosen(
        self, choose: Choose, features: Int64[Tensor, " feature"] | None = None
    ) -> tuple[Pairs, Float[Tensor, " firing"]]:
        """Return the pairs that are chosen row by row, and h there, differentiable.

        Args:
            choose: Chooses; whatever the other rows are, a row's pairs are the same.
            features: Which features there are to choose from, ascending; absent, all.
        """
        linear, step = self.linear, backends.of(self.lengths.device).product_rows
        if not isinstance(linear, Projection) or linear.known or step is None:
            pairs = self._known_chosen(choose, features)
            return pairs, self.at(pairs)
        with torch.no_grad():
            parts = self._parts(linear, step, features)
            found = [self._chosen(choose, *part, features) for part in parts]
            counts, indices, *kept = (torch.cat(each) for each in zip(*found, strict=True))
        pairs = Pairs(starts_of(counts), indices, self.d_sae)
        values = linear.picked(pairs, kept[0])
        if self.dimmer is None:
            return pairs, values
        return pairs, values * sigmoid(self.dimmer.picked(pairs, kept[1]))

    def dense(self) -> Float[Tensor, "row d_sae"]:
        """Return all of h, differentiable; always the same tensor, so that gradients meet in it."""
        if "dense" not in self._found:
            values = self.linear.dense()
            if self.dimmer is not None:
                values = values * sigmoid(self.dimmer.dense())
            self._found["dense"] = values
        return self._found["dense"]

    def _known_chosen(self, choose: Choose, features: Tensor | None) -> Pairs:
        """Return the pairs that are chosen from the gate scores of all rows."""
        gate = self.gate
        if features is None:
            return Pairs(*choose(gate), self.d_sae)
        step = max(1, RANKED_BYTES // (len(features) * gate.element_size()))
        parts = [choose(gate[at : at + step, features]) for at in range(0, len(gate), step)]
        counts = torch.cat([offsets.diff() for offsets, _ in parts])
        indices = features[torch.cat([chosen for _, chosen in parts])]
        return Pairs(starts_of(counts), indices, self.d_sae)

    def _parts(
        self, projection: Projection, step: int, features: Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
        """Yield projection, dimmer and lengths of a few rows after the other, and of these features."""
        lengths = self.lengths.detach() if features is None else self.lengths.detach()[features]
        rows, ranked = len(projection.rows), backends.of(lengths.device).ranked_rows
        for start in range(0, rows, step):
            span = start, min(start + step, rows)
            linear = _some(projection, span, features)
            dimmer = None if self.dimmer is None else _some(self.dimmer, span, features)
            for at in range(0, span[1] - start, ranked):
                few = slice(at, at + ranked)
                yield linear[few], None if dimmer is None else dimmer[few], lengths

    def _chosen(
        self,
        choose: Choose,
        linear: Tensor,
        dimmer: Tensor | None,
        lengths: Tensor,
        features: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Return how many pairs each row has, their features, and projection and dimmer there."""
        offsets, indices = choose(self._gate(_dimmed(linear, dimmer), lengths))
        pairs = Pairs(offsets, indices, len(lengths))
        named = indices if features is None else features[indices]
        kept = [pairs.of(each) for each in (linear, dimmer) if each is not None]
        return offsets.diff(), named, *kept

    def _gate(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Return the gate scores of pre-activations, without gradient: them, or kept memory."""
        if not self.on_lengths:
            return values
        rows, width = values.shape
        gate = self.memory.take("g", rows, len(lengths), values)
        by = lengths.detach().view(len(lengths) // width, width)
        torch.mul(values.unsqueeze(1), by, out=gate.view(rows, len(by), width))
        return gate


def _some(projection: Projection, span: tuple[int, int], features: Tensor | None) -> Tensor:
    """Return the values of some rows, of all features or of some."""
    return projection.some(*span) if features is None else projection.some_of(*span, features)


@torch.no_grad()
def _dimmed(linear: Tensor, dimmer: Tensor | None) -> Tensor:
    """Return h, without gradient."""
    return linear if dimmer is None else sigmoid(dimmer).mul_(linear)
