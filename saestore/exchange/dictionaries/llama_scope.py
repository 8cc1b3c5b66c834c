"""Llama Scope, first release: `hyperparams.json` and `checkpoints/final.safetensors`.

    h = a x encoder.weightᵀ + encoder.bias                 a = √d over the mean length of rows
    f = h where h > a θ                                    x̂ = (f decoder.weightᵀ + decoder.bias) / a

The factor is not in the weights, but θ is that of raw rows: it is multiplied by a. Leaving that out
gives far too many firings (SAELens #482). Later releases are llamascopium's own format.

Source: as sae-lens 6.54.12 reads them.
"""

import math
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saestore.errors import ConfigError, UnsupportedError
from saestore.exchange.dictionaries import reference
from saestore.exchange.dictionaries.files import Config, Weights, one_of
from saestore.exchange.dictionaries.foreign import Asked, DictionaryFormat, Foreign, Meaning
from saestore.exchange.dictionaries.reference import Computed


CONFIG = "hyperparams.json"
WEIGHTS = "checkpoints/final.safetensors"
MODEL = "meta-llama/Llama-3.1-8B"
"""All of the release are of it; the files do not say so."""


class LlamaScope(DictionaryFormat):
    """Dictionaries of the first release."""

    title: ClassVar[str] = "Llama Scope"
    version: ClassVar[str] = "first release"

    @override
    def read(self, place: Path, asked: Asked) -> Foreign:
        """Return what a folder holds.

        Raises:
            ConfigError: A file is missing, torn, or not of this format.
            UnsupportedError: It is a transcoder.
        """
        config = Config.read(one_of(place, CONFIG, tool=self.title))
        weights = Weights.safetensors(one_of(place, WEIGHTS, tool=self.title))
        _supported(config)
        d_sae, d_in = weights.shape("encoder.weight")
        w = {
            "encoder.weight": weights.take("encoder.weight", d_sae, d_in),
            "encoder.bias": weights.take("encoder.bias", d_sae),
            "decoder.weight": weights.take("decoder.weight", d_in, d_sae),
            "decoder.bias": weights.take("decoder.bias", d_in),
        }
        weights.done()
        norm = config.section("dataset_average_activation_norm").get("in", float)
        theta = config.get("jump_relu_threshold", float)
        if not (norm > 0 and math.isfinite(norm)):
            raise ConfigError(
                file=str(config.path),
                field="dataset_average_activation_norm.in",
                found=norm,
                expected="the mean length of rows",
            )
        a = math.sqrt(d_in) / norm
        return Foreign(
            architecture="jumprelu",
            version="1",
            files=(config.path, weights.path),
            hookpoint=config.get("hook_point_in", str),
            model=MODEL,
            meaning=Meaning(
                {"kind": "jumprelu"}, subtract_b_dec=False, scale="dataset_mean_norm", a=a
            ),
            tensors={
                "W_enc": w["encoder.weight"].T.contiguous(),
                "b_enc": w["encoder.bias"],
                "W_dec": w["decoder.weight"].T.contiguous(),
                "b_dec": w["decoder.bias"],
                "threshold": torch.full((d_sae,), a * theta),
            },
            compute=_forward(w, a, theta),
            decided=(
                *weights.notes,
                f"rows are multiplied by {a:.6g}, and so is the threshold {theta:g} of raw rows",
            ),
            inexact=_disagreement(config, w["decoder.weight"]),
        )


def _forward(w: dict[str, Tensor], a: float, theta: float) -> reference.Compute:
    """Return what sae-lens computes from these weights."""

    def compute(rows: Float[Tensor, "row d_in"]) -> Computed:
        like = {name: each.to(rows.dtype) for name, each in w.items()}
        h = (a * rows) @ like["encoder.weight"].T + like["encoder.bias"]
        codes = reference.above(h, a * theta)
        out = codes.values @ like["decoder.weight"].T + like["decoder.bias"]
        return Computed(codes, out / a)

    return compute


def _supported(config: Config) -> None:
    """Refuse what is no autoencoder.

    Raises:
        UnsupportedError: It reconstructs another hookpoint, or has no threshold.
    """
    reads, writes = config.values.get("hook_point_in"), config.values.get("hook_point_out")
    if writes not in {None, reads}:
        raise UnsupportedError(
            f"{config.path}: it is a transcoder from {reads} to {writes}",
            found=str(writes),
            expected="a dictionary that reconstructs what it reads",
            hint="only sparse autoencoders can be imported",
        )


def _disagreement(config: Config, decoder: Tensor) -> tuple[str, ...]:
    """Return why a threshold may have been meant otherwise."""
    lengths = torch.linalg.vector_norm(decoder, dim=0)
    unequal = bool((lengths - 1).abs().max() > 1e-2)  # noqa: PLR2004 - bfloat16 rounds a length of 1 by less
    if config.values.get("sparsity_include_decoder_norm") is True and unequal:
        return (
            (
                "its config says sparsity_include_decoder_norm and decoder lengths are not 1; the "
                "threshold is compared without them, as sae-lens does"
            ),
        )
    return ()
