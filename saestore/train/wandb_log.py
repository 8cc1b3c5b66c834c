"""Metrics in Weights & Biases: the same numbers as `metrics.parquet`, at the same steps.

A resumed run goes on under the id it had, which is made from its fingerprint. W&B sees steps again
that lie between the last checkpoint and a crash, with the same values.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from saestore.errors import MissingExtraError
from saestore.lake.manifest import Run
from saestore_schemas.optimize import WandbSettings


class WandbLog:
    """One run as W&B shows it."""

    def __init__(self, settings: WandbSettings, run: Run) -> None:
        """Begin or go on.

        Args:
            settings: Where.
            run: What is trained.

        Raises:
            MissingExtraError: wandb is not installed.
        """
        self._wandb = imported()
        self._run = self._wandb.init(
            project=settings.project,
            entity=settings.entity,
            name=settings.name or run.ref.name,
            id=run.fingerprint.rpartition(":")[2][:16],
            resume="allow" if settings.mode == "online" else None,
            mode=settings.mode,
            config=dict(run.settings),
            reinit="create_new",
            settings=self._wandb.Settings(silent=True, console="off"),
        )

    def log(self, step: int, rows: int, metrics: Mapping[str, float | tuple[float, ...]]) -> None:
        """Report one logged step; vectors become histograms over their index."""
        shown: dict[str, Any] = {"rows": rows}
        for name, value in metrics.items():
            shown[name] = value
            if isinstance(value, tuple):
                edges = list(range(len(value) + 1))
                shown[name] = self._wandb.Histogram(np_histogram=(list(value), edges))
        self._run.log(shown, step=step)

    def close(self, *, finished: bool) -> None:
        """End the report."""
        self._run.finish(exit_code=0 if finished else 1)


def imported() -> ModuleType:
    """Return wandb.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import wandb  # noqa: PLC0415 - optional, and slow
    except ModuleNotFoundError as error:
        raise MissingExtraError(package="wandb", extra="wandb", purpose="log.wandb") from error
    found: ModuleType = wandb
    return found
