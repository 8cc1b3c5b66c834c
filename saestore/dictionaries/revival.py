"""Which dead features take over what is missing, by raw pre-activations: how they learn again."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from saestore.dictionaries import backends, kernels, products, selection
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
    if k > products.dense_share(pre.lengths) * len(features):
        return _densely(pre, decoder, features, k)
    pairs, values = pre.chosen(strongest(k), features)
    return kernels.decoded(values, decoder, pairs)


def _densely(
    pre: PreActivation,
    decoder: Float[Tensor, "d_sae d_out"],
    features: Int64[Tensor, " feature"],
    k: int,
) -> Float[Tensor, "row d_out"]:
    """Return the same by a dense product, as wide as the device multiplies fast."""
    taken = filled(features, pre.d_sae, backends.of(features.device).product_features)
    some = pre.of(taken)
    code = some.dense()
    if k < len(taken):
        gate, usable = some.gate, torch.isin(taken, features, assume_unique=True)
        if len(taken) > len(features):
            gate = gate.masked_fill(~usable, -torch.inf)
        chosen = torch.topk(gate, min(k, len(features)), dim=1, sorted=False).indices
        kept = torch.zeros_like(code, dtype=torch.bool).scatter_(1, chosen, value=True)
        code = torch.where(kept, code, 0)
    return products.mixed(code, decoder.index_select(0, taken))


def filled(features: Int64[Tensor, " feature"], d_sae: int, multiple: int) -> Int64[Tensor, " _"]:
    """Return some features and as many others as make their number a multiple, ascending."""
    missing = -len(features) % multiple
    if not missing or len(features) + missing > d_sae:
        return features
    free = torch.ones(d_sae, dtype=torch.bool, device=features.device)
    free[features] = False
    others = free.nonzero()[:missing, 0]
    return torch.cat([features, others]).sort().values
