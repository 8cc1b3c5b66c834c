"""The canonical form as four matrices, for formats that know nothing else.

f = act(x W_enc + b_enc)          x̂ = f W_dec + b_dec          W_dec[i] of length 1 where exact
"""

from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor

from saestore.dictionaries import SparseDictionary, canonical as canonical_form
from saestore.errors import UnsupportedError
from saestore_schemas.dictionary import Activation


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
    form = canonical_form(dictionary)
    tensors = {name: tensor.double() for name, tensor in form.dictionary.tensors().items()}
    if set(tensors) != TENSORS or len(dictionary.hookpoints_in) != 1:
        raise UnsupportedError(
            f"{tool} has no counterpart of family {dictionary.config.family!r} with tensors "
            f"{', '.join(sorted(tensors))}",
            found=dictionary.config.family,
            expected="one input hookpoint and W_enc, b_enc, W_dec, b_dec",
            hint="export a plain sparse autoencoder",
        )
    return Canonical(
        **tensors,
        activation=dictionary.config.semantics.activation,
        factors=form.factors,
        rewrites=form.rewrites,
    )
