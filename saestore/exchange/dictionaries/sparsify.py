"""sparsify: a folder for each hookpoint with `cfg.json` and `sae.safetensors` (eai-sparsify 1.3.3).

    f = the k largest of relu((x − b_dec) encoder.weightᵀ + encoder.bias)
    x̂ = f W_dec + b_dec                                    W_dec [F, d]

A run's folder holds `config.json` and one such folder for each hookpoint, which is spelled as the
model's module: `layers.5`, `layers.5.mlp`. Transcoders and groupmax have no counterpart here.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saestore.dictionaries import SparseDictionary, tensor_file
from saestore.errors import ConfigError, UnsupportedError
from saestore.exchange import spelling
from saestore.exchange.dictionaries import reference
from saestore.exchange.dictionaries.files import Config, Weights, one_of
from saestore.exchange.dictionaries.foreign import (
    Asked,
    Context,
    Foreign,
    Meaning,
    Written,
    WrittenFormat,
)
from saestore.exchange.dictionaries.plain import plain
from saestore.exchange.dictionaries.reference import Computed
from saestore_schemas.dictionary import TopK


CONFIG = "cfg.json"
WEIGHTS = "sae.safetensors"
RUN = "config.json"

KNOWN = frozenset(
    [
        "activation",
        "expansion_factor",
        "normalize_decoder",
        "num_latents",
        "k",
        "multi_topk",
        "skip_connection",
        "transcode",
        "d_in",
        "signed",
    ]
)
"""Keys that decide something, or only concern training."""


class Sparsify(WrittenFormat):
    """Dictionaries of sparsify."""

    title: ClassVar[str] = "sparsify"
    version: ClassVar[str] = "1.3.3"

    @override
    def read(self, place: Path, asked: Asked) -> Foreign:
        """Return what a hookpoint's folder holds, or a run's folder with one hookpoint.

        Raises:
            ConfigError: A file is missing, torn, or not of this format.
            UnsupportedError: It is a transcoder, or of another activation function.
        """
        folder = _hookpoint(place, asked)
        config = Config.read(one_of(folder, CONFIG, tool=self.title))
        weights = Weights.safetensors(one_of(folder, WEIGHTS, tool=self.title))
        _supported(config)
        d_sae, d_in = weights.shape("encoder.weight")
        if config.get("d_in", int) != d_in:
            raise ConfigError(
                file=str(config.path),
                field="d_in",
                found=config.values["d_in"],
                expected=f"{d_in}, the width of encoder.weight",
                hint="config and weights belong to different dictionaries",
            )
        w = {
            "encoder.weight": weights.take("encoder.weight", d_sae, d_in),
            "encoder.bias": weights.take("encoder.bias", d_sae),
            "W_dec": weights.take("W_dec", d_sae, d_in),
            "b_dec": weights.take("b_dec", d_in),
        }
        weights.done()
        k = config.get("k", int)
        run = folder.parent / RUN
        model = Config.read(run).values.get("model") if run.is_file() else None
        return Foreign(
            architecture="topk",
            version=None,
            files=(config.path, weights.path),
            hookpoint=folder.name,
            model=model if isinstance(model, str) else None,
            meaning=Meaning({"kind": "topk", "k": k}, subtract_b_dec=True),
            tensors={
                "W_enc": w["encoder.weight"].T.contiguous(),
                "b_enc": w["encoder.bias"],
                "W_dec": w["W_dec"],
                "b_dec": w["b_dec"],
            },
            compute=_forward(w, k),
            decided=weights.notes,
            inexact=config.unknown(KNOWN),
        )

    @override
    def write(self, dictionary: SparseDictionary, context: Context) -> Written:
        """Return the files that sparsify reads, as a run with one hookpoint.

        Raises:
            UnsupportedError: Its features are not the k largest of a row.
        """
        form = plain(dictionary, tool=f"{self.title} {self.version}").row_by_row().unit()
        if not isinstance(form.activation, TopK):
            raise UnsupportedError(
                f"sparsify keeps the k largest of each row, not {form.activation.kind}",
                found=form.activation.kind,
                expected="activation.kind = 'topk'",
                hint="export it to SAELens, which has this activation function",
            )
        t = form.subtracting()
        weights = {
            "encoder.weight": t["W_enc"].T,
            "encoder.bias": t["b_enc"],
            "W_dec": t["W_dec"],
            "b_dec": t["b_dec"],
        }
        config = {
            "activation": "topk",
            "expansion_factor": max(1, dictionary.d_sae // dictionary.config.d_in[0]),
            "normalize_decoder": "unit decoder" in " ".join(form.rewrites),
            "num_latents": dictionary.d_sae,
            "k": form.activation.k,
            "multi_topk": False,
            "skip_connection": False,
            "transcode": False,
            "d_in": dictionary.config.d_in[0],
        }
        model = dictionary.config.model
        run = {"model": model.name if model else None, "ctx_len": context.context_size}
        folder = spelling.module(dictionary.hookpoints_in[0]) or dictionary.hookpoints_in[0]
        data = {name: each.float().contiguous() for name, each in weights.items()}
        return Written(
            architecture="topk",
            files={
                RUN: _json(run),
                f"{folder}/{CONFIG}": _json(config),
                f"{folder}/{WEIGHTS}": tensor_file.dump(data, {"format": "pt"}),
            },
            rewrites=form.rewrites,
            factors=form.factors,
            inexact=form.inexact,
        )


def _forward(w: Mapping[str, Tensor], k: int) -> reference.Compute:
    """Return what sparsify computes from these weights."""

    def compute(rows: Float[Tensor, "row d_in"]) -> Computed:
        like = {name: each.to(rows.dtype) for name, each in w.items()}
        h = (rows - like["b_dec"]) @ like["encoder.weight"].T + like["encoder.bias"]
        codes = reference.topk(h, k)
        return Computed(codes, codes.values @ like["W_dec"] + like["b_dec"])

    return compute


def _hookpoint(place: Path, asked: Asked) -> Path:
    """Return the folder of one hookpoint.

    Raises:
        ConfigError: A run's folder holds several, or none.
    """
    if place.is_file() or (place / CONFIG).is_file():
        return place if place.is_dir() else place.parent
    inside = sorted(each.name for each in place.iterdir() if (each / CONFIG).is_file())
    wanted = asked.hookpoint
    if wanted is not None and len(inside) > 1:
        ours = spelling.translated(wanted) or wanted
        inside = [each for each in inside if ours in {each, spelling.translated(each)}] or inside
    if len(inside) == 1:
        return place / inside[0]
    if not inside:
        one_of(place, CONFIG, tool="sparsify")
    raise ConfigError(
        field="path",
        found=str(place),
        problem=f"{place} is a run with {len(inside)} hookpoints: {', '.join(inside[:8])}",
        expected="one of them",
        hint=f"name its folder: {place / inside[0]}, or say --hookpoint",
    )


def _supported(config: Config) -> None:
    """Refuse what has no counterpart here.

    Raises:
        UnsupportedError: It is a transcoder, or of another activation function.
    """
    activation = config.get("activation", str, default="topk")
    why = None
    if config.get("transcode", bool, default=False):
        why = "it is a transcoder, which reads one hookpoint and reconstructs another"
    elif config.get("skip_connection", bool, default=False):
        why = "it has a skip connection, which only transcoders have here"
    elif config.get("signed", bool, default=False):
        why = "signed keeps negative activations, which sparsify itself no longer computes"
    elif activation == "groupmax":
        why = "groupmax keeps the largest of each group of features, which no kind here does"
    elif activation != "topk":
        why = f"activation {activation!r} is not known here"
    if why is not None:
        raise UnsupportedError(
            f"{config.path}: {why}",
            found=activation,
            expected="activation topk, transcode and skip_connection false",
            hint="only its sparse autoencoders can be imported",
        )


def _json(values: Mapping[str, object]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()
