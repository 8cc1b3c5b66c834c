"""OpenAI's sparse autoencoders: one `.pt` state dict for each (openai/sparse_autoencoder 4965b94).

    h = (x' − pre_bias) encoder.weightᵀ + latent_bias      f = relu(h), of the k largest if TopK
    x̂' = f decoder.weightᵀ + pre_bias

Releases with TopK normalise each row: x' is x less its mean over its deviation (of n − 1) + 1e-5;
the reconstruction is scaled back by the deviation alone. That is not stored: TopK implies it. `.pt`
files are read by the weights-only loader.
"""

from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saestore.errors import ConfigError, UnsupportedError
from saestore.exchange.dictionaries import reference
from saestore.exchange.dictionaries.files import Weights
from saestore.exchange.dictionaries.foreign import (
    Asked,
    DictionaryFormat,
    Foreign,
    Meaning,
    Normalisation,
)
from saestore.exchange.dictionaries.reference import Computed
from saestore.exchange.place import listed


STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
"""Buffers of training."""


class OpenAI(DictionaryFormat):
    """Dictionaries of openai/sparse_autoencoder."""

    title: ClassVar[str] = "OpenAI sparse_autoencoder"
    version: ClassVar[str] = "4965b94"

    @override
    def read(self, place: Path, asked: Asked) -> Foreign:
        """Return what a `.pt` file holds.

        Raises:
            ConfigError: It is torn, needs code to be run, or not of this format.
            UnsupportedError: Its activation function keeps negative values.
        """
        weights = Weights.pt(_file(place))
        d_sae, d_in = weights.shape("encoder.weight")
        activation, k = _activation(weights)
        w = {
            "pre_bias": weights.take("pre_bias", d_in),
            "encoder.weight": weights.take("encoder.weight", d_sae, d_in),
            "latent_bias": weights.take("latent_bias", d_sae),
            "decoder.weight": weights.take("decoder.weight", d_in, d_sae),
        }
        weights.done(*STATISTICS)
        scale: Normalisation = "token_layer_norm" if k else "none"
        decided = [*weights.notes]
        if k:
            decided.append("TopK implies that each row is normalised by its own mean and deviation")
        return Foreign(
            architecture=f"Autoencoder, {activation}",
            version=None,
            files=(weights.path,),
            hookpoint=None,
            model=None,
            meaning=Meaning(
                {"kind": "topk", "k": k} if k else {"kind": "relu"},
                subtract_b_dec=True,
                scale=scale,
            ),
            tensors={
                "W_enc": w["encoder.weight"].T.contiguous(),
                "b_enc": w["latent_bias"],
                "W_dec": w["decoder.weight"].T.contiguous(),
                "b_dec": w["pre_bias"],
            },
            compute=_forward(w, k),
            decided=tuple(decided),
        )


def _forward(w: dict[str, Tensor], k: int) -> reference.Compute:
    """Return what its Autoencoder computes from these weights."""

    def compute(rows: Float[Tensor, "row d_in"]) -> Computed:
        like = {name: each.to(rows.dtype) for name, each in w.items()}
        kind = "token_layer_norm" if k else "none"
        read, back = reference.NORMALISATIONS[kind](rows, 1.0)
        h = (read - like["pre_bias"]) @ like["encoder.weight"].T + like["latent_bias"]
        codes = reference.topk(h, k) if k else reference.relu(h)
        out = codes.values @ like["decoder.weight"].T + like["pre_bias"]
        return Computed(codes, back(out))

    return compute


def _activation(weights: Weights) -> tuple[str, int]:
    """Return the name of its activation function, and k, which is 0 for ReLU.

    Raises:
        UnsupportedError: It keeps negative values.
    """
    name: Any = weights.other("activation") or "ReLU"
    state: Any = weights.other("activation_state_dict") or {}
    if name == "ReLU":
        return name, 0
    after = state.get("postact_fn", "ReLU") if isinstance(state, dict) else None
    k = state.get("k") if isinstance(state, dict) else None
    if name == "TopK" and after == "ReLU" and isinstance(k, int) and k > 0:
        return name, k
    raise UnsupportedError(
        f"{weights.path}: activation {name!r} ({state}) keeps negative values, or is not known here",
        found=str(name),
        expected="ReLU, or TopK followed by ReLU",
        hint="only these can be imported",
    )


def _file(place: Path) -> Path:
    """Return the file that was named, or the only `.pt` of a folder.

    Raises:
        ConfigError: There are several, or none.
    """
    if place.is_file():
        return place
    found = sorted(place.glob("*.pt"))
    if len(found) == 1:
        return found[0]
    raise ConfigError(
        field="path",
        found=str(place),
        problem=f"{place} holds {len(found)} .pt files",
        expected="one, or the name of one",
        hint=f"name the file: {found[0]}" if found else f"{place} holds {listed(place)}",
    )
