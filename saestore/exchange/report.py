"""What an export did and how exact it was."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ExportReport:
    """One dictionary written for another tool.

    Attributes:
        format: Tool and version whose format was written.
        architecture: What that tool calls this kind of dictionary.
        folder: Where.
        files: Files written there.
        rewrites: The exact rewrites that were needed, in order.
        rows: Rows of the fixed batch both sides computed.
        tied_rows: Rows left out of the errors, because float32 cannot tell which feature is the
            k-th there.
        max_error: The larger of the two errors.
        max_error_codes: Largest difference of a feature's contribution, relative to the largest.
        max_error_reconstruction: Largest difference of a row, relative to the row's length.
    """

    format: str
    architecture: str
    folder: Path
    files: tuple[str, ...]
    rewrites: tuple[str, ...]
    rows: int
    tied_rows: int
    max_error_codes: float
    max_error_reconstruction: float

    @property
    def max_error(self) -> float:
        """The larger of the two errors."""
        return max(self.max_error_codes, self.max_error_reconstruction)
