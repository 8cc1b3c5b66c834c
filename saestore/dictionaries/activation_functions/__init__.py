"""Activation functions: one per file, and this registry."""

from collections.abc import Mapping

from torch import Tensor

from saestore.dictionaries.activation_functions.abstopk import AbsTopK
from saestore.dictionaries.activation_functions.base import ActivationFunction
from saestore.dictionaries.activation_functions.batchtopk import BatchTopK
from saestore.dictionaries.activation_functions.gated import Gated
from saestore.dictionaries.activation_functions.jumprelu import JumpRelu
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
}
"""Kind in settings and `config.json` to class."""


def activation_function(semantics: Semantics, tensors: Mapping[str, Tensor]) -> ActivationFunction:
    """Return the activation function that the record describes, with its tensors of the file."""
    return ACTIVATION_FUNCTIONS[semantics.activation.kind](semantics, tensors)


__all__ = ["ACTIVATION_FUNCTIONS", "ActivationFunction", "activation_function"]
