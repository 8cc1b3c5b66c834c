"""Crosscoder: one code for several hookpoints, each encoded, and reconstructed, by a head of its own.

    h = Σ_l x'^l W_enc^l + b_enc          ŷ'^l = f W_dec^l + b_dec^l          n^l_i = ‖W_dec^l[i]‖
    N_i = Σ_l n^l_i   (`head_norm` l1)    or    √(Σ_l n^l_i²)   (l2)

See `linear` for the rest, with N for n. L1 of the norms makes the loss a sum of SAE losses and lets a
feature belong to one head; L2 is better on squared error against L0 but takes that pressure away.
Weights: W_enc.{l} (d_l, d_sae), b_enc, W_dec.{l} (d_sae, d_l), b_dec.{l}, heads numbered in the order of
the hookpoints, which may differ in width.

Source: Lindsey et al. 2024, "Sparse Crosscoders for Cross-Layer Features and Model Diffing".
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saestore.dictionaries.linear import LinearDictionary
from saestore.dictionaries.sides import Sides
from saestore_schemas.dictionary import DictionaryConfig


class CrossCoder(LinearDictionary):
    """A crosscoder whose heads share one gate."""

    family: ClassVar[str] = "crosscoder"
    by_head: ClassVar[bool] = True

    @classmethod
    @override
    def lengths(
        cls, decoder: Float[Tensor, "d_sae d_out"], config: DictionaryConfig
    ) -> Float[Tensor, " d_sae"]:
        """Return the norm over heads of the lengths of each feature's decoder vectors."""
        if config.semantics.head_norm == "l2":
            joined: Tensor = torch.linalg.vector_norm(decoder, dim=1)
            return joined
        return cls._each_head(decoder, config).sum(dim=1)

    @staticmethod
    def _each_head(decoder: Tensor, config: DictionaryConfig) -> Float[Tensor, "d_sae head"]:
        sides = Sides(config.hookpoints_out, config.d_out)
        parts = sides.split(decoder).values()
        return torch.stack([torch.linalg.vector_norm(part, dim=1) for part in parts], dim=1)

    def head_norms(self) -> Float[Tensor, "d_sae head"]:
        """Return the length of each feature's decoder vector at each head, in the weights' units."""
        return self._each_head(self.W_dec.detach(), self.config)
