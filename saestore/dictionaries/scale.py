"""Normalisation of a hookpoint's rows, x' = a (x − μ), from the moments of the whole store.

| kind | a | μ |
|---|---|---|
| `none` | 1 | 0 |
| `dataset_mean_norm` | √d / E‖x‖ | 0 |
| `dataset_rms` | √(d / E‖x‖²) | 0 |
| `dataset_centred_rms` | √(d / tr Cov x) | E x |

Centring is the default: with a large mean many features are dead at the start (arXiv:2605.31518),
and it costs nothing. `tr Cov` is the population's, m2 / count.
"""

import math
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from saestore.dictionaries import row_scale
from saestore.errors import ConfigError, UnsupportedError
from saestore_schemas.dictionary import ROW_SCALES, ScaleKind, ScaleRecord


@runtime_checkable
@runtime_checkable
class MomentsLike(Protocol):
    """Moments of one hookpoint over the rows that training uses, float64."""

    @property
    def count(self) -> int:
        """Rows measured."""
        ...

    @property
    def mean(self) -> Float64[np.ndarray, " d"]:
        """Mean of each dimension."""
        ...

    @property
    def m2(self) -> Float64[np.ndarray, " d"]:
        """Sum of squared deviations of each dimension."""
        ...

    @property
    def norm_sum(self) -> float:
        """Sum of the rows' lengths."""
        ...

    @property
    def norm_sq_sum(self) -> float:
        """Sum of the rows' squared lengths."""
        ...


def factor(kind: ScaleKind, moments: MomentsLike) -> float:
    """Return a, the factor of the normalisation.

    Raises:
        ConfigError: There are no rows, or all of them are equal.
    """
    if kind == "none":
        return 1.0
    width = len(moments.mean)
    if moments.count == 0:
        raise ConfigError(
            field="dictionary.scale", found="no rows", expected="moments of at least one row"
        )
    spread = {
        "dataset_mean_norm": (moments.norm_sum / moments.count) ** 2,
        "dataset_rms": moments.norm_sq_sum / moments.count,
        "dataset_centred_rms": float(moments.m2.sum()) / moments.count,
    }[kind]
    if not spread > 0:
        raise ConfigError(
            field="dictionary.scale",
            found=f"{kind} over rows without spread",
            expected="rows that differ",
            hint="use dictionary.scale = 'none', or check the activation store",
        )
    return math.sqrt(width / spread)


@dataclass(frozen=True)
class Scale:
    """One hookpoint's normalisation, applied while `record.state` is external.

    Attributes:
        record: How it came to be, and whether the weights contain it already.
        mean: μ in float64; None when not centred.
    """

    record: ScaleRecord
    mean: Float64[Tensor, " d"] | None
    _cast: dict[tuple[torch.device, torch.dtype], Tensor] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def external(self) -> bool:
        """Whether it must be applied to rows."""
        return self.record.state == "external"

    @property
    def by_row(self) -> bool:
        """Whether each row is normalised by itself, so that no weights can contain it."""
        return self.record.kind in ROW_SCALES

    def normalise(self, rows: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
        """Return the rows in normalised units."""
        if not self.external or self.record.kind == "none":
            return rows
        if self.by_row:
            return row_scale.normalise(self.record, rows)
        if self.mean is None:
            return rows * self.record.a
        return (rows - self._mean_like(rows)).mul_(self.record.a)

    def denormalise(
        self, rows: Float[Tensor, "row d"], encoded: Float[Tensor, "row d"] | None = None
    ) -> Float[Tensor, "row d"]:
        """Return normalised rows in raw units.

        Args:
            rows: Reconstructions.
            encoded: The rows that were encoded, in raw units; a scale of each row needs them.

        Raises:
            UnsupportedError: It needs them, and they are not given.
        """
        if not self.external or self.record.kind == "none":
            return rows
        if self.by_row:
            if encoded is None:
                raise UnsupportedError(
                    f"rows were normalised one by one ({self.record.kind}): a code alone does not say "
                    "how long its row was",
                    found="codes",
                    expected="codes and the rows that were encoded",
                    hint="decode(code, inputs)",
                )
            return row_scale.denormalise(self.record, rows, encoded)
        raw = rows / self.record.a
        return raw if self.mean is None else raw.add_(self._mean_like(rows))

    def _mean_like(self, rows: Tensor) -> Tensor:
        key = (rows.device, rows.dtype)
        if key not in self._cast and self.mean is not None:
            self._cast[key] = self.mean.to(device=rows.device, dtype=rows.dtype)
        return self._cast[key]


def mean_name(hookpoint: str) -> str:
    """Return the name of the tensor that holds a hookpoint's mean."""
    return f"scale.{hookpoint}.mean"


def measured(
    hookpoint: str, kind: ScaleKind, moments: MomentsLike, excluded: tuple[str, ...]
) -> Scale:
    """Return the normalisation that a hookpoint's moments call for.

    Args:
        hookpoint: Its name.
        kind: Which rule.
        moments: Its moments.
        excluded: Which rows the moments leave out, for the record.

    Raises:
        ConfigError: There are no rows, or all of them are equal.
    """
    centred = kind == "dataset_centred_rms"
    record = ScaleRecord(
        kind=kind,
        a=factor(kind, moments),
        mean=mean_name(hookpoint) if centred else None,
        rows=moments.count,
        excluded=excluded,
        state="external",
    )
    return Scale(record, torch.tensor(moments.mean, dtype=torch.float64) if centred else None)
