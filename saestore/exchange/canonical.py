"""The form through which dictionaries change formats: raw units, gate on h, nothing subtracted.

    f = act(x W_enc + b_enc)          x̂ = f W_dec + b_dec          W_dec[i] of length 1 where exact

Reached by exact rewrites only, in float64. Unit decoder vectors scale each feature by its own
length, which changes what a top-k ranks unless it ranked by that product; where it did not, the
decoder keeps its lengths. The caller rounds once, at the end.
"""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from saestore.dictionaries import SparseDictionary
from saestore.errors import UnsupportedError
from saestore_schemas.dictionary import Activation, TopK


EQUAL_LENGTHS = 1e-5
"""Relative spread below which decoder lengths count as one: float32 renormalising leaves 1e-7."""

TENSORS = {"W_enc", "b_enc", "W_dec", "b_dec"}


@dataclass(frozen=True)
class Canonical:
    """A plain autoencoder in raw units, float64.

    Attributes:
        W_enc: Encoder.
        b_enc: Encoder bias.
        W_dec: Decoder vectors.
        b_dec: Decoder bias.
        activation: What selects among the pre-activations, row by row.
        factors: Its features are the dictionary's times this.
        rewrites: What was done to get here, in order.
    """

    W_enc: Float64[Tensor, "d_in d_sae"]
    b_enc: Float64[Tensor, " d_sae"]
    W_dec: Float64[Tensor, "d_sae d_out"]
    b_dec: Float64[Tensor, " d_out"]
    activation: Activation
    factors: Float64[Tensor, " d_sae"]
    rewrites: tuple[str, ...]


def canonical(dictionary: SparseDictionary, *, tool: str) -> Canonical:
    """Return the canonical form of a dictionary that is a plain autoencoder.

    Raises:
        UnsupportedError: It computes something that four matrices cannot say.
    """
    dictionary = copy.deepcopy(dictionary).cpu().double()
    rewrites = []
    if any(scale.external for scale in dictionary.scales.values()):
        dictionary = dictionary.folded()
        rewrites.append("normalisation folded into the weights")
    tensors = {name: tensor.double() for name, tensor in dictionary.tensors().items()}
    semantics = dictionary.config.semantics
    if set(tensors) != TENSORS or len(dictionary.hookpoints_in) != 1:
        raise UnsupportedError(
            f"{tool} has no counterpart of family {dictionary.config.family!r} with tensors "
            f"{', '.join(sorted(tensors))}",
            found=dictionary.config.family,
            expected="one input hookpoint and W_enc, b_enc, W_dec, b_dec",
            hint="export a plain sparse autoencoder",
        )
    W_enc, b_enc, W_dec, b_dec = (tensors[n] for n in ("W_enc", "b_enc", "W_dec", "b_dec"))
    if semantics.subtract_b_dec:
        b_enc = b_enc - b_dec @ W_enc
        rewrites.append("b_dec absorbed into b_enc")
    lengths = torch.linalg.vector_norm(W_dec, dim=1)
    topk = isinstance(semantics.activation, TopK)
    factors, done = _factors(lengths, topk=topk, gate_on_norm=semantics.gate_on_decoder_norm)
    # A decoder vector of zero adds nothing whatever its feature; 0/0 would make it NaN.
    divisors = torch.where(factors == 0, torch.ones_like(factors), factors)
    return Canonical(
        W_enc=W_enc * factors,
        b_enc=b_enc * factors,
        W_dec=W_dec / divisors.unsqueeze(1),
        b_dec=b_dec,
        activation=semantics.activation,
        factors=factors,
        rewrites=(*rewrites, *done),
    )


def _factors(
    lengths: Float64[Tensor, " d_sae"], *, topk: bool, gate_on_norm: bool
) -> tuple[Float64[Tensor, " d_sae"], list[str]]:
    """Return what each feature is multiplied with, and how to say so."""
    zero = int((lengths == 0).sum())
    silenced = [f"{zero} features with a decoder vector of zero silenced"] if zero else []
    if topk and gate_on_norm:
        return lengths, ["unit decoder, which is what the top-k ranked", *silenced]
    if not topk:
        kept = torch.where(lengths == 0, torch.ones_like(lengths), lengths)
        return kept, ["unit decoder"]
    if lengths.max() <= lengths.min() * (1 + EQUAL_LENGTHS) and not zero:
        return torch.full_like(lengths, float(lengths.mean())), ["unit decoder"]
    return torch.ones_like(lengths), ["decoder lengths kept: the top-k ranks without them"]
