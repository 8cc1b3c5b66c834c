"""Metrics of a run, in long form: (step, rows, name, index, value).

They come from the forward pass that trained, and only when a step is logged. Nothing that depends
on the clock is among them, so that a resumed run's table equals an uninterrupted one's, byte for
byte; rates stand in the manifest.

| name | meaning |
|---|---|
| `loss`, `loss_mse`, `loss_sparsity`, `loss_aux` | the loss and its terms, weighted |
| `ev_batch` | 1 − Σ(y−ŷ)² / Σ(y−ȳ)² over this batch; `evaluate` computes the real one |
| `l0_mean`, `l0_p5`, `l0_p95` | firings on one row |
| `l0_layer`, `l0_rank` | where features have layers, or maps of some ranks: mean firings on one row of those of each layer, in order; of each rank, highest first |
| `dead_layer`, `dead_rank` | of these features, how many are `dead` |
| `dec_norm_layer`, `dec_norm_rank` | of these features, mean `dec_norm` |
| `l0_head`, `dead_head`, `dec_norm_head` | the same of all features at each head that gates by itself; what fires at some head counts once in `l0_mean`, what is silent at all of them in `dead`; densities are of each feature at each head |
| `lr`, `grad_norm` | learning rate; L2 norm of all gradients before clipping |
| `weight_sparsity`, `weight_aux` | weights of the terms at this step |
| `k`, … | what the activation function is set to |
| `threshold_*` | thresholds: mean, min, max over features |
| `enc_norm_*`, `dec_norm_*`, `b_dec_norm` | lengths: mean, min, max over features |
| `dead` | features silent for `loss.aux.dead_after_rows` rows |
| `dead_1e5`, `dead_1e6`, `dead_1e7` | features silent for that many rows |
| `density_rows` | rows over which densities are measured: `log.density_window`, or since the last log |
| `density_histogram` | features by log10 of that density, index = bin |
| `density_above_*`, `density_below_*` | share of features denser or rarer than that |
| `activation_mean` | mean activation over firings |
| `evaluate/…` | scores of `evaluate` on held-out rows, with `evaluate_every` |
| `loss_scale` | factor of the loss under float16 |
| `l2_error`, `l2_error_ratio` | mean length of the error; the same over the targets' mean length |
"""

from collections.abc import Mapping

import pyarrow as pa
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from saestore.dictionaries import SparseDictionary
from saestore.lake import table_file
from saestore.train.counters import FiringCounters
from saestore.train.objectives import Pass
from saestore_schemas import tables


DEAD_WINDOWS = {"dead_1e5": 10**5, "dead_1e6": 10**6, "dead_1e7": 10**7}
DENSITY_ABOVE = {"density_above_1e-1": 1e-1, "density_above_1e-2": 1e-2}
DENSITY_BELOW = {"density_below_1e-5": 1e-5, "density_below_1e-6": 1e-6, "density_below_1e-7": 1e-7}
DENSITY_BINS = 8
"""Bins of log10 density: index i counts densities in (10^-(i+1), 10^-i], the last everything
below; index DENSITY_BINS counts features that never fired."""

WIDE_ROWS = 256
"""Rows that are measured at once: in float64, a whole batch would be twice its size several times."""

Metrics = dict[str, float | tuple[float, ...]]
"""One logged step: a number, or the elements of a vector."""


