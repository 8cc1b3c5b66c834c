"""What a report says, apart from how it looks: text, numbers and plots of numbers."""

from collections.abc import Mapping
from dataclasses import dataclass


Values = tuple[float | None, ...]
"""Numbers of a curve; None where it is undefined."""


@dataclass(frozen=True)
class Lines:
    """Curves over the steps of a run.

    Attributes:
        title: What is plotted.
        steps: Steps of each curve.
        curves: Values by name.
        log: Whether the values are on a log scale; zeros and negative ones are gaps there.
        from_zero: Whether the scale begins at zero.
    """

    title: str
    steps: Mapping[str, tuple[int, ...]]
    curves: Mapping[str, Values]
    log: bool = False
    from_zero: bool = False


@dataclass(frozen=True)
class Bands:
    """Curves over the steps of a run, each inside a band; the scale begins at zero.

    Attributes:
        title: What is plotted.
        steps: Steps of all of them.
        bands: Low, middle and high by name.
    """

    title: str
    steps: tuple[int, ...]
    bands: Mapping[str, tuple[Values, Values, Values]]


@dataclass(frozen=True)
class Density:
    """How often features fire, over the steps of a run.

    Attributes:
        title: What is plotted.
        steps: Steps.
        shares: Of each step, the share of features in each bin, the most frequent first.
        bins: Name of each bin.
    """

    title: str
    steps: tuple[int, ...]
    shares: tuple[tuple[float, ...], ...]
    bins: tuple[str, ...]


@dataclass(frozen=True)
class Points:
    """Things with two numbers each, of which more is better on the vertical axis.

    Attributes:
        title: What is plotted.
        across: Name of the horizontal axis, on a log scale.
        up: Name of the vertical one.
        points: Horizontal and vertical number by name.
        front: Names that no other one beats, from left to right.
        beside: What is not among the points, and why; empty where nothing is missing.
    """

    title: str
    across: str
    up: str
    points: Mapping[str, tuple[float, float]]
    front: tuple[str, ...]
    beside: str = ""


Plot = Lines | Bands | Density | Points


@dataclass(frozen=True)
class Sheet:
    """A table of text.

    Attributes:
        title: What it lists.
        columns: Names of its columns.
        rows: Its cells.
        folded: Whether it is closed until someone opens it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    folded: bool = False


@dataclass(frozen=True)
class Document:
    """One report.

    Attributes:
        title: What it is about.
        summary: One line below the title.
        figures: The numbers to see first: name and value.
        plots: Plots.
        sheets: Tables.
        foot: Where it comes from.
    """

    title: str
    summary: str
    figures: tuple[tuple[str, str], ...]
    plots: tuple[Plot, ...]
    sheets: tuple[Sheet, ...]
    foot: str
