"""Numbers with what they count: so many things, bytes, rates, durations."""

from collections.abc import Collection

from saestore.numbers import count


_KIB = 1024


def many(n: int, things: str) -> str:
    """Return so many things, in the singular if it is one.

    >>> many(1234, "held_out_rows"), many(1, "files"), many(1, "dictionaries")
    ('1,234 held out rows', '1 file', '1 dictionary')
    """
    name = things.replace("_", " ")
    if n == 1:
        name = f"{name[:-3]}y" if name.endswith("ies") else name.removesuffix("s")
    return f"{count(n)} {name}"


def size(n: float) -> str:
    """Return bytes in the largest unit that leaves a number of 1 or more.

    >>> size(1536)
    '1.5 KiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < _KIB:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= _KIB
    return f"{n:.1f} TiB"


def amount(n: float, unit: str) -> str:
    """Return so many units; bytes are scaled."""
    return size(n) if unit == "B" else f"{count(round(n))} {_plural(unit)}"


def _plural(unit: str) -> str:
    return unit if unit.endswith("s") else f"{unit}s"


def rate(per_second: float, unit: str) -> str:
    """Return a speed.

    >>> rate(1900.4, "tokens"), rate(0.25, "steps")
    ('1,900 tokens/s', '0.25 steps/s')
    """
    if unit == "B":
        return f"{size(per_second)}/s"
    shown = f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.2g}"  # noqa: PLR2004
    return f"{shown} {_plural(unit)}/s"


def duration(seconds: float) -> str:
    """Return a duration as h:mm:ss or m:ss.

    >>> duration(75), duration(3675)
    ('1:15', '1:01:15')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


_SEVERAL = 4
"""Heads of which each score is said; of more they are in the table alone."""


def of_heads(name: str, scores: Collection[str]) -> list[str]:
    """Return the names under which a score is found: its own, or those of several heads; none of many."""
    if name in scores:
        return [name]
    found = [full for full in scores if full.startswith(f"{name}@")]
    return found if len(found) <= _SEVERAL else []
