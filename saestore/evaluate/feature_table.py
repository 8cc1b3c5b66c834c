"""One line per feature of an evaluation: how often it fires, and which features are nearest."""

from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float64, Int64, Shaped

from saestore.evaluate.cosines import Compared
from saestore.evaluate.sparsity import Sparsity, rate_bound
from saestore_schemas import tables


def feature_table(
    sparsity: Sparsity, norms: Float64[np.ndarray, " d_sae"], compared: Compared | None
) -> pa.Table:
    """Return the features as `tables.FEATURE_SCORES`.

    Args:
        sparsity: Counts over the evaluated rows.
        norms: Length of each decoder vector in raw units.
        compared: How alike features are; None if that was not measured.
    """
    firings, first = sparsity.firings, sparsity.first
    silent = firings == 0
    bound = rate_bound(sparsity.rows)
    nothing = np.full(len(norms), np.nan)
    none = np.full(len(norms), -1)
    decoder, encoder = (None, None) if compared is None else (compared.decoder, compared.encoder)
    columns = {
        "feature": pa.array(np.arange(len(norms), dtype=np.uint32)),
        "n_firings": firings,
        "density": _masked(sparsity.densities, np.full(len(norms), sparsity.rows == 0)),
        "mean": _masked(sparsity.sums / np.maximum(firings, 1), silent),
        "first_row": _masked(first, silent),
        "rate_bound": _masked(np.full(len(norms), bound or 0.0), ~silent | (bound is None)),
        "dec_norm": norms,
        "decoder_cosine_max": _known(nothing if decoder is None else decoder.cosine),
        "decoder_nearest": _index(none if decoder is None else decoder.feature),
        "encoder_cosine_max": _known(nothing if encoder is None else encoder.cosine),
        "encoder_nearest": _index(none if encoder is None else encoder.feature),
        "enc_dec_cosine": _known(nothing if compared is None else compared.enc_dec),
    }
    return pa.table(columns, schema=tables.FEATURE_SCORES.schema())


def _masked(values: Shaped[np.ndarray, " d_sae"], undefined: Shaped[np.ndarray, " d_sae"]) -> Any:
    return pa.array(values, mask=undefined)


def _known(values: Float64[np.ndarray, " d_sae"]) -> Any:
    return _masked(values, np.isnan(values))


def _index(features: Int64[np.ndarray, " d_sae"]) -> Any:
    return pa.array(np.maximum(features, 0).astype(np.uint32), mask=features < 0)
