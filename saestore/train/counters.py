"""Which features have been silent, for how long: counted in rows, never in steps.

One row is one token, so the numbers mean the same at every batch size. Firings are also counted
since metrics were last logged, for densities.
"""

import torch
from jaxtyping import Bool, Int64
from torch import Tensor


class FiringCounters:
    """Counters of every feature; part of each checkpoint.

    Attributes:
        rows_since_fired: Rows since a feature last fired.
        firings: Rows on which it fired since the counters were last drained.
        rows: Rows since they were last drained.
    """

    def __init__(self, d_sae: int, device: torch.device) -> None:
        self.rows_since_fired: Int64[Tensor, " d_sae"] = torch.zeros(
            d_sae, dtype=torch.int64, device=device
        )
        self.firings: Int64[Tensor, " d_sae"] = torch.zeros_like(self.rows_since_fired)
        self.rows = 0

    def update(self, firings: Int64[Tensor, " d_sae"], rows: int) -> None:
        """Count one batch.

        Args:
            firings: On how many of its rows each feature fired.
            rows: Its rows.
        """
        self.rows_since_fired.add_(rows).masked_fill_(firings > 0, 0)
        self.firings.add_(firings)
        self.rows += rows

    def silent(self, rows: int) -> Bool[Tensor, " d_sae"]:
        """Return which features have not fired for at least so many rows."""
        return self.rows_since_fired >= rows

    def drain(self) -> tuple[Int64[Tensor, " d_sae"], int]:
        """Return firings and rows since the last time, and start again."""
        counted = self.firings.clone(), self.rows
        self.firings.zero_()
        self.rows = 0
        return counted
