"""Which features have been silent, for how long: counted in rows, never in steps.

One row is one token, so the numbers mean the same at every batch size. Firings are counted too, for
densities: since metrics were last logged, or over the last batches, of which a ring is kept then.
"""

import torch
from jaxtyping import Bool, Int32, Int64
from torch import Tensor


class FiringCounters:
    """Counters of every feature; part of each checkpoint.

    Attributes:
        rows_since_fired: Rows since a feature last fired.
        firings: Rows on which it fired, of those counted for densities.
        rows: Rows counted for densities.
        recent: Firings of the last batches, in turn; empty when densities start anew at each log.
        batches: Batches counted, which says whose turn it is.
    """

    def __init__(
        self, d_sae: int, device: torch.device, window: int = 0, *, gates: int = 1
    ) -> None:
        """Count nothing yet.

        Args:
            d_sae: Features; of one with several gates, features of each.
            device: Where they are.
            window: Batches over which densities are measured; 0, those since the last `drain`.
            gates: How many each feature has: it is dead only where all of them are silent.
        """
        self.gates = gates
        self.rows_since_fired: Int64[Tensor, " d_sae"] = torch.zeros(
            d_sae, dtype=torch.int64, device=device
        )
        self.firings: Int64[Tensor, " d_sae"] = torch.zeros_like(self.rows_since_fired)
        self.rows = 0
        self.recent: Int32[Tensor, "batch d_sae"] = torch.zeros(
            window, d_sae, dtype=torch.int32, device=device
        )
        self.batches = 0

    def update(self, firings: Int64[Tensor, " d_sae"], rows: int) -> None:
        """Count one batch.

        Args:
            firings: On how many of its rows each feature fired.
            rows: Its rows.
        """
        self.rows_since_fired.add_(rows).masked_fill_(firings > 0, 0)
        window = len(self.recent)
        if window:
            oldest = self.recent[self.batches % window]
            self.firings.sub_(oldest)
            oldest.copy_(firings)
        if not window or self.batches < window:
            self.rows += rows
        self.firings.add_(firings)
        self.batches += 1

    def silent(self, rows: int) -> Bool[Tensor, " d_sae"]:
        """Return which features have not fired for at least so many rows; with gates, which of each."""
        return self.rows_since_fired >= rows

    def dead(self, rows: int) -> Int64[Tensor, " feature"]:
        """Return the features that were silent for so many rows at all of their gates."""
        return self._everywhere(rows).repeat(self.gates).nonzero()[:, 0]

    def count_dead(self, rows: int) -> int:
        """Return how many features that are."""
        return int(self._everywhere(rows).sum())

    def _everywhere(self, rows: int) -> Bool[Tensor, " _"]:
        return self.silent(rows).view(self.gates, -1).all(dim=0)

    def drain(self) -> tuple[Int64[Tensor, " d_sae"], int]:
        """Return firings and rows for densities; without a window, start them again."""
        counted = self.firings.clone(), self.rows
        if not len(self.recent):
            self.firings.zero_()
            self.rows = 0
        return counted

    def tensors(self) -> dict[str, Tensor]:
        """Return its state, as far as it is tensors."""
        return {
            "rows_since_fired": self.rows_since_fired,
            "firings": self.firings,
            "recent": self.recent,
        }

    def values(self) -> dict[str, int]:
        """Return the rest of its state."""
        return {"rows": self.rows, "batches": self.batches}
