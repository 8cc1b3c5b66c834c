"""Scores that other libraries compute within a batch and then average over batches.

Their value depends on the size of a batch, and their mean over batches is not what all rows
together would give: read `explained_variance` instead, and these to compare with what a library
printed. A batch is `BATCH_ROWS` consecutive evaluated rows, however they arrive; rows after the
last whole batch are left out, unless there is none.

| name | one batch | who averages it |
|---|---|---|
| `ev_legacy_row` | mean over rows of 1 - |e|^2 / |y - mean y|^2 | SAELens and SAEBench, "legacy" |
| `fvu_batch` | sum |e|^2 / sum |y - mean y|^2 | sparsify |
| `ev_batch_mean` | 1 - that | llamascopium, "explained_variance" |
| `ev_residual_centred` | 1 - sum Var e / sum Var y | dictionary_learning |
"""

import numpy as np
from jaxtyping import Float64

from saestore.evaluate.metrics import complement, mean
from saestore.evaluate.spread import Spread


BATCH_ROWS = 4096
"""Rows of one batch."""

BATCHED = ("ev_legacy_row", "ev_legacy_row_std", "ev_residual_centred", "fvu_batch",
           "ev_batch_mean")  # fmt: skip
"""What is computed here."""


class Batched:
    """Averages over batches of consecutive rows."""

    def __init__(self, batch_rows: int = BATCH_ROWS) -> None:
        self._size = batch_rows
        self._held: list[tuple[Float64[np.ndarray, "row d"], Float64[np.ndarray, "row d"]]] = []
        self._held_rows = 0
        self._whole = _Averages()

    def update(self, y: Float64[np.ndarray, "row d"], error: Float64[np.ndarray, "row d"]) -> None:
        """Add rows and their errors, which must not change afterwards."""
        start = 0
        while start < len(y):
            part = slice(start, start + self._size - self._held_rows)
            self._held.append((y[part], error[part]))
            self._held_rows += len(y[part])
            start += len(y[part])
            if self._held_rows == self._size:
                self._close(self._whole)
                self._held, self._held_rows = [], 0

    def values(self) -> dict[str, tuple[float | None, int]]:
        """Return each average, None where undefined, and the rows it rests on."""
        averages = self._whole
        if averages.batches == 0 and self._held:
            averages = _Averages()
            self._close(averages)
        return averages.values()

    def _close(self, averages: "_Averages") -> None:
        y, error = (np.concatenate(parts) for parts in zip(*self._held, strict=True))
        averages.add(y, error)


class _Averages:
    """Sums over batches."""

    def __init__(self) -> None:
        self.batches = 0
        self._rows = 0
        self._fvu = [0.0, 0.0]  # uncentred and centred
        self._defined = 0
        self._shares: Spread | None = None

    def add(self, y: Float64[np.ndarray, "row d"], error: Float64[np.ndarray, "row d"]) -> None:
        """Add one batch."""
        self.batches += 1
        self._rows += len(y)
        spread = Spread.of(y)
        total = float(spread.m2.sum())
        ee = np.einsum("ij,ij->i", error, error)
        if total > 0:
            self._defined += 1
            self._fvu[0] += float(ee.sum()) / total
            self._fvu[1] += float(Spread.of(error).m2.sum()) / total
        shifted = y - spread.shift - spread.mean
        around = np.einsum("ij,ij->i", shifted, shifted)
        some = around > 0
        if some.any():
            shares = Spread.of((1 - ee[some] / around[some])[:, None])
            self._shares = shares if self._shares is None else self._shares.merge(shares)

    def values(self) -> dict[str, tuple[float | None, int]]:
        """Return each average and the rows it rests on."""
        shares, rows = self._shares, self._rows
        counted = 0 if shares is None else shares.count
        legacy = None if shares is None else float(shares.centre[0])
        std = None
        if shares is not None and counted > 1:
            std = float(np.sqrt(shares.m2[0] / (counted - 1)))
        unexplained, centred = (mean(total, self._defined) for total in self._fvu)
        return {
            "ev_legacy_row": (legacy, counted),
            "ev_legacy_row_std": (std, counted),
            "ev_residual_centred": (complement(centred), rows),
            "fvu_batch": (unexplained, rows),
            "ev_batch_mean": (complement(unexplained), rows),
        }
