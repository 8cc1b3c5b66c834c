"""Gemma Scope: `params.npz` of the first release, `params.safetensors` of the second.

    f = h where h = x W_enc + b_enc exceeds its threshold         x̂ = f W_dec + b_dec

Layer, width and site stand in the names of repository and folder only: `layer_20/width_16k`,
`gemma-scope-2b-pt-res`. Attention is read before its output matrix (`attn.hook_z`, heads side by
side). Embedding dictionaries were trained on embeddings times √d: W_enc is divided by √d and W_dec
multiplied. Transcoders and cross-layer transcoders have no counterpart here yet.

Source: as sae-lens 6.54.12 reads them.
"""

import math
import re
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saestore.errors import UnsupportedError
from saestore.exchange.dictionaries import reference
from saestore.exchange.dictionaries.files import Config, Weights, one_of
from saestore.exchange.dictionaries.foreign import Asked, DictionaryFormat, Foreign, Meaning
from saestore.exchange.dictionaries.reference import Computed


FIRST = "params.npz"
SECOND = "params.safetensors"
CONFIG = "config.json"

SITES = (
    ("resid_post", "hook_resid_post"), ("attn_out", "attn.hook_z"), ("mlp_out", "hook_mlp_out"),
    ("-res", "hook_resid_post"), ("-att", "attn.hook_z"), ("-mlp", "hook_mlp_out"),
)  # fmt: skip
"""Part of a name to what is read there; folders of the second release come first."""

ELSEWHERE = ("transcoder", "clt", "crosscoder")
"""Parts of names of other families."""


_NAMED = 4
"""Folders whose names count: repository, layer, width and sparsity."""


class GemmaScope(DictionaryFormat):
    """Dictionaries of both releases."""

    title: ClassVar[str] = "Gemma Scope"
    version: ClassVar[str] = "1 and 2"

    @override
    def read(self, place: Path, asked: Asked) -> Foreign:
        """Return what a folder holds, or its file.

        Raises:
            ConfigError: It is torn, or not of this format.
            UnsupportedError: It is a transcoder, or has factors of its features.
        """
        file = place if place.is_file() else one_of(place, FIRST, SECOND, tool=self.title)
        name = "/".join((asked.hub_name, *file.absolute().parent.parts[-_NAMED:]))
        _family(file, name)
        weights = Weights.npz(file) if file.suffix == ".npz" else Weights.safetensors(file)
        lower = "w_enc" in weights
        encoder, decoder = ("w_enc", "w_dec") if lower else ("W_enc", "W_dec")
        d_in, d_sae = weights.shape(encoder)
        w = {
            "W_enc": weights.take(encoder, d_in, d_sae),
            "b_enc": weights.take("b_enc", d_sae),
            "W_dec": weights.take(decoder, d_sae, d_in),
            "b_dec": weights.take("b_dec", d_in),
            "threshold": weights.take("threshold", d_sae),
        }
        _factors(weights)
        weights.done()
        decided = list(weights.notes)
        embedding = "embedding" in name.split("/")
        tensors = dict(w)
        if embedding:
            tensors["W_enc"] = w["W_enc"] / math.sqrt(d_in)
            tensors["W_dec"] = w["W_dec"] * math.sqrt(d_in)
            decided.append("an embedding dictionary: its rows are embeddings times √d")
        files: tuple[Path, ...] = (file,)
        config = file.parent / CONFIG
        model = _model(name)
        if config.is_file():
            files = (file, config)
            model = Config.read(config).get("model_name", str, default=model)
        return Foreign(
            architecture="jumprelu",
            version="1" if file.suffix == ".npz" else "2",
            files=files,
            hookpoint=_hookpoint(name, embedding=embedding),
            model=model,
            meaning=Meaning({"kind": "jumprelu"}, subtract_b_dec=False),
            tensors=tensors,
            compute=_forward(w, math.sqrt(d_in) if embedding else 1.0),
            decided=tuple(decided),
        )


def _forward(w: dict[str, Tensor], larger: float) -> reference.Compute:
    """Return what the dictionary computes: of embeddings, from rows as they were in training."""

    def compute(rows: Float[Tensor, "row d_in"]) -> Computed:
        like = {name: each.to(rows.dtype) for name, each in w.items()}
        h = rows @ (like["W_enc"] / larger) + like["b_enc"]
        codes = reference.above(h, like["threshold"])
        return Computed(codes, codes.values @ (like["W_dec"] * larger) + like["b_dec"])

    return compute


def _family(file: Path, name: str) -> None:
    """Refuse what is no autoencoder.

    Raises:
        UnsupportedError: Its names say so.
    """
    found = [word for word in ELSEWHERE if re.search(rf"(?:^|[/_-]){word}", name.lower())]
    if found:
        raise UnsupportedError(
            f"{file} is of a {found[0]}, which has no counterpart here yet",
            found=found[0],
            expected="a sparse autoencoder: res, att or mlp",
            hint="only its sparse autoencoders can be imported",
        )


def _factors(weights: Weights) -> None:
    """Refuse a factor of each feature, unless all are 1, and a connection past the features.

    Raises:
        UnsupportedError: There is one.
    """
    if "scaling_factor" in weights:
        factor = weights.raw("scaling_factor").float()
        if not torch.allclose(factor, torch.ones_like(factor)):
            raise UnsupportedError(
                f"{weights.path} holds a scaling_factor that is not 1",
                found="scaling_factor",
                expected="ones, or none",
                hint="sae-lens refuses it too",
            )
    if "affine_skip_connection" in weights:
        raise UnsupportedError(
            f"{weights.path} holds an affine_skip_connection, which only transcoders have",
            found="affine_skip_connection",
            expected="a sparse autoencoder",
            hint="only its sparse autoencoders can be imported",
        )


def _hookpoint(name: str, *, embedding: bool) -> str | None:
    """Return what names of repository and folders say, or None."""
    if embedding:
        return "hook_embed"
    layers = re.findall(r"layer_(\d+)", name)
    sites = [ours for part, ours in SITES if part in name]
    return f"blocks.{layers[-1]}.{sites[0]}" if layers and sites else None


def _model(name: str) -> str | None:
    """Return the language model that the repository's name says, or None."""
    second = re.search(r"gemma-scope-2-(\w+)-(pt|it)", name)
    if second:
        return f"google/gemma-3-{second[1]}-{second[2]}"
    first = re.search(r"gemma-scope-(2b|9b|27b)-(pt|it)", name)
    if first:
        return f"google/gemma-2-{first[1]}" + ("-it" if first[2] == "it" else "")
    return None
