"""The encoder's product: in fixed blocks of rows at inference, and never too narrow.

Libraries choose their arithmetic by the shape of a product, and a row's code must not depend on its
mates: at inference blocks have always the same number of rows, the last ones filled up with zeros.
"""

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from saestore.dictionaries import precision, products
from saestore.dictionaries.pre_activation import Scratch


ENCODE_ROWS = 256
"""Rows of one encoder product at inference."""

PRODUCT_FEATURES = 16
"""Narrower encoder products are filled up to this width: below it MKL sums a row differently from
place to place in the block (seen at up to 11 columns, never from 13 on)."""


def blocks(rows: Float[Tensor, "row d"]) -> Iterator[tuple[Float[Tensor, "row d"], int]]:
    """Yield rows in blocks of equal size, and how many of each block are rows; one block at least."""
    for start in range(0, max(len(rows), 1), ENCODE_ROWS):
        block = rows[start : start + ENCODE_ROWS]
        given = len(block)
        yield (pad(block, (0, 0, 0, ENCODE_ROWS - given)) if given < ENCODE_ROWS else block), given


def encoded(
    rows: Float[Tensor, "row d_in"],
    vectors: Float[Tensor, "d_sae d_in"],
    bias: Float[Tensor, " d_sae"],
    out: Float[Tensor, "row d_sae"],
    scratch: Scratch,
) -> Float[Tensor, "row d_sae"]:
    """Write rows times vectors plus a bias into `out`, without gradient, and return it.

    Args:
        rows: What the encoder reads.
        vectors: Encoder vectors, one a row.
        bias: Encoder bias.
        out: Where the result goes; may be a stretch of a wider matrix.
        scratch: Kept memory, for what is too narrow.
    """
    wide = bias.to(precision.wide(bias.dtype))
    missing = PRODUCT_FEATURES - len(bias)
    if missing <= 0:
        return products.biased(rows, vectors, wide, out)
    filled = scratch.take("narrow", len(rows), PRODUCT_FEATURES, out)
    products.biased(rows, pad(vectors, (0, 0, 0, missing)), pad(wide, (0, missing)), filled)
    return out.copy_(filled[:, : len(bias)])
