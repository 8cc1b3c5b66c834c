"""Hugging Face's own forward pass, for the hookpoints that are inputs or outputs of its modules.

TransformerLens computes attention step by step, so that scores and patterns can be read; that costs
a tenth of the time of a pass, and few runs read them. A twin of the model shares its weights
and keeps Hugging Face's modules and fused attention. A hookpoint is read there when its module
has a twin and one tiny forward shows both passes giving it the same values; otherwise TransformerLens'
pass is used. Nothing is known by architecture.

Processed weights (`compatibility`) are another function, so they have no twin.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from saestore.lm.hooks import Enough, Function


Side = Literal["in", "out"]
SIDES: tuple[Side, ...] = get_args(Side)

TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2}
"""Relative difference of two passes over a tiny batch that rounding explains, by type."""


@dataclass(frozen=True)
class Place:
    """An input or output of a module.

    Attributes:
        module: Hugging Face's module.
        side: Which of its ends.
    """

    module: nn.Module
    side: Side


@dataclass
class PlainModel:
    """The twin and the places of its hookpoints.

    Attributes:
        model: Hugging Face's model; its parameters are those of the bridge.
        places: Where the hookpoints lie that it may have, by the identity of the hookpoint.
        trusted: Hookpoints compared so far, and whether both passes agree.
    """

    model: nn.Module
    places: Mapping[int, Place]
    trusted: dict[int, bool] = field(default_factory=dict)

    def knows(self, points: Sequence[Any]) -> bool:
        """Return whether all of some hookpoints may be read here."""
        return all(
            id(point) in self.places and self.trusted.get(id(point), True) for point in points
        )

    def untried(self, points: Sequence[Any]) -> list[Any]:
        """Return those of some hookpoints that were not compared yet."""
        return [point for point in points if id(point) not in self.trusted]

    def forward(self, tokens: Tensor, hooks: Sequence[tuple[Any, Function]]) -> None:
        """Run the model with functions at hookpoints; `Enough` ends it.

        Args:
            tokens: Token ids on the model's device.
            hooks: Hookpoints of the bridge and what runs there.
        """
        with _attached([(self.places[id(point)], function) for point, function in hooks]):
            self.model(input_ids=tokens, use_cache=False)


def twin_of(model: Any) -> Any:
    """Return a copy of a model's modules over the same parameters, with fused attention if it can."""
    shared = {id(p): p for p in model.parameters()} | {id(b): b for b in model.buffers()}
    twin = copy.deepcopy(model, shared)
    config = twin.config.get_text_config()
    if getattr(config, "attn_logit_softcapping", None) is None:  # fused attention ignores it
        with suppress(ValueError, ImportError):  # the architecture has none: as it was loaded
            twin.set_attn_implementation("sdpa")
    return twin.eval()


def plain_model(bridge: nn.Module, twin: nn.Module, originals: Sequence[nn.Module]) -> PlainModel:
    """Return the twin with the places of the bridge's hookpoints.

    Args:
        bridge: TransformerLens' bridge over the model.
        twin: The model's twin.
        originals: The model's modules before the bridge replaced some, in the twin's order.
    """
    twins = dict(zip(map(id, originals), twin.modules(), strict=True))
    places: dict[int, Place] = {}
    for component in bridge.modules():
        mine = twins.get(id(getattr(component, "original_component", None)))
        if mine is None:
            continue
        for side in SIDES:
            point = getattr(component, f"hook_{side}", None)
            if point is not None:
                places[id(point)] = Place(mine, side)
    return PlainModel(twin, places)


def agree(found: Tensor, expected: Tensor) -> bool:
    """Return whether two passes gave the same, but for rounding."""
    if found.shape != expected.shape:
        return False
    wide, other = found.double(), expected.double()
    bound = TOLERANCE.get(expected.dtype, 0.0) * float(other.norm())
    return bool((wide - other).norm() <= bound)


@contextmanager
def _attached(hooks: Sequence[tuple[Place, Function]]) -> Iterator[None]:
    handles = []
    try:
        for place, function in hooks:
            if place.side == "in":
                handle = place.module.register_forward_pre_hook(_before(function), with_kwargs=True)
            else:
                handle = place.module.register_forward_hook(_after(function))
            handles.append(handle)
        with suppress(Enough):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _before(function: Function) -> Any:
    def run(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if args:
            changed = function(args[0])
            return None if changed is None else ((changed, *args[1:]), kwargs)
        name = next(name for name, value in kwargs.items() if isinstance(value, Tensor))
        changed = function(kwargs[name])
        return None if changed is None else (args, {**kwargs, name: changed})

    return run


def _after(function: Function) -> Any:
    def run(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        del args
        if isinstance(output, tuple):
            changed = function(output[0])
            return None if changed is None else (changed, *output[1:])
        return function(output)

    return run
