"""What a conversion did and how exact it was."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Conversion:
    """One dictionary between two formats, measured.

    Attributes:
        format: Tool and version whose format was read or written.
        architecture: What that tool calls this kind of dictionary.
        hookpoint: What it reads; several hookpoints with commas.
        d_in: Width of that, of all together.
        d_sae: Features.
        steps: What was decided and rewritten, in order.
        inexact: Why the two sides differ by more than rounding; empty where they do not.
        rows: Rows that both sides computed.
        tied_rows: Rows left out of the errors, because rounding decides what fires there.
        firings: Activations compared that are not zero.
        max_error_codes: Largest difference of a feature, relative to the largest feature.
        max_error_reconstruction: Largest difference of a row, relative to the row's length.
        store: Store whose rows were computed too, or None.
        explained_variance: Share of the variance of these rows that is explained, or None.
        l0: Features that fire on one of these rows on average, or None.
    """

    format: str
    architecture: str
    hookpoint: str
    d_in: int
    d_sae: int
    steps: tuple[str, ...]
    inexact: tuple[str, ...]
    rows: int
    tied_rows: int
    firings: int
    max_error_codes: float
    max_error_reconstruction: float
    store: str | None = None
    explained_variance: float | None = None
    l0: float | None = None

    @property
    def max_error(self) -> float:
        """The larger of the two errors."""
        return max(self.max_error_codes, self.max_error_reconstruction)


@dataclass(frozen=True)
class ExportReport:
    """One dictionary written for another tool.

    Attributes:
        conversion: What was done and measured.
        dictionary: Its name.
        folder: Where it was written.
        files: Files written there.
    """

    conversion: Conversion
    dictionary: str
    folder: Path
    files: tuple[str, ...]


@dataclass(frozen=True)
class ImportReport:
    """One dictionary of another tool, in the lake.

    Attributes:
        conversion: What was done and measured; None where it was there already.
        dictionary: Its name.
        source: What was read.
    """

    conversion: Conversion | None
    dictionary: str
    source: str
