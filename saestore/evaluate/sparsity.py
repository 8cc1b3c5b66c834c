"""How sparse codes are: L0, L1, density of each feature, and which never fired.

A firing is an entry different from 0. `l0[low]` and `l0[high]` bound L0 over contexts like these. `dead[N]` looks at the first N evaluated rows, so it needs
at least N of them. That a feature stayed silent for N rows bounds its rate: were it r, N rows
would be silent with probability (1-r)^N, so r < 1 - 0.05^(1/N) with 95 % confidence. Rows of one
context are not independent; the same bound with contexts for rows is the cautious reading.
"""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Float64, Int64

from saestore.evaluate.intervals import context_interval
from saestore.evaluate.metrics import Score
from saestore_schemas.metrics import DENSITY_QUANTILES, ROW_QUANTILES, WINDOWS


_NEVER = np.iinfo(np.int64).max


def rate_bound(trials: int, confidence: float = 0.95) -> float | None:
    """Return the upper bound on the rate of an event absent from all trials; None without any."""
    if trials == 0:
        return None
    return -math.expm1(math.log1p(-confidence) / trials)


class Sparsity:
    """Counts over codes, added in the order of the rows.

    A feature that is decided on at several gates fires where it does at one of them, with the largest
    of its values; `l1` adds up what all of them write.

    Args:
        decoder_norms: Length of what each column of a code writes in raw units, the weights of `l1`.
        groups: Name of each group of columns that is scored by itself, such as those of one layer.
        gates: How often each feature is decided on; a code has a column of it for each.
    """

    def __init__(
        self,
        decoder_norms: Float[np.ndarray, " _"],
        groups: Mapping[str, slice] | None = None,
        *,
        gates: int = 1,
    ) -> None:
        self._groups, self._gates = groups or {}, gates
        self._norms = decoder_norms.astype(np.float64)
        self._column_firings = np.zeros(len(decoder_norms), np.int64)
        self._column_sums = np.zeros(len(decoder_norms), np.float64)
        self._firings = np.zeros(len(decoder_norms) // gates, np.int64)
        self._sums = np.zeros(len(self._firings), np.float64)
        self._first = np.full(len(self._firings), _NEVER, np.int64)
        self._context_starts: list[Int64[np.ndarray, " context"]] = []
        self._context_firings: list[Int64[np.ndarray, " context"]] = []
        self._rows_by_l0 = np.zeros(0, np.int64)
        self._last_context = -1
        self.rows = 0

    def update(
        self,
        rows: Int64[np.ndarray, " firing"],
        columns: Int64[np.ndarray, " firing"],
        values: Float[np.ndarray, " firing"],
        contexts: Int64[np.ndarray, " row"],
    ) -> None:
        """Add the codes of the next rows.

        Args:
            rows: Row of each entry, from 0 within these rows.
            columns: Its column: feature, or feature at a gate.
            values: Its value; zeros are no firings.
            contexts: Context of each of these rows, non-decreasing over the whole pass.
        """
        fires = values != 0
        rows, columns = rows[fires], columns[fires]
        sizes = np.abs(values[fires], dtype=np.float64)
        _count(columns, sizes, self._column_firings, self._column_sums)
        rows, features, sizes = self._of_features(rows, columns, sizes)
        _count(features, sizes, self._firings, self._sums)
        np.minimum.at(self._first, features, rows + self.rows)
        before = np.concatenate([[self._last_context], contexts[:-1]])
        starts = np.flatnonzero(contexts != before)
        self._context_starts.append(starts + self.rows)
        if len(contexts):
            self._per_row(np.bincount(rows, minlength=len(contexts)), starts)
            self._last_context = int(contexts[-1])
        self.rows += len(contexts)

    def _of_features(
        self,
        rows: Int64[np.ndarray, " firing"],
        columns: Int64[np.ndarray, " firing"],
        sizes: Float64[np.ndarray, " firing"],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return row, feature and size of each feature that fires at some gate."""
        if self._gates == 1:
            return rows, columns, sizes
        d_sae = len(self._firings)
        cells, place = np.unique(rows * d_sae + columns % d_sae, return_inverse=True)
        largest = np.zeros(len(cells), np.float64)
        np.maximum.at(largest, place, sizes)
        return cells // d_sae, cells % d_sae, largest

    def _per_row(self, per_row: Int64[np.ndarray, " row"], starts: Int64[np.ndarray, " _"]) -> None:
        """Add how many features fired on each row, and where contexts begin among the rows."""
        self._rows_by_l0 = _added(self._rows_by_l0, np.bincount(per_row))
        if self._context_firings:  # the rows before the first start belong to the context before
            before = int(starts[0]) if len(starts) else len(per_row)
            self._context_firings[-1][-1] += int(per_row[:before].sum())
        if len(starts):
            self._context_firings.append(np.add.reduceat(per_row, starts))

    @property
    def contexts(self) -> int:
        """Contexts seen."""
        return sum(len(starts) for starts in self._context_starts)

    @property
    def firings(self) -> Int64[np.ndarray, " d_sae"]:
        """Firings of each feature."""
        return self._firings

    @property
    def sums(self) -> Float64[np.ndarray, " d_sae"]:
        """Sum of the sizes of each feature's values."""
        return self._sums

    @property
    def first(self) -> Int64[np.ndarray, " d_sae"]:
        """Rows before each feature's first firing; -1 where it never fired."""
        return np.where(self._first == _NEVER, -1, self._first)

    @property
    def densities(self) -> Float64[np.ndarray, " d_sae"]:
        """Firings per row of each feature."""
        return self._firings / max(self.rows, 1)

    def scores(self) -> list[Score]:
        """Return the scores; all are None when no row was seen."""
        rows = self.rows
        per_row = {
            "l0": float(self._firings.sum()),
            "l1": float((self._column_sums * self._norms).sum()),
            "l1_raw": float(self._column_sums.sum()),
        }
        return [
            *(Score(name, total / rows if rows else None, rows) for name, total in per_row.items()),
            *(
                Score(
                    f"l0@{name}",
                    float(self._column_firings[own].sum()) / rows if rows else None,
                    rows,
                )
                for name, own in self._groups.items()
            ),
            self._mean_activation(),
            *self._l0(),
            *self._dead(),
            *self._density(),
        ]

    def _mean_activation(self) -> Score:
        firings = int(self._firings.sum())
        found = float(self._sums.sum()) / firings if firings else None
        return Score("mean_activation", found, firings)

    def _l0(self) -> list[Score]:
        """Return the interval of L0 over contexts, and its quantiles over rows."""
        starts = np.concatenate([np.zeros(0, np.int64), *self._context_starts])
        firings = np.concatenate([np.zeros(0, np.int64), *self._context_firings])
        bounds = context_interval(firings, np.diff(starts, append=self.rows))
        low, high = (None, None) if bounds is None else bounds
        reached = np.cumsum(self._rows_by_l0)
        at = {
            name: int(np.searchsorted(reached, max(1, -(-permille * self.rows // 1000))))
            for name, permille in ROW_QUANTILES.items()
        }
        return [
            Score("l0[low]", low, len(starts)),
            Score("l0[high]", high, len(starts)),
            *(Score(f"l0[{q}]", float(n) if self.rows else None, self.rows) for q, n in at.items()),
        ]

    def _dead(self) -> list[Score]:
        starts = np.concatenate([np.zeros(0, np.int64), *self._context_starts])
        dead, bounds, context_bounds = [], [], []
        for name, window in WINDOWS.items():
            n = self.rows if window is None else window
            seen = 0 < n <= self.rows
            contexts = int((starts < n).sum())
            dead.append(
                Score(f"dead[{name}]", float((self._first >= n).mean()) if seen else None, n)
            )
            bounds.append(Score(f"dead_rate_bound[{name}]", rate_bound(n) if seen else None, n))
            context_bounds.append(
                Score(
                    f"dead_rate_bound_contexts[{name}]",
                    rate_bound(contexts) if seen else None,
                    contexts,
                )
            )
        return [*dead, *bounds, *context_bounds]

    def _density(self) -> list[Score]:
        ordered, features = np.sort(self.densities), len(self._firings)
        places = {
            "min": 1,
            **{q: max(1, -(-permille * features // 1000)) for q, permille in
               DENSITY_QUANTILES.items()},
            "max": features,
        }  # fmt: skip
        return [
            Score(f"density[{name}]", float(ordered[place - 1]) if self.rows else None, features)
            for name, place in places.items()
        ]


def _count(
    places: Int64[np.ndarray, " firing"],
    sizes: Float64[np.ndarray, " firing"],
    firings: Int64[np.ndarray, " _"],
    sums: Float64[np.ndarray, " _"],
) -> None:
    """Add how often each place fires, and how strongly, in place."""
    firings += np.bincount(places, minlength=len(firings))
    sums += np.bincount(places, weights=sizes, minlength=len(sums))


def _added(
    left: Int64[np.ndarray, " _"], right: Int64[np.ndarray, " _"]
) -> Int64[np.ndarray, " _"]:
    """Return the sum of two counts of different lengths."""
    longer, shorter = (left, right) if len(left) >= len(right) else (right, left)
    total = longer.copy()
    total[: len(shorter)] += shorter
    return total
