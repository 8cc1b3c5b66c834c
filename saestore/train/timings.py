"""How fast a run was and how much memory it took, in long form like its metrics.

In a table of their own, because no rerun repeats them: `metrics.parquet` of a resumed run equals
an uninterrupted one's, byte for byte.

| name | meaning |
|---|---|
| `rows_per_s` | rows trained on a second since the last log; of a sweep, by each of its dictionaries |
| `seconds_waiting` | seconds waited for rows since the last log |
| `peak_memory_bytes` | largest size of the process so far |
| `peak_device_bytes` | largest memory of the GPU so far, if there is one |
"""

import sys
import time
from dataclasses import dataclass, field

import torch

from saestore.train.metrics import Metrics


@dataclass
class Clock:
    """Where the time of one pass over the rows goes.

    Attributes:
        started: When it began.
        rows: Rows trained on.
        waited: Seconds waited for rows.
    """

    started: float = field(default_factory=time.perf_counter)
    rows: int = 0
    waited: float = 0.0

    def facts(self) -> dict[str, float]:
        """Return rates of the whole pass, for a manifest."""
        elapsed = time.perf_counter() - self.started
        return {
            "rows_per_s": self.rows / elapsed if elapsed else 0.0,
            "seconds": elapsed,
            "seconds_waiting_for_rows": self.waited,
        }


@dataclass
class Laps:
    """What the clock showed when a run last logged."""

    clock: Clock
    at: float = field(default_factory=time.perf_counter)
    rows: int = 0
    waited: float = 0.0

    def lap(self, device: torch.device) -> Metrics:
        """Return rates since the last lap, and the memory so far."""
        now, clock = time.perf_counter(), self.clock
        found: Metrics = {
            "rows_per_s": (clock.rows - self.rows) / (now - self.at),
            "seconds_waiting": clock.waited - self.waited,
            "peak_memory_bytes": float(peak_memory()),
        }
        if device.type == "cuda":
            found["peak_device_bytes"] = float(torch.cuda.max_memory_allocated(device))
        self.at, self.rows, self.waited = now, clock.rows, clock.waited
        return found


def peak_memory() -> int:
    """Return the largest size this process had, in bytes; 0 where the system does not say."""
    try:
        import resource  # noqa: PLC0415 - not on every system
    except ModuleNotFoundError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
