"""Which dead features take over what is missing, by raw pre-activations: how they learn again."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from saestore.dictionaries import kernels, products, selection
from saestore.dictionaries.pre_activation import PreActivation


RANKED_BYTES = 8 << 20
"""Gate scores of some features are copied so many bytes at a time to be ranked: all of them at once
may be as large as all pre-activations."""


def strongest(
    gate: Float[Tensor, "row d_sae"], features: Int64[Tensor, " feature"], k: int
) -> kernels.Pairs:
    """Return each row's `k` of some features with the largest gate scores.

    Scores are ranked some rows at a time, and everything after that touches the chosen pairs only.
    """
    step = max(1, RANKED_BYTES // (len(features) * gate.element_size()))
    largest = [
        torch.topk(gate[start : start + step, features], k, dim=1, sorted=False).indices
        for start in range(0, len(gate), step)
    ]
    return kernels.Pairs(*selection.of_indices(features[torch.cat(largest)]), gate.shape[1])


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
    pairs = strongest(pre.gate, features, k)
    return kernels.decoded(pre.at(pairs), decoder, pairs)
