"""Activation functions: one per file, and this registry."""

from collections.abc import Mapping

from torch import Tensor

from saestore.dictionaries.activation_functions.abstopk import AbsTopK
from saestore.dictionaries.activation_functions.base import ActivationFunction
from saestore.dictionaries.activation_functions.batchtopk import BatchTopK
from saestore.dictionaries.activation_functions.by_layer import ByLayer
from saestore.dictionaries.activation_functions.gated import Gated
from saestore.dictionaries.activation_functions.jumprelu import JumpRelu
from saestore.dictionaries.activation_functions.layertopk import BatchLayerTopK, LayerTopK
from saestore.dictionaries.activation_functions.relu import Relu
from saestore.dictionaries.activation_functions.topk import TopK
from saestore_schemas.dictionary import Semantics


ACTIVATION_FUNCTIONS: dict[str, type[ActivationFunction]] = {
    "topk": TopK,
    "batchtopk": BatchTopK,
    "jumprelu": JumpRelu,
    "relu": Relu,
    "gated": Gated,
    "abstopk": AbsTopK,
    "layertopk": LayerTopK,
    "batchlayertopk": BatchLayerTopK,
}
"""Kind in settings and `config.json` to class."""


def activation_function(
    semantics: Semantics, tensors: Mapping[str, Tensor], *, parts: int = 1
) -> ActivationFunction:
    """Return the activation function that the record describes, with its tensors of the file.

    Args:
        semantics: The record.
        tensors: By the names of the file, one number of each feature.
        parts: How many layers, or heads that gate by themselves, its columns belong to, one after the
            other.
    """
    kind = ACTIVATION_FUNCTIONS[semantics.activation.kind]
    if semantics.l0_scope == "row":
        return kind(semantics, tensors)
    if not semantics.ranks_together:
        return ByLayer(kind, semantics, tensors, parts)
    together = kind(semantics, tensors)
    if isinstance(together, BatchTopK):
        together.heads = parts
    return together


__all__ = ["ACTIVATION_FUNCTIONS", "ActivationFunction", "activation_function"]
