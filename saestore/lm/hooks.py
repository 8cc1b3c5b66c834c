"""Functions that run where the forward pass comes by, and stopping it once enough was seen."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any


LEVEL = 7919
"""Mark of our hooks among TransformerLens's: only these are removed again."""

Function = Callable[[Any], Any]
"""What passes by, to its replacement or to None, which leaves it."""


class Enough(Exception):  # noqa: N818 - a signal, not an error
    """Raised inside a forward pass when nothing more of it is needed."""


@contextmanager
def hooked(hooks: Sequence[tuple[Any, Function]]) -> Iterator[None]:
    """Run functions at hookpoints inside the block; `Enough` ends the block.

    Args:
        hooks: TransformerLens hookpoints and what runs there.
    """
    try:
        for point, function in hooks:
            point.add_hook(_adapted(function), level=LEVEL)
        with suppress(Enough):
            yield
    finally:
        for point, _ in hooks:
            point.remove_hooks(dir="fwd", level=LEVEL)


def _adapted(function: Function) -> Callable[..., Any]:
    def run(value: Any, hook: Any) -> Any:  # noqa: ARG001 - TransformerLens passes it by name
        return function(value)

    return run
