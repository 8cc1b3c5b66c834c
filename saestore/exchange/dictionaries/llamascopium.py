"""llamascopium, formerly lm-saes: `config.json` and `sae_weights.safetensors` (2.0.0b34).

    h = x' W_E + b_E        times sigmoid(x' W_E_glu + b_E_glu) with a GLU
    f = activation function of h n, divided by n      n_i = ‖W_D[i]‖; of h without the norm
    x̂' = f W_D + b_D

x' is x times √d over the mean length of rows (`dataset-wise`), over each row's own (`token-wise`), or
x itself (`inference`). Whether the weights contain the factor already is not in the files: its
trainer leaves `dataset-wise` beside weights that do. We ask, or measure which reading explains a
store's rows. θ is the exponential of what is stored.

Written in raw units: `inference`, features over the factor of the scale, decoder as it was trained.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saestore.dictionaries import SparseDictionary
from saestore.errors import ConfigError, UnsupportedError
from saestore.exchange.dictionaries import (
    llamascopium_clt,
    llamascopium_crosscoder,
    llamascopium_fold as fold,
    llamascopium_lorsa,
    llamascopium_molt,
    llamascopium_transcoder,
    measure,
    reference,
)
from saestore.exchange.dictionaries.files import Config, Weights, one_of
from saestore.exchange.dictionaries.foreign import (
    Asked,
    Context,
    Foreign,
    Meaning,
    Normalisation,
    Written,
    WrittenFormat,
)
from saestore.exchange.dictionaries.llamascopium_activation import FUNCTIONS, Activation
from saestore.exchange.dictionaries.llamascopium_parts import (
    THETA,
    factor,
    layer,
    layer_codes,
    silent_features,
)
from saestore.exchange.dictionaries.llamascopium_writing import Place, config_of, files
from saestore.exchange.dictionaries.plain import Plain, plain
from saestore.exchange.dictionaries.reference import Computed


CONFIG = "config.json"
PLACES = (
    "sae_weights.safetensors", "sae_weights.pt",
    "checkpoints/pruned.safetensors", "checkpoints/pruned.pt",
    "checkpoints/final.safetensors", "checkpoints/final.pt",
)  # fmt: skip
"""Where weights lie, in its own order of search."""


class Family(Protocol):
    """A family with files of its own."""

    def read(
        self, config: Config, weights: Weights, asked: Asked, *, known: frozenset[str]
    ) -> Foreign:
        """Return what a config and its weights hold."""
        ...

    def write(self, dictionary: SparseDictionary, place: Place) -> Written:
        """Return the files of a dictionary, in raw units."""
        ...


OTHERS: Mapping[str, Family] = {
    "clt": llamascopium_clt,
    "crosscoder": llamascopium_crosscoder,
    "lorsa": llamascopium_lorsa,
    "molt": llamascopium_molt,
}
"""By the name that they have on both sides."""
CLEARLY = 0.05
"""Difference of explained variance that decides between two readings."""

KNOWN = frozenset(
    [
        "act_fn",
        "d_model",
        "expansion_factor",
        "hook_point_in",
        "hook_point_out",
        "jumprelu_threshold_window",
        "norm_activation",
        "sae_type",
        "sparsity_include_decoder_norm",
        "device",
        "dtype",
        "sparsity_threshold_for_triton_spmm_kernel",
        "top_k",
        "use_decoder_bias",
        "use_glu_encoder",
        "use_triton_kernel",
    ]
)


@dataclass(frozen=True)
class _Files:
    """What was read, as it is in the files.

    Attributes:
        config: Its config.
        weights: Weights by our names, and the threshold itself.
        activation: Its activation function.
    """

    config: Config
    weights: Mapping[str, Tensor]
    activation: Activation

    def compute(self, scale: str, a: float) -> reference.Compute:
        """Return what it computes with a normalisation of the rows."""

        def compute(rows: Float[Tensor, "row d_in"]) -> Computed:
            w = {name: each.to(rows.dtype) for name, each in self.weights.items()}
            read, back = reference.NORMALISATIONS[scale](rows, a)
            codes = layer_codes(w, self.activation, read)
            return Computed(codes, back(codes.values @ w["W_dec"] + w["b_dec"]))

        return compute


class Llamascopium(WrittenFormat):
    """Dictionaries of llamascopium and lm-saes."""

    title: ClassVar[str] = "llamascopium"
    version: ClassVar[str] = "2.0.0b34"

    @override
    def read(self, place: Path, asked: Asked) -> Foreign:
        """Return what its folder holds.

        Raises:
            ConfigError: A file is missing, torn, or not of this format; or nothing says whether the
                normalisation is in the weights.
            UnsupportedError: It is another family, or normalised batch by batch.
        """
        folder = place.parent if place.is_file() else place
        config = Config.read(one_of(folder, CONFIG, tool=self.title))
        other = OTHERS.get(config.get("sae_type", str, default="sae"))
        if other is not None:
            return other.read(config, _weights(place, self.title), asked, known=KNOWN)
        _supported(config)
        activation, inexact = Activation.of(config, "sparse autoencoder"), config.unknown(KNOWN)
        weights = _weights(place, self.title)
        if llamascopium_transcoder.is_one(config):
            return llamascopium_transcoder.read(config, weights, asked, known=KNOWN)
        read = _Files(config, layer(weights, config), activation)
        scale, a, decided = _scale(read, weights, asked)
        notes = [*weights.notes, *decided, *silent_features(read.weights, activation)]
        return Foreign(
            architecture=f"sae, {activation.kind}",
            version=None,
            files=(config.path, weights.path),
            hookpoint=config.get("hook_point_in", str),
            model=None,
            meaning=Meaning(
                activation.settings,
                subtract_b_dec=False,
                gate_on_decoder_norm=activation.gate_on_norm,
                scale=scale,
                a=a,
                glu="W_glu" in read.weights,
            ),
            tensors=read.weights,
            compute=read.compute(scale, a),
            decided=tuple(notes),
            inexact=inexact,
            uncalibrated=weights.path if activation.kind == "batchtopk" else None,
        )

    @override
    def write(self, dictionary: SparseDictionary, context: Context) -> Written:
        """Return the files that llamascopium reads, in raw units.

        Raises:
            UnsupportedError: It has no such activation function.
        """
        place = Place(PLACES[0], CONFIG, self.version, context.context_size)
        other = OTHERS.get(dictionary.config.family)
        if other is not None:
            return other.write(dictionary, place)
        tool = f"{self.title} {self.version}"
        llamascopium_transcoder.check(dictionary)
        form = _expressed(plain(dictionary, tool=tool, glu=True, transcoders=True))
        same = dictionary.hookpoints_in == dictionary.hookpoints_out
        a = dictionary.scales[dictionary.hookpoints_in[0]].record.a
        if same and a != 1:
            form = form.scaled(1 / a)
        if form.gate_on_decoder_norm and (form.lengths == 0).any():
            form = form.unit()  # it would divide zero by zero
        t = form.tensors
        tensors = {"W_E": t["W_enc"], "b_E": t["b_enc"], "W_D": t["W_dec"], "b_D": t["b_dec"]}
        if "W_glu" in t:
            tensors |= {"W_E_glu": t["W_glu"], "b_E_glu": t["b_glu"]}
        if "threshold" in t:
            tensors[THETA] = t["threshold"].log()
        return Written(
            architecture=f"{'sae' if same else 'transcoder'}, {form.activation.kind}",
            files=files(tensors, _config(dictionary, form), place),
            rewrites=form.rewrites,
            factors=form.factors,
            inexact=form.inexact,
        )


def _expressed(form: Plain) -> Plain:
    """Return the form with an activation function that llamascopium has.

    Raises:
        UnsupportedError: There is none.
    """
    kind = form.activation.kind
    if kind in {"batchtopk", "gated"}:
        return form.above_thresholds()
    if kind in FUNCTIONS:
        return form
    raise UnsupportedError(
        f"llamascopium has no counterpart of activation {kind!r}",
        found=kind,
        expected="one of relu, topk, batchtopk, jumprelu, gated",
        hint="train or convert to one of these before exporting",
    )


def _config(dictionary: SparseDictionary, form: Plain) -> dict[str, Any]:
    width, features = dictionary.config.d_in[0], dictionary.d_sae
    return {
        **config_of("sae", form.activation, width=width, features=features),
        "sparsity_include_decoder_norm": form.gate_on_decoder_norm,
        "hook_point_in": dictionary.hookpoints_in[0],
        "hook_point_out": dictionary.hookpoints_out[0],
        "use_glu_encoder": "W_glu" in form.tensors,
    }


def _supported(config: Config) -> None:
    """Refuse what has no counterpart here.

    Raises:
        UnsupportedError: It is another family.
    """
    family = config.get("sae_type", str, default="sae")
    if family != "sae":
        raise UnsupportedError(
            f"{config.path}: family {family!r} has no counterpart here yet",
            found=family,
            expected="sae_type sae, crosscoder, clt, lorsa or molt",
            hint="its sparse autoencoders, transcoders, crosscoders, cross-layer transcoders, lorsas and "
            "molts can be imported",
        )


def _weights(place: Path, tool: str) -> Weights:
    """Return the weights that a folder holds, or the file itself.

    Raises:
        ConfigError: There are none, or only a sharded checkpoint of torch.
    """
    if not place.is_file():
        shards = [
            each for each in ("sae_weights.dcp", "checkpoints/final.dcp") if (place / each).exists()
        ]
        if shards and not any((place / each).is_file() for each in PLACES):
            raise ConfigError(
                field="path",
                found=str(place / shards[0]),
                problem=f"{place / shards[0]} is a sharded checkpoint of torch, which is a pickle",
                expected=PLACES[0],
                hint="load it with llamascopium and save it: save_pretrained without a device mesh",
            )
    file = place if place.is_file() else one_of(place, *PLACES, tool=tool)
    return Weights.pt(file, inside="sae") if file.suffix == ".pt" else Weights.safetensors(file)


def _scale(files: _Files, weights: Weights, asked: Asked) -> tuple[Normalisation, float, list[str]]:
    """Return kind and factor of a normalisation that the weights do not contain.

    Raises:
        ConfigError: Nothing says whether they do, or the mean length is none.
        UnsupportedError: It differs from batch to batch.
    """
    if files.config.get("norm_activation", str, default="dataset-wise") == "token-wise":
        return "token_norm", 1.0, ["each row is scaled to length √d"]
    state = fold.stated(files.config, asked)
    if state == "folded":
        return "none", 1.0, [fold.said_folded(files.config)]
    hook = files.config.get("hook_point_in", str)
    if state == "external":
        a = factor(weights, hook, weights.shape("W_E")[0])
        return "dataset_mean_norm", a, [f"rows are multiplied by {a:g} (said by --fold-state)"]
    rows = asked.rows(hook) if asked.rows is not None else None
    if rows is None:
        raise fold.unstated(files.config, measurable=True)
    return _measured(files, weights, hook, rows)


def _measured(
    files: _Files, weights: Weights, hook: str, rows: Float[Tensor, "row d_in"]
) -> tuple[Normalisation, float, list[str]]:
    """Return the reading that explains the rows of a store.

    Raises:
        ConfigError: Neither does clearly.
    """
    a = factor(weights, hook, weights.shape("W_E")[0])
    explained = {
        state: measure.explained(rows, files.compute(kind, factor)(rows).reconstruction)
        or -math.inf
        for state, kind, factor in (("external", "dataset_mean_norm", a), ("folded", "none", 1.0))
    }
    better = max(explained, key=lambda state: explained[state])
    said = ", ".join(f"{state} {value:.3g}" for state, value in explained.items())
    if abs(explained["external"] - explained["folded"]) < CLEARLY:
        raise ConfigError(
            field="fold_state",
            found=said,
            problem=f"both readings explain about as much variance of the store's rows: {said}",
            expected=f"a difference of {CLEARLY}",
            hint="say --fold-state external or folded",
        )
    note = f"fold state {better}, measured on {len(rows)} rows: explained variance {said}"
    return ("none", 1.0, [note]) if better == "folded" else ("dataset_mean_norm", a, [note])
