"""What the folded weights alone say about each feature."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt16

from saestore.features import arrow
from saestore_schemas import tables


@dataclass(frozen=True)
class WeightFacts:
    """Columns of `features` that need no data; NaN stands for undefined and is stored as null.

    Attributes:
        enc_norm: Length of the encoder vector.
        dec_norm: Length of the decoder vector, raw units.
        enc_dec_cos: Their cosine; NaN where shapes differ or one is zero.
        b_enc: Encoder bias.
        threshold: Threshold of the activation; None if it has none, or several of each feature.
        layer_features: Features of each layer, one after the other; None where there are no layers.
        rank: Rank of the linear map; None where features write vectors.
    """

    enc_norm: Float32[np.ndarray, " d_sae"]
    dec_norm: Float32[np.ndarray, " d_sae"]
    enc_dec_cos: Float32[np.ndarray, " d_sae"]
    b_enc: Float32[np.ndarray, " d_sae"]
    threshold: Float32[np.ndarray, " d_sae"] | None = None
    layer_features: int | None = None
    rank: UInt16[np.ndarray, " d_sae"] | None = None

    def columns(self, first: int, n: int) -> dict[str, Any]:
        """Return the columns of features `first` to `first + n - 1`, nulls where undefined."""
        part = slice(first, first + n)
        nothing = np.ones(n, dtype=bool)
        layer, index = divmod(np.arange(first, first + n), self.layer_features or first + n + 1)
        columns = {
            "layer": (layer, None),
            "index": (index, None),
            "enc_norm": (self.enc_norm[part], None),
            "dec_norm": (self.dec_norm[part], None),
            "enc_dec_cos": (self.enc_dec_cos[part], np.isnan(self.enc_dec_cos[part])),
            "b_enc": (self.b_enc[part], None),
            "threshold": (np.zeros(n), nothing)
            if self.threshold is None
            else (self.threshold[part], None),
            "rank": (np.zeros(n), nothing) if self.rank is None else (self.rank[part], None),
        }
        schema = tables.FEATURES.schema()
        return {
            name: arrow.column(values, schema.field(name).type, null=null)
            for name, (values, null) in columns.items()
        }
