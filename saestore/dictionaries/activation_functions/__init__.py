"""Activation functions: one per file, and this registry."""

from saestore.dictionaries.activation_functions.base import ActivationFunction
from saestore.dictionaries.activation_functions.relu import Relu
from saestore.dictionaries.activation_functions.topk import TopK
from saestore_schemas.dictionary import Activation


ACTIVATION_FUNCTIONS: dict[str, type[ActivationFunction]] = {"topk": TopK, "relu": Relu}
"""Kind in settings and `config.json` to class; each is made from its settings."""


def activation_function(settings: Activation) -> ActivationFunction:
    """Return the activation function that the settings describe."""
    return ACTIVATION_FUNCTIONS[settings.kind](settings)


__all__ = ["ACTIVATION_FUNCTIONS", "ActivationFunction", "activation_function"]
