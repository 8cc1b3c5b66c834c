"""Normalisation of each row by itself: a factor that no weights can contain.

| kind | x' | y |
|---|---|---|
| `token_norm` | a x √d / ‖x‖ | y' ‖x‖ / (a √d) |
| `token_layer_norm` | a (x − m) / (s + 1e-5) | y' s / a + m |

m and s are the row's own mean and deviation (of n − 1). ε is added on the way in alone, as SAELens and
OpenAI do. A row without length or spread is zero in normalised units. Dictionaries with such a scale
are imported, not trained here: a loss in normalised units would weigh all rows alike.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from saestore_schemas.dictionary import ScaleRecord


EPSILON = 1e-5
"""Added to a row's deviation by OpenAI's release."""


def normalise(record: ScaleRecord, rows: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
    """Return the rows in normalised units."""
    centre, divisor = _of(record, rows)
    epsilon = EPSILON if record.kind == "token_layer_norm" else 0.0
    centred = rows - centre
    return torch.where(divisor > 0, centred * record.a / (divisor + epsilon), 0)


def denormalise(
    record: ScaleRecord, out: Float[Tensor, "row d"], rows: Float[Tensor, "row d"]
) -> Float[Tensor, "row d"]:
    """Return reconstructions in raw units.

    Args:
        record: How rows are normalised.
        out: Reconstructions in normalised units.
        rows: The rows that were encoded, in raw units.
    """
    centre, divisor = _of(record, rows)
    return out * (divisor / record.a) + centre


def _of(
    record: ScaleRecord, rows: Float[Tensor, "row d"]
) -> tuple[Float[Tensor, "row 1"], Float[Tensor, "row 1"]]:
    """Return what is taken off each row, and what it is divided by."""
    if record.kind == "token_layer_norm":
        return rows.mean(dim=1, keepdim=True), rows.std(dim=1, keepdim=True)
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True) / rows.shape[1] ** 0.5
    return torch.zeros_like(length), length
