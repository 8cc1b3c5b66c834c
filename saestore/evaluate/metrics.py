"""One measured score. Names, units and meanings stand in `saestore_schemas.metrics`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """One line of the scores: a value, or None where it is undefined, and what it rests on."""

    metric: str
    value: float | None
    n: int


def ratio(over: float, under: float) -> float | None:
    """Return a quotient, or None when it is 0/0 or x/0."""
    return None if under == 0 else over / under


def mean(total: float, count: int) -> float | None:
    """Return a mean, or None of nothing."""
    return total / count if count else None


def complement(value: float | None) -> float | None:
    """Return 1 - value, None of None."""
    return None if value is None else 1.0 - value
