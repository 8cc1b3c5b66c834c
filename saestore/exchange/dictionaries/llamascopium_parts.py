"""What llamascopium's files of several families have in common: thresholds, hookpoints, scales of rows."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saestore.errors import ConfigError
from saestore.exchange import spelling
from saestore.exchange.dictionaries.files import Config, Weights
from saestore_schemas.dictionary import Activation


THETA = "activation_function.log_jumprelu_threshold"
NORM = "dataset_average_activation_norm."
PLAUSIBLE = (1e-3, 1e6)
"""Mean lengths of rows that a model may have; memory that nobody filled holds anything."""


def thresholds(weights: Weights, shape: Sequence[int]) -> Float[Tensor, "..."]:
    """Return the thresholds themselves, which are stored as their logarithms.

    Raises:
        ConfigError: They are no numbers of each feature, or layer and feature.
    """
    theta = weights.raw(THETA).float().exp()
    if tuple(theta.shape) != tuple(shape) or not torch.isfinite(theta).all():
        raise ConfigError(
            file=str(weights.path),
            field=THETA,
            found=list(theta.shape),
            expected=f"logarithms of {list(shape)} thresholds",
            hint="memory that was never filled, or another dictionary's",
        )
    return theta


def hooks(config: Config, name: str) -> tuple[str, ...]:
    """Return hookpoints as TransformerLens spells them.

    Raises:
        ConfigError: One has no such name.
    """
    found = []
    for theirs in config.get(name, list):
        ours = spelling.translated(str(theirs))
        if ours is None:
            raise ConfigError(
                file=str(config.path),
                field=name,
                found=theirs,
                expected="names such as blocks.8.hook_mlp_out",
                hint="write TransformerLens's names into the config",
            )
        found.append(ours)
    return tuple(found)


def factor(weights: Weights, hook: str, width: int) -> float:
    """Return √d over the mean length of rows.

    Raises:
        ConfigError: It is not in the file, or was never set.
    """
    norm = weights.number(f"{NORM}{hook}")
    low, high = PLAUSIBLE
    if norm is None or not low <= norm <= high:
        raise ConfigError(
            file=str(weights.path),
            field=f"{NORM}{hook}",
            found=norm,
            problem="is not there" if norm is None else f"is {norm:g}: memory that nobody filled",
            expected=f"the mean length of rows, {low:g} to {high:g}",
            hint="if the weights contain the normalisation, say --fold-state folded",
        )
    return math.sqrt(width) / norm


def written_config(
    family: str, activation: Activation, *, width: int, features: int
) -> dict[str, Any]:
    """Return what the config of any family says, of weights that contain the normalisation."""
    expansion = features / width
    if int(width * expansion) != features:  # it rounds the product down
        expansion = math.nextafter(expansion, math.inf)
    return {
        "sae_type": family,
        "d_model": width,
        "expansion_factor": expansion,
        "use_decoder_bias": True,
        "act_fn": activation.kind,
        "norm_activation": "inference",
        "top_k": int(getattr(activation, "k", 50)),
        "use_triton_kernel": False,
        "sparsity_threshold_for_triton_spmm_kernel": 0.996,
        "jumprelu_threshold_window": float(getattr(activation, "bandwidth", 2.0)),
    }
