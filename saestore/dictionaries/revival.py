"""Which dead features take over what is missing, by raw pre-activations: how they learn again."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from saestore.dictionaries import kernels, products, selection
from saestore.dictionaries.pre_activation import Choose, PreActivation


def strongest(k: int) -> Choose:
    """Return what chooses each row's `k` features with the largest gate scores."""

    def choose(gate: Tensor) -> selection.Chosen:
        return selection.of_indices(torch.topk(gate, k, dim=1, sorted=False).indices)

    return choose


def revived(
    pre: PreActivation,
    decoder: Float[Tensor, "d_sae d_out"],
    features: Int64[Tensor, " feature"],
    k: int,
) -> Float[Tensor, "row d_out"]:
    """Return the sum over each row's `k` features with the largest gate score, differentiable.

    Args:
        pre: The pre-activations.
        decoder: Decoder vectors, one a row.
        features: Which features may be used, ascending.
        k: How many on one row.
    """
    if k >= len(features):
        return products.mixed(pre.of(features).dense(), decoder[features])
    pairs, values = pre.chosen(strongest(k), features)
    return kernels.decoded(values, decoder, pairs)
