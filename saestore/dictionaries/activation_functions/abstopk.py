"""AbsTopK: the k pre-activations of each row that are furthest from zero fire, signs kept.

    S = the k largest of |g|,  f = h on S, else 0

A feature then stands for two opposite directions. Everything that counts firings counts what is not
zero. Equal distances go to the lowest feature index.

Use TopK unless opposite meanings of one direction are what is asked about.
"""

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saestore.dictionaries.activation_functions.topk import TopK


class AbsTopK(TopK):
    """Keep the k furthest from zero."""

    firing: ClassVar[Literal["positive", "nonzero"]] = "nonzero"

    @staticmethod
    @override
    def scores(gate: Float[Tensor, "row d_sae"]) -> Float[Tensor, "row d_sae"]:
        """Return what is ranked."""
        return gate.abs()
