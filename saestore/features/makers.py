"""Frozen dataclasses made by the hundred."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast


_Fields = ParamSpec("_Fields")
_Made = TypeVar("_Made")


def maker(of: Callable[_Fields, _Made]) -> Callable[_Fields, _Made]:
    """Return what makes instances of a frozen dataclass, given its fields by name, in half the time.

    The class's own way sets one attribute after the other by `object.__setattr__`. This one is for a class
    without slots and without `__post_init__`, whose defaults are plain values. Only types are checked: who leaves
    out a field without a default finds no attribute.

    >>> from saestore.features.page import Neighbour
    >>> maker(Neighbour)(method="dec_cos", feature=3, score=0.5)
    Neighbour(method='dec_cos', feature=3, score=0.5)
    """
    kind = cast(Any, of)
    blank, put = kind.__new__, object.__setattr__

    def made(**fields: Any) -> Any:
        instance = blank(kind)
        put(instance, "__dict__", fields)
        return instance

    found: Callable[_Fields, _Made] = cast(Any, made)
    return found
