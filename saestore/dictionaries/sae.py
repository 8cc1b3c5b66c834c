"""Sparse autoencoder: reconstructs the hookpoint it reads.

See `linear` for the equations; n_i = ‖W_dec[i]‖. Weights: W_enc (d_in, d_sae), b_enc, W_dec (d_sae, d_in),
b_dec, with a GLU encoder W_glu and b_glu, and those of the activation function.

Source: Bricken et al. 2023, "Towards Monosemanticity"; Gao et al. 2024 (arXiv:2406.04093).
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saestore.dictionaries.linear import LinearDictionary
from saestore_schemas.dictionary import DictionaryConfig


class Sae(LinearDictionary):
    """A sparse autoencoder."""

    family: ClassVar[str] = "sae"

    @classmethod
    @override
    def lengths(
        cls, decoder: Float[Tensor, "d_sae d_out"], config: DictionaryConfig
    ) -> Float[Tensor, " d_sae"]:
        """Return the length of each decoder vector."""
        norms: Tensor = torch.linalg.vector_norm(decoder, dim=1)
        return norms
