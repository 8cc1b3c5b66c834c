"""Which places of a model can be read, what they are called and how wide they are.

A tiny forward shows which hookpoints fire, in which order, and their shapes; nothing is known by
architecture. One place often has several names: the classic one (`blocks.3.hook_resid_post`) is the
name here, the others (`blocks.3.hook_out`) are understood.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from saestore.errors import HookpointNotFoundError
from saestore.lm.hooks import hooked


@dataclass(frozen=True)
class HookpointInfo:
    """One place that can be read.

    Attributes:
        name: As TransformerLens spells it.
        layer: Its block, or None outside the blocks.
        width: Numbers per token; several heads count together.
    """

    name: str
    layer: int | None
    width: int


@dataclass(frozen=True)
class Hookpoints:
    """All places of one model.

    Attributes:
        model: Its name, for errors.
        infos: Places by name, in the order of the forward pass.
        names: Every name a place has, to the one in `infos`.
    """

    model: str
    infos: Mapping[str, HookpointInfo]
    names: Mapping[str, str]

    def match(self, patterns: Sequence[str]) -> list[str]:
        """Return the places that exact names or globs mean, each once, in forward order.

        Raises:
            HookpointNotFoundError: A pattern matches nothing; the nearest names are given.
        """
        chosen: set[str] = set()
        for pattern in patterns:
            if pattern in self.names:
                chosen.add(self.names[pattern])
                continue
            found = {name for name in self.infos if fnmatchcase(name, pattern)} or {
                name for other, name in self.names.items() if fnmatchcase(other, pattern)
            }
            if not found:
                raise HookpointNotFoundError(
                    pattern=pattern, where=self.model, known=tuple(self.infos)
                )
            chosen |= found
        return [name for name in self.infos if name in chosen]


_BATCH, _POSITIONS = 2, 13
"""Shape of the tiny forward: 13, because no model has attention over 13 heads by accident."""
_SQUARE = ("hook_pattern", "hook_attn_scores")
"""Numbers per pair of tokens, not per token."""


def survey(bridge: Any, *, model: str, n_vocab: int) -> Hookpoints:
    """Return the places of a model, found by one forward of 2 x 13 tokens."""
    points: dict[int, tuple[Any, list[str]]] = {}
    for name, point in bridge.hook_dict.items():
        points.setdefault(id(point), (point, []))[1].append(name)
    widths: dict[str, int] = {}
    hooks = []
    for point, spelled in points.values():
        best = min(spelled, key=_rank)
        if not best.endswith(_SQUARE):
            hooks.append((point, _measure(widths, best)))
    with torch.inference_mode(), hooked(hooks):
        bridge(tiny_tokens(n_vocab).to(bridge.cfg.device), return_type=None, use_cache=False)
    infos = {name: HookpointInfo(name, layer_of(name), width) for name, width in widths.items()}
    names = {
        name: best
        for _, spelled in points.values()
        if (best := min(spelled, key=_rank)) in infos
        for name in spelled
    }
    return Hookpoints(model, infos, names)


def tiny_tokens(n_vocab: int) -> Int64[Tensor, "batch position"]:
    """Return 2 x 13 token ids, for a forward that only shows how a model is built."""
    return torch.arange(_BATCH * _POSITIONS).remainder(n_vocab).reshape(_BATCH, _POSITIONS)


def _measure(widths: dict[str, int], name: str) -> Any:
    def note(value: Any) -> None:
        if (
            isinstance(value, Tensor)
            and value.is_floating_point()
            and value.ndim > 2  # noqa: PLR2004 - batch, position and at least one more
            and value.shape[:2] == (_BATCH, _POSITIONS)
        ):
            widths.setdefault(name, value[0, 0].numel())

    return note


def _rank(name: str) -> tuple[bool, int, str]:
    """Classic names first, then the shallowest."""
    return name.endswith((".hook_in", ".hook_out")), name.count("."), name


def layer_of(name: str) -> int | None:
    """Return which block a hookpoint is of; None outside the blocks."""
    found = re.match(r"blocks\.(\d+)\.", name)
    return int(found[1]) if found else None
