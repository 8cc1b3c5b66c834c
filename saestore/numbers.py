"""Numbers as people read them: thousands separated, four significant digits, never a row of zeros."""

import math


_SIGNIFICANT = 4
_GROUPED = 100_000
"""From here on, digits before the point are grouped instead of counted."""
_LARGE = 1_000_000_000
"""From here on, a measured value is a power of ten: a loss of 1e30 has no thirty digits to read."""


def count(n: int) -> str:
    """Return a whole number with thousands separators.

    >>> count(1234567)
    '1,234,567'
    """
    return f"{n:,}"


def value(x: object) -> str:
    """Return a measured value with four significant digits; a dash where it is undefined.

    Whole numbers are counted, and what is no number stands as it is.

    >>> value(0.123456), value(1234567.0), value(3e-07), value(1e30), value(None)
    ('0.1235', '1,234,567', '3e-07', '1e+30', '-')
    """
    if x is None:
        return "-"
    if isinstance(x, bool) or not isinstance(x, (int, float)):
        return str(x)
    if math.isnan(x):
        return "-"
    if isinstance(x, int) or (x.is_integer() and abs(x) < _LARGE):
        return count(int(x))
    return f"{x:,.0f}" if _GROUPED <= abs(x) < _LARGE else f"{x:.{_SIGNIFICANT}g}"


def share(x: float | int) -> str:
    """Return a share in per cent, as long as that is easier to read than the number.

    >>> share(0.8819), share(-3.5), share(-1e30)
    ('88.2%', '-350.0%', '-1e+30')
    """
    return f"{x:.1%}" if abs(x) < _PERCENT else value(x)


_PERCENT = 1000
"""From here on, a share is no share."""
