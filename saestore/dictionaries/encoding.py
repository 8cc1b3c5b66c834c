"""Fixed blocks of rows, for the encoder's product at inference.

Libraries choose their arithmetic by the shape of a product, and a row's code must not depend on its
mates: at inference blocks have always the same number of rows, the last ones filled up with zeros.
"""

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad


ENCODE_ROWS = 256
"""Rows of one encoder product at inference."""


def blocks(rows: Float[Tensor, "row d"]) -> Iterator[tuple[Float[Tensor, "row d"], int]]:
    """Yield rows in blocks of equal size, and how many of each block are rows; one block at least."""
    for start in range(0, max(len(rows), 1), ENCODE_ROWS):
        block = rows[start : start + ENCODE_ROWS]
        given = len(block)
        yield (pad(block, (0, 0, 0, ENCODE_ROWS - given)) if given < ENCODE_ROWS else block), given
