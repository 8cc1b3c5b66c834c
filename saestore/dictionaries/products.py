"""Dense matrix products, in a lower precision where `torch.autocast` asks for one.

Only the factors of a product are rounded. Its sum is kept in float32 where the device can, biases
are added and everything is ranked in the type of the weights, so that a bfloat16 product changes
values by its rounding and no feature by a bias that was rounded too.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from saestore.dictionaries import backends


def asked(device: torch.device) -> torch.dtype | None:
    """Return the type in which products are wanted; None, the type of their factors."""
    if not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def dense_share(like: Tensor) -> float:
    """Return the share of pairs among all entries above which dense products are faster.

    Args:
        like: Of the type and on the device of the weights.
    """
    return backends.dense_share(like.device, asked(like.device) or like.dtype)


def product(
    left: Float[Tensor, "row _"], right: Float[Tensor, "_ _"], dtype: torch.dtype | None
) -> Float[Tensor, "row _"]:
    """Return left @ right in the type of `left`, its factors rounded to `dtype`.

    Without one, a narrower right factor is widened.
    """
    if dtype is None:
        return left @ right.to(left.dtype)
    with torch.autocast(left.device.type, enabled=False):
        backend = backends.of(left.device)
        return backend.product(left.to(dtype), right.to(dtype), left.dtype)


def mixed(left: Float[Tensor, "row _"], right: Float[Tensor, "_ _"]) -> Float[Tensor, "row _"]:
    """Return left @ right as torch differentiates it, a narrower right factor widened."""
    return left @ (right if asked(left.device) else right.to(left.dtype))


def biased(
    read: Float[Tensor, "row d_in"],
    encoder: Float[Tensor, "d_sae d_in"],
    bias: Float[Tensor, " d_sae"],
    out: Float[Tensor, "row d_sae"],
    dtype: torch.dtype | None,
) -> Float[Tensor, "row d_sae"]:
    """Write read @ encoder.T + bias into `out`, and return it; factors rounded as in `product`."""
    if dtype is None:
        return torch.addmm(bias, read, encoder.T.to(read.dtype), out=out)
    return torch.add(product(read, encoder.T, dtype), bias, out=out)
