"""Where names stand beside points, so that they can be read: a plan of boxes, without drawing.

Each name tries a few places around its point, nearest first, and takes one where it covers no other
name and no other point and stays inside. A name that finds none is left out: a table has it. What is
placed first has the most room.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Place(NamedTuple):
    """Where a name begins or ends, from its point.

    Attributes:
        right: To the right, in points (1/72 inch).
        up: Upwards, likewise.
        side: Which end of the name is there.
    """

    right: float
    up: float
    side: str


class _Box(NamedTuple):
    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: "_Box") -> bool:
        apart = self.right <= other.left or other.right <= self.left
        return not (apart or self.top <= other.bottom or other.top <= self.bottom)

    def within(self, other: "_Box") -> bool:
        return (
            other.left <= self.left
            and self.right <= other.right
            and other.bottom <= self.bottom
            and self.top <= other.top
        )


_LETTER, _LINE = 4.3, 8.0
"""Width of a letter and height of a name at 7 points."""
_DOT = 3.5
"""Half the width of a point's mark."""
_PLACES = (
    Place(5, 3, "left"), Place(5, -10, "left"), Place(-5, 3, "right"), Place(-5, -10, "right"),
    Place(0, 7, "center"), Place(0, -14, "center"), Place(12, 14, "left"), Place(12, -22, "left"),
    Place(-12, 14, "right"), Place(-12, -22, "right"),
)  # fmt: skip


def places(
    points: Sequence[tuple[float, float]], names: Sequence[str], *, width: float, height: float
) -> list[Place | None]:
    """Return where each name stands; None where there is no room.

    Args:
        points: Where they are, from the lower left corner, in points (1/72 inch).
        names: Their names; earlier ones choose first.
        width: Of the plot.
        height: Of the plot.
    """
    inside = _Box(0, 0, width, height)
    dots = [_Box(x - _DOT, y - _DOT, x + _DOT, y + _DOT) for x, y in points]
    taken: list[_Box] = []
    found: list[Place | None] = []
    for (x, y), name in zip(points, names, strict=True):
        free = None
        for place in _PLACES:
            box = _box(x, y, name, place)
            if box.within(inside) and not any(box.meets(each) for each in (*taken, *dots)):
                free = place
                taken.append(box)
                break
        found.append(free)
    return found


def _box(x: float, y: float, name: str, place: Place) -> _Box:
    """Return what a name covers at a place."""
    width = _LETTER * len(name)
    left = x + place.right - {"left": 0.0, "center": width / 2, "right": width}[place.side]
    return _Box(left, y + place.up, left + width, y + place.up + _LINE)