class MetricsTable:
    """The rows of `metrics.parquet` so far."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, int, str, int, float | None]] = []

    def add(self, step: int, rows: int, metrics: Mapping[str, float | tuple[float, ...]]) -> None:
        """Add one logged step.

        Args:
            step: Optimiser steps done.
            rows: Rows seen.
            metrics: Numbers by name; NaN becomes null.
        """
        for name in sorted(metrics):
            value = metrics[name]
            vector = value if isinstance(value, tuple) else (value,)
            self._rows.extend(
                (step, rows, name, index, None if element != element else float(element))  # noqa: PLR0124 - NaN
                for index, element in enumerate(vector)
            )

    def replace(self, step: int, rows: int, metrics: Mapping[str, float]) -> None:
        """Add metrics of a step, instead of those of their names that stand there already."""
        self._rows = [each for each in self._rows if each[0] != step or each[2] not in metrics]
        self.add(step, rows, metrics)

    def to_bytes(self) -> bytes:
        """Return the table as a Parquet file, the same bytes for the same rows."""
        schema = tables.METRICS.schema()
        columns = list(zip(*self._rows, strict=True)) or [()] * len(schema)
        table = pa.table(
            [
                pa.array(column, type=field.type)
                for column, field in zip(columns, schema, strict=True)
            ],
            schema=schema,
        )
        return table_file.to_bytes(table)

    @classmethod
    def from_bytes(cls, data: bytes) -> "MetricsTable":
        """Return the rows of a Parquet file."""
        result = cls()
        table = table_file.from_bytes(data)
        result._rows = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
        return result


class PassSums:
    """What forward passes over the parts of one batch say about reconstruction and sparsity."""

    def __init__(self) -> None:
        self._rows = 0
        self._error = self._error_length = self._length = self._activation = 0.0
        self._firings = 0
        self._targets: dict[str, tuple[Tensor, float]] = {}
        self._l0: list[Tensor] = []
        self._grouped: dict[str, list[int]] = {}

    @torch.no_grad()
    def add(self, seen: Pass) -> None:
        """Add one part."""
        rows = len(next(iter(seen.targets.values())))
        for start in range(0, rows, WIDE_ROWS):
            few = slice(start, start + WIDE_ROWS)
            for hook, target in seen.targets.items():
                self._add(hook, target[few].double(), seen.output.reconstruction[hook][few])
            self._rows += min(WIDE_ROWS, rows - start)
        code = seen.output.code
        self._l0.append(seen.dictionary.l0(code).double())
        firings = code.firings()
        self._firings += int(firings.sum())
        for kind, own in by_group(firings, seen.dictionary.groups).items():
            before = self._grouped.get(kind, [0] * len(own))
            self._grouped[kind] = [a + b for a, b in zip(before, own, strict=True)]
        weights = torch.ones_like(seen.dictionary.column_norms())
        self._activation += float(code.weighted_sum(weights).double().sum())

    def _add(
        self, hook: str, wide: Float64[Tensor, "row d"], reconstruction: Float[Tensor, "row d"]
    ) -> None:
        """Add some rows of a hookpoint."""
        residual = wide - reconstruction.double()
        self._error += float(residual.square().sum())
        self._error_length += float(_lengths(residual).sum())
        self._length += float(_lengths(wide).sum())
        mean = wide.mean(dim=0)
        spread = float((wide - mean).square().sum())
        if self._rows:  # Chan's formula
            before, its = self._targets[hook]
            shift = mean - before
            share = len(wide) / (self._rows + len(wide))
            spread += its + float(shift.square().sum()) * self._rows * share
            mean = before + shift * share
        self._targets[hook] = (mean, spread)

    def metrics(self) -> Metrics:
        """Return the metrics of the whole batch."""
        spread = sum(each for _, each in self._targets.values())
        l0 = torch.cat(self._l0)
        low, high = torch.quantile(l0, l0.new_tensor([0.05, 0.95])).tolist()
        found: Metrics = {
            f"l0_{kind}": tuple(count / len(l0) for count in counts)
            for kind, counts in self._grouped.items()
        }
        return found | {
            "ev_batch": 1 - self._error / spread if spread else float("nan"),
            "l0_mean": float(l0.mean()),
            "l0_p5": low,
            "l0_p95": high,
            "activation_mean": self._activation / self._firings if self._firings else float("nan"),
            "l2_error": self._error_length / self._rows,
            "l2_error_ratio": self._error_length / self._length if self._length else float("nan"),
        }


Groups = Mapping[str, Mapping[str, slice]]
"""See `SparseDictionary.groups`."""


def by_group(counts: Int64[Tensor, " d_sae"], groups: Groups) -> dict[str, list[int]]:
    """Return a count of features, added up over each group."""
    return {
        kind: [int(counts[own].sum()) for own in each.values()] for kind, each in groups.items()
    }


def of_counters(counters: FiringCounters, dead_after: int, groups: Groups) -> Metrics:
    """Return what the counters say, and start their densities anew.

    Args:
        counters: They.
        dead_after: Silent rows after which a feature is dead.
        groups: Of the features.
    """
    firings, rows = counters.drain()
    density = firings.double() / max(rows, 1)
    dead = counters.silent(dead_after)
    found: Metrics = {"dead": float(counters.count_dead(dead_after)), "density_rows": float(rows)}
    for kind, counts in by_group(dead.long(), groups).items():
        found[f"dead_{kind}"] = tuple(map(float, counts))
    for name, window in DEAD_WINDOWS.items():
        found[name] = float(counters.count_dead(window))
    for name, limit in DENSITY_ABOVE.items():
        found[name] = float((density > limit).double().mean())
    for name, limit in DENSITY_BELOW.items():
        found[name] = float((density < limit).double().mean())
    found["density_histogram"] = tuple(float(count) for count in _histogram(firings, density))
    return found


def of_weights(dictionary: SparseDictionary) -> Metrics:
    """Return lengths of the weights."""
    found: Metrics = {"b_dec_norm": dictionary.decoder_bias_norm(), **dictionary.scalars()}
    with torch.no_grad():
        spans = {"enc_norm": dictionary.encoder_norms(), "dec_norm": dictionary.decoder_norms()}
        thresholds = dictionary.thresholds()
        if thresholds is not None:
            spans["threshold"] = thresholds
        for name, values in spans.items():
            found[f"{name}_mean"] = float(values.double().mean())
            found[f"{name}_min"] = float(values.min())
            found[f"{name}_max"] = float(values.max())
        written = dictionary.column_norms()
        for kind, each in dictionary.groups.items():
            parts = [written[own] for own in each.values()]
            found[f"dec_norm_{kind}"] = tuple(float(part.double().mean()) for part in parts)
    return found


def _lengths(rows: Float[Tensor, "row d"]) -> Float[Tensor, " row"]:
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return lengths


def _histogram(firings: Int64[Tensor, " d_sae"], density: Float[Tensor, " d_sae"]) -> list[int]:
    bins = (-torch.log10(density.clamp(min=10.0 ** -(DENSITY_BINS + 1)))).floor().long()
    bins = torch.where(firings == 0, DENSITY_BINS, bins.clamp(max=DENSITY_BINS - 1))
    return [int(count) for count in torch.bincount(bins, minlength=DENSITY_BINS + 1)]
