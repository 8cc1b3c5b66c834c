"""llamascopium's transcoders: its sparse autoencoders whose two hookpoints differ.

    f = activation function of h n, over n        h = a x W_E + b_E        ŷ = (f W_D + b_D) / c

Weights that do not contain the normalisation are folded while they are read: W_enc *= a; W_dec, b_dec /= c;
θ on h n: θ/c.
"""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from saestore.dictionaries import SparseDictionary
from saestore.errors import UnsupportedError
from saestore.exchange.dictionaries.files import Config, Weights
from saestore.exchange.dictionaries.foreign import Asked, Foreign
from saestore.exchange.dictionaries.llamascopium_activation import Activation
from saestore.exchange.dictionaries.llamascopium_parts import layer, layer_codes, silent_features
from saestore.exchange.dictionaries.llamascopium_transcoding import Transcoding
from saestore.exchange.dictionaries.reference import Compute, Computed


def is_one(config: Config) -> bool:
    """Return whether what a config describes reconstructs something else than it reads."""
    return config.values.get("hook_point_out") not in {None, config.get("hook_point_in", str)}


def read(config: Config, weights: Weights, asked: Asked, *, known: frozenset[str]) -> Foreign:
    """Return what a config and its weights hold.

    Raises:
        ConfigError: A tensor is missing or misshapen, or nothing says whether the weights contain the
            normalisation.
        UnsupportedError: It has an activation function or a normalisation without a counterpart here.
    """
    found = Transcoding.of("transcoder", config, weights, asked, weights.shape("W_E")[0])
    theirs, activation = layer(weights, config), found.activation
    return found.foreign(
        _folded(theirs, *found.factors, on_lengths=activation.gate_on_norm),
        _compute(theirs, activation, found.factors),
        known=known,
        decided=silent_features(theirs, activation),
        glu="W_glu" in theirs,
    )


def check(dictionary: SparseDictionary) -> None:
    """Refuse a transcoder that its files cannot say.

    Raises:
        UnsupportedError: It has a skip, or two widths.
    """
    config = dictionary.config
    if config.options.skip:
        raise UnsupportedError(
            "llamascopium has no counterpart of a transcoder's skip",
            found="skip",
            expected="an encoder and a decoder",
            hint="export it to SAELens, which has them",
        )
    if config.d_in != config.d_out:
        raise UnsupportedError(
            f"it reads width {config.d_in[0]} and writes width {config.d_out[0]}, and those of llamascopium "
            "have one",
            found=f"widths {config.d_in[0]}, {config.d_out[0]}",
            expected="hookpoints of one width",
            hint="export it to SAELens, which has two",
        )


def _folded(
    tensors: Mapping[str, Tensor], a: float, c: float, *, on_lengths: bool
) -> dict[str, Tensor]:
    """Return weights that read and reconstruct rows as they are."""
    by = {"W_enc": a, "W_glu": a, "W_dec": 1 / c, "b_dec": 1 / c}
    by["threshold"] = 1 / c if on_lengths else 1.0
    return {name: (tensor.double() * by.get(name, 1.0)).float() for name, tensor in tensors.items()}


def _compute(
    tensors: Mapping[str, Tensor], activation: Activation, factors: tuple[float, float]
) -> Compute:
    """Return what it computes from rows as they are."""
    a, c = factors

    def compute(rows: Float[Tensor, "row d_in"]) -> Computed:
        w = {name: tensor.to(rows.dtype) for name, tensor in tensors.items()}
        codes = layer_codes(w, activation, rows * a)
        return Computed(codes, (codes.values @ w["W_dec"] + w["b_dec"]) / c)

    return compute
