"""What llamascopium's files of several families have in common: thresholds, hookpoints, scales of rows."""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from saestore.errors import ConfigError
from saestore.exchange import spelling
from saestore.exchange.dictionaries.files import Config, Weights
from saestore.exchange.dictionaries.llamascopium_activation import Activation
from saestore.exchange.dictionaries.reference import Codes


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


def layer(weights: Weights, config: Config) -> dict[str, Tensor]:
    """Return the weights of an encoder and a decoder by our names; what normalises stays for later.

    Raises:
        ConfigError: One is missing or misshapen, or is not known.
    """
    d_in, d_sae = weights.shape("W_E")
    w = {
        "W_enc": weights.take("W_E", d_in, d_sae),
        "b_enc": weights.take("b_E", d_sae),
        "W_dec": weights.take("W_D", d_sae, d_in),
    }
    biased = config.get("use_decoder_bias", bool, default=True)
    w["b_dec"] = weights.take("b_D", d_in) if biased else torch.zeros(d_in)
    if config.get("use_glu_encoder", bool, default=False):
        w["W_glu"] = weights.take("W_E_glu", d_in, d_sae)
        w["b_glu"] = weights.take("b_E_glu", d_sae)
    if config.get("act_fn", str, default="relu").lower() == "jumprelu":
        w["threshold"] = thresholds(weights, (d_sae,))
    weights.done(f"{NORM}*")
    return w


def layer_codes(
    w: Mapping[str, Tensor], activation: Activation, read: Float[Tensor, "row d_in"]
) -> Codes:
    """Return what one encoder computes from rows in the units of its weights."""
    h = read @ w["W_enc"] + w["b_enc"]
    if "W_glu" in w:
        h = h * torch.sigmoid(read @ w["W_glu"] + w["b_glu"])
    lengths = torch.linalg.vector_norm(w["W_dec"], dim=1)
    codes = activation.codes(h, lengths, w.get("threshold"))
    if activation.gate_on_norm:  # it divides by the length again: 0/0 for a vector of zero
        codes = codes._replace(values=torch.where(lengths > 0, codes.values, 0))
    return codes


def silent_features(w: Mapping[str, Tensor], activation: Activation) -> list[str]:
    """Return in words what becomes of features with a decoder vector of zero, if there are some."""
    silent = int((torch.linalg.vector_norm(w["W_dec"], dim=1) == 0).sum())
    if not silent or not activation.gate_on_norm:
        return []
    return [f"{silent} features with a decoder vector of zero, which it makes NaN, are 0"]
