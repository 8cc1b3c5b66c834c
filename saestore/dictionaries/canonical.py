"""The form in which dictionaries are compared and change formats.

    f = act(x W_enc + b_enc)          x̂ = f W_dec + b_dec          W_dec[i] of length 1 where exact

Raw units, gate on h, nothing subtracted. Reached by exact rewrites only, in float64. Unit decoder
vectors scale each feature by its own length, which changes what a top-k ranks unless it ranked by
that product; where it did not, and where heads gate by themselves, the decoder keeps its lengths. The
caller rounds once, at the end.
"""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from saestore.dictionaries.base import SparseDictionary
from saestore.errors import UnsupportedError


@dataclass(frozen=True)
class Canonical:
    """A dictionary in canonical form.

    Attributes:
        dictionary: It, float64, on the CPU.
        factors: Its activations are the given dictionary's times this.
        rewrites: What was done to get here, in order.
    """

    dictionary: SparseDictionary
    factors: Float64[Tensor, " _"]
    rewrites: tuple[str, ...]


def canonical(dictionary: SparseDictionary) -> Canonical:
    """Return the canonical form of a dictionary, or the last exact step towards it."""
    current = copy.deepcopy(dictionary).cpu().double()
    rewrites = []
    if any(scale.external for scale in current.scales.values()):
        current = current.folded()
        rewrites.append("normalisation folded into the weights")
    if current.config.semantics.subtract_b_dec:
        current = current.without_subtraction()
        rewrites.append("b_dec absorbed into b_enc")
    lengths = current.decoder_norms().detach()
    on_lengths = current.config.semantics.gate_on_decoder_norm
    ranks, zero = current.activation.ranks, int((lengths == 0).sum())
    try:
        current = current.with_unit_decoder()
    except UnsupportedError:
        why = "the top-k ranks without them" if current.gates == 1 else "each head gates by its own"
        rewrites.append(f"decoder lengths kept: {why}")
        return Canonical(current, lengths.new_ones(current.columns), tuple(rewrites))
    if ranks and on_lengths:
        rewrites.append("unit decoder, which is what the top-k ranked")
    else:
        rewrites.append("unit decoder")
    if zero and on_lengths:
        rewrites.append(f"{zero} features with a decoder vector of zero silenced")
    factors = lengths if on_lengths else torch.where(lengths == 0, 1.0, lengths)
    return Canonical(current, factors, tuple(rewrites))
