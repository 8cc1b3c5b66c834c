"""One measured score. Names, units and meanings stand in `saestore_schemas.metrics`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """One line of the scores: a value, or None where it is undefined, and what it rests on."""

    metric: str
    value: float | None
    n: int
