"""Hookpoints side by side: one tensor for all of them, and a tensor for each.

A family that reads or writes several hookpoints keeps their dimensions in one axis, so that a step
takes one product instead of one for each. Files hold one tensor a hookpoint: widths may differ.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saestore_schemas.dictionary import DictionaryConfig


@dataclass(frozen=True)
class Sides:
    """Hookpoints in their order, with their widths.

    Attributes:
        hookpoints: Names.
        widths: Width of each.
    """

    hookpoints: tuple[str, ...]
    widths: tuple[int, ...]

    @property
    def width(self) -> int:
        """Dimensions of all of them."""
        return sum(self.widths)

    def joined(self, parts: Mapping[str, Float[Tensor, "... d"]]) -> Float[Tensor, "... _"]:
        """Return their tensors side by side along the last axis; a single one as it is."""
        chosen = [parts[hook] for hook in self.hookpoints]
        return chosen[0] if len(chosen) == 1 else torch.cat(chosen, dim=-1)

    def of(self, hookpoints: Sequence[str]) -> "Sides":
        """Return some of them, in this order."""
        widths = dict(zip(self.hookpoints, self.widths, strict=True))
        return Sides(tuple(hookpoints), tuple(widths[hook] for hook in hookpoints))

    def split(self, joined: Float[Tensor, "... _"]) -> dict[str, Float[Tensor, "... d"]]:
        """Return each one's part of the last axis, as views; a single one as it is."""
        if len(self.hookpoints) == 1:
            return {self.hookpoints[0]: joined}
        parts = torch.split(joined, list(self.widths), dim=-1)
        return dict(zip(self.hookpoints, parts, strict=True))

    def spread(self, values: Iterable[float]) -> Float[Tensor, " _"]:
        """Return a number of each, repeated over its dimensions, in float64."""
        each = torch.tensor(list(values), dtype=torch.float64)
        return each.repeat_interleave(torch.tensor(self.widths))


def sides_of(config: DictionaryConfig) -> tuple[Sides, Sides]:
    """Return what a dictionary reads and what it writes."""
    return Sides(config.hookpoints_in, config.d_in), Sides(config.hookpoints_out, config.d_out)
