"""What features write on average, of families in which a feature writes another vector on each row.

    direction:  d_i = mean over its firings of U_i V_i x          additive:  mean of value / sigma U_i V_i x

As V_i and U_i are linear, it is V_i x, of few numbers, that is added up, and U_i of the sum that is taken:
in float64, in the order of the store, where rows are encoded. The price is one more product with V_i for
each firing. sigma is the final norm's scale of the row; without it only the first mean is known.

Such means are of the rows of the analysis, where the decoder vector of other families is a weight.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from saestore.analyze.scope import Scope
from saestore.analyze.values import stored
from saestore.dictionaries import SparseCode, SparseDictionary
from saestore.dictionaries.kernels import Pairs
from saestore.dictionaries.transforms import Transforms
from saestore_schemas.analyze import AnalyzeSettings, LogitScore


MEANS: tuple[LogitScore, ...] = ("direction", "additive")
"""Of what the means are, in the order of the sums."""


class MeanWritten:
    """Sums over firings of a dictionary in raw units."""

    def __init__(
        self, folded: SparseDictionary, maps: Transforms, scope: Scope, settings: AnalyzeSettings
    ) -> None:
        """Begin; no row is read.

        Args:
            folded: The dictionary.
            maps: By which its features write.
            scope: Which rows count, and their scales.
            settings: How values are stored.
        """
        self._reads, self._maps, self._scope, self._settings = (
            folded.hookpoints_in, maps, scope, settings,
        )  # fmt: skip
        self.firings = np.zeros(folded.d_sae, np.int64)
        self.sums: Float64[np.ndarray, "_ _"] = np.zeros((len(MEANS), maps.width))

    def update(self, code: SparseCode, rows: Mapping[str, Tensor], first: int) -> None:
        """Add rows.

        Args:
            code: What fires on them.
            rows: They, in raw units; those that were encoded.
            first: Number of the first one.
        """
        scope = self._scope
        count = min(code.n_rows, len(scope.tokens) - first)
        kept = np.zeros(code.n_rows, np.bool_)
        kept[:count] = scope.kept[first : first + count]
        scale = np.ones(code.n_rows)
        if scope.norm_scale is not None:
            scale[:count] = scope.norm_scale[first : first + count]
        row, value = (each.detach().cpu().numpy() for each in (code.row_ids, code.values))
        fires = kept[row] & (value > 0)
        weights = np.zeros((len(value), len(MEANS)))
        weights[fires, 0] = 1
        exact = stored(value[fires].astype(np.float32), self._settings.value_dtype)
        weights[fires, 1] = exact / scale[row[fires]]
        feature = code.indices.cpu().numpy()[fires]
        self.firings += np.bincount(feature, minlength=len(self.firings))
        given = torch.from_numpy(weights).to(code.values.device)
        pairs = Pairs(code.offsets, code.indices, code.d_sae)
        read = torch.cat([rows[hook] for hook in self._reads], dim=1)
        self.sums += self._maps.read_sums(read, given, pairs).cpu().numpy()

    def taken(self) -> dict[str, np.ndarray]:
        """Return what was added up since the last time, by name, and begin anew."""
        found = {"written_firings": self.firings, "written_sums": self.sums}
        self.firings, self.sums = np.zeros_like(self.firings), np.zeros_like(self.sums)
        return found

    def add(self, sums: Mapping[str, np.ndarray]) -> None:
        """Add what was added up elsewhere."""
        self.firings += sums["written_firings"]
        self.sums += sums["written_sums"]

    def vectors(self, score: LogitScore) -> Float64[Tensor, "d_sae d_out"]:
        """Return the mean of each feature; zeros of one that never fires."""
        written = self._maps.written(
            torch.from_numpy(self.sums[MEANS.index(score)]).to(self._device)
        )
        return written / torch.from_numpy(self.firings).clamp(min=1).to(written)[:, None]

    @property
    def _device(self) -> torch.device:
        return self._maps.groups[0].U.device
