"""SAELens: `cfg.json` and `sae_weights.safetensors`, as sae-lens 6.54 writes and reads them.

    h = (x − s b_dec) W_enc + b_enc       f = activation function of h
    x̂ = f W_dec + b_dec

A transcoder reconstructs another hookpoint y, of a width of its own: s = 0, and with a skip x W_skip is
added to ŷ. In the files W_skip is (d_out, d_in).

| architecture | f |
|---|---|
| standard | relu(h) |
| topk | relu of the k largest; with `rescale_acts_by_decoder_norm`, of h n, divided by n again in decode |
| abstopk | the k furthest from zero, signs kept; likewise |
| jumprelu | h where h > threshold; also what batchtopk and matryoshka are saved as |
| gated | relu(e^r h + b_mag) where h + b_gate > 0, without b_enc |
| batchtopk, matryoshka_batchtopk | in checkpoints: above one `topk_threshold` |
| transcoder, skip_transcoder | relu(h) |
| jumprelu_transcoder, jumprelu_skip_transcoder | h where h > threshold |

Its files cannot hold a mean or a factor of the input, so both are folded into the weights. Of the
two exact ways to write the encoder bias we take the one that subtracts `b_dec` first: a folded
`b_dec` holds the mean of the data, and products of the mean would cancel in float32.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saestore.dictionaries import SparseDictionary, tensor_file
from saestore.errors import UnsupportedError, nearest
from saestore.exchange.dictionaries import reference
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
from saestore.exchange.dictionaries.plain import plain
from saestore.exchange.dictionaries.reference import Codes, Compute, Computed


CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
SCALER = "activation_scaler.json"
"""Beside the weights of a training checkpoint: the factor that its inputs are multiplied with."""

Select = Callable[[Tensor, Tensor, Mapping[str, Tensor], float], Codes]
"""Pre-activations, gate scores, weights and k to codes."""


@dataclass(frozen=True)
class Architecture:
    """One of its kinds of dictionary.

    Attributes:
        tensors: What it has beside `W_enc`, `W_dec` and `b_dec`, one number for each feature.
        kind: What we call its activation function.
        select: What sae-lens computes.
        rescaled: What an absent `rescale_acts_by_decoder_norm` means; None: it knows no such key.
        transcodes: Whether it reconstructs something else than it reads.
        skip: Whether it has `W_skip`.
    """

    tensors: tuple[str, ...]
    kind: str
    select: Select
    rescaled: bool | None = None
    transcodes: bool = False
    skip: bool = False


def _relu(h: Tensor, _: Tensor, __: Mapping[str, Tensor], ___: float) -> Codes:
    return reference.relu(h)


def _jumprelu(h: Tensor, _: Tensor, w: Mapping[str, Tensor], __: float) -> Codes:
    return reference.above(h, w["threshold"])


def _batchtopk(h: Tensor, g: Tensor, w: Mapping[str, Tensor], k: float) -> Codes:
    if "threshold" in w:
        return reference.above(h, w["threshold"], gate=g)
    return reference.batchtopk(h, k, gate=g)


ARCHITECTURES: Mapping[str, Architecture] = {
    "standard": Architecture(("b_enc",), "relu", _relu),
    "topk": Architecture(
        ("b_enc",), "topk", lambda h, g, _, k: reference.topk(h, int(k), gate=g), rescaled=False
    ),
    "abstopk": Architecture(
        ("b_enc",), "abstopk", lambda h, g, _, k: reference.abstopk(h, int(k), gate=g),
        rescaled=False,
    ),
    "jumprelu": Architecture(("b_enc", "threshold"), "jumprelu", _jumprelu),
    "gated": Architecture(
        ("b_gate", "b_mag", "r_mag"), "gated",
        lambda h, _, w, __: reference.gated(h, w["r_mag"], w["b_mag"], w["b_gate"]),
    ),
    "batchtopk": Architecture(("b_enc",), "batchtopk", _batchtopk, rescaled=True),
    "matryoshka_batchtopk": Architecture(("b_enc",), "batchtopk", _batchtopk, rescaled=True),
    "transcoder": Architecture(("b_enc",), "relu", _relu, transcodes=True),
    "skip_transcoder": Architecture(("b_enc",), "relu", _relu, transcodes=True, skip=True),
    "jumprelu_transcoder": Architecture(
        ("b_enc", "threshold"), "jumprelu", _jumprelu, transcodes=True
    ),
    "jumprelu_skip_transcoder": Architecture(
        ("b_enc", "threshold"), "jumprelu", _jumprelu, transcodes=True, skip=True
    ),
}  # fmt: skip

REFUSED = {
    "matching_pursuit": "matching pursuit encodes by iterating over the decoder",
    "temporal": "a temporal SAE reads the rows before, through attention",
}
"""Architectures without a counterpart here, and why."""

KNOWN = frozenset(
    [
        "architecture",
        "d_in",
        "d_out",
        "d_sae",
        "dtype",
        "device",
        "apply_b_dec_to_input",
        "normalize_activations",
        "reshape_activations",
        "metadata",
        "k",
        "rescale_acts_by_decoder_norm",
        "sae_lens_version",
        "decoder_init_norm",
        "l1_coefficient",
        "lp_norm",
        "l1_warm_up_steps",
        "use_sparse_activations",
        "aux_loss_coefficient",
        "jumprelu_init_threshold",
        "jumprelu_bandwidth",
        "jumprelu_sparsity_loss_mode",
        "l0_coefficient",
        "l0_warm_up_steps",
        "pre_act_loss_coefficient",
        "jumprelu_tanh_scale",
        "jumprelu_ste_to_input",
        "target_l0",
        "topk_threshold_lr",
        "matryoshka_widths",
        "use_matryoshka_aux_loss",
    ]
)
"""Keys that decide something, or are known not to."""

NORMALISED: Mapping[str, Normalisation] = {
    "layer_norm": "token_layer_norm",
    "constant_norm_rescale": "token_norm",
}
"""Its names of normalisation row by row."""


class SaeLens(WrittenFormat):
    """Dictionaries of sae-lens."""

    title: ClassVar[str] = "SAELens"
    version: ClassVar[str] = "6.54.12"

    @override
    def read(self, place: Path, asked: Asked) -> Foreign:
        """Return what the folder holds.

        Raises:
            ConfigError: A file is missing, torn, or not of this format.
            UnsupportedError: The architecture has no counterpart here, or the scale is not in it.
        """
        file = one_of(place, CONFIG, tool=self.title)
        weights = Weights.safetensors(one_of(place, WEIGHTS, tool=self.title))
        given = Config.read(file)
        metadata = given.section("metadata")
        version = given.values.get("sae_lens_version") or metadata.values.get("sae_lens_version")
        flat = not version or _before_6(str(version))
        config = Config(file, _as_6(given.values)) if flat else given
        metadata = given if flat else metadata
        name = config.get("architecture", str, default="standard")
        architecture = _supported(name, file)
        scale, a = _scale(config, place, transcodes=architecture.transcodes)
        tensors = _taken(weights, architecture)
        activation: dict[str, Any] = {"kind": architecture.kind}
        k = 0.0
        if architecture.rescaled is not None:
            k = config.get("k", float)
            activation["k"] = k if architecture.kind == "batchtopk" else int(k)
        meaning = Meaning(
            activation=activation,
            subtract_b_dec=not architecture.transcodes
            and config.get("apply_b_dec_to_input", bool, default=True),
            gate_on_decoder_norm=architecture.rescaled is not None
            and config.get("rescale_acts_by_decoder_norm", bool, default=architecture.rescaled),
            scale=scale,
            a=a,
            skip=architecture.skip,
        )
        inexact = list(() if flat else config.unknown(KNOWN))
        missing = architecture.kind == "batchtopk" and "threshold" not in tensors
        decided = list(weights.notes)
        trained = metadata.get("training_architecture", str, default=name)
        if trained != name:
            decided.append(f"trained as {trained}, saved as {name}")
        hook = metadata.values.get("hook_name") or metadata.values.get("hook_point")
        head = metadata.values.get("hook_head_index", metadata.values.get("hook_point_head_index"))
        if head is not None:
            inexact.append(f"it reads head {head} of {hook} alone, and rows here have all heads")
        lengths = torch.linalg.vector_norm(tensors["W_dec"].double(), dim=1)
        return Foreign(
            architecture=name,
            version=str(version) if version else None,
            files=(file, weights.path),
            hookpoint=hook,
            transcodes=architecture.transcodes,
            hookpoint_out=metadata.get("hook_name_out", str, default=None),
            family="transcoder" if architecture.transcodes else "sae",
            model=metadata.get("model_name", str, default=None),
            meaning=meaning,
            tensors=tensors,
            compute=_forward(tensors, architecture, meaning, k),
            factors=lengths if meaning.gate_on_decoder_norm else None,
            decided=tuple(decided),
            inexact=tuple(inexact),
            uncalibrated=weights.path if missing else None,
        )

    @override
    def write(self, dictionary: SparseDictionary, context: Context) -> Written:
        """Return the files that sae-lens reads.

        Raises:
            UnsupportedError: It has no exact counterpart, and why.
        """
        form = plain(dictionary, tool=f"{self.title} {self.version}", transcoders=True)
        transcodes = dictionary.hookpoints_in != dictionary.hookpoints_out
        names = {
            each.kind: name
            for name, each in reversed(list(ARCHITECTURES.items()))
            if (each.transcodes, each.skip) == (transcodes, dictionary.config.options.skip)
        }
        if form.activation.kind == "batchtopk":
            form = form.above_thresholds()
        if form.activation.kind not in names:
            of = " in transcoders" if transcodes else ""
            raise UnsupportedError(
                f"SAELens {self.version} has no counterpart of activation {form.activation.kind!r}{of}",
                found=form.activation.kind,
                expected=f"one of {', '.join(names)}",
                hint="train or convert to one of these before exporting",
            )
        form = form.unit()
        architecture = names[form.activation.kind]
        tensors = form.tensors if transcodes else form.subtracting()
        if "W_skip" in tensors:
            tensors = {**tensors, "W_skip": tensors["W_skip"].T}
        data = tensor_file.dump(
            {name: tensor.float().contiguous() for name, tensor in tensors.items()},
            {"format": "pt"},
        )
        config = _config(dictionary, context, architecture)
        if hasattr(form.activation, "k"):
            config |= {"k": form.activation.k, "rescale_acts_by_decoder_norm": False}
        return Written(
            architecture=architecture,
            files={WEIGHTS: data, CONFIG: (json.dumps(config, indent=2) + "\n").encode()},
            rewrites=form.rewrites,
            factors=form.factors,
            inexact=form.inexact,
        )


def _config(dictionary: SparseDictionary, context: Context, architecture: str) -> dict[str, Any]:
    ours = dictionary.config
    (hookpoint,), (output,) = ours.hookpoints_in, ours.hookpoints_out
    transcodes = hookpoint != output
    model = ours.model
    trained = ours.semantics.activation.kind
    return {
        "architecture": architecture,
        "d_in": ours.d_in[0],
        **({"d_out": ours.d_out[0]} if transcodes else {}),
        "d_sae": ours.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": not transcodes,
        "normalize_activations": "none",
        "reshape_activations": "hook_z" if hookpoint.endswith("hook_z") else "none",
        "metadata": {
            "sae_lens_version": SaeLens.version,
            "sae_lens_training_version": None,
            "model_name": model.name if model else None,
            "model_class_name": "HookedTransformer",
            "hook_name": hookpoint,
            "hook_name_out": output if transcodes else None,
            "hook_head_index": None,
            "hf_hook_name": None,
            "context_size": context.context_size,
            "prepend_bos": context.prepend_bos,
            "seqpos_slice": None,
            "model_from_pretrained_kwargs": {},
            "dataset_path": None,
            "exclude_special_tokens": None,
            "sequence_separator_token": None,
            "disable_concat_sequences": None,
            "neuronpedia_id": None,
            "l0": None,
            "training_architecture": trained if trained == "batchtopk" else architecture,
            "exported_by": f"saestore {ours.versions.get('saestore', '')}".strip(),
            "weight_processing": model.processing if model else None,
        },
    }


def _supported(name: str, path: Path) -> Architecture:
    """Return what an architecture is.

    Raises:
        UnsupportedError: It has no counterpart here, and why.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    close = nearest(name, list(ARCHITECTURES))
    raise UnsupportedError(
        f"{path}: architecture {name!r} is not supported: "
        f"{REFUSED.get(name, 'it is not known here')}",
        found=name,
        expected=f"one of {', '.join(ARCHITECTURES)}",
        hint=f"did you mean {close[0]}?"
        if close and name not in REFUSED
        else "only sparse autoencoders and transcoders can be imported",
    )


def _scale(config: Config, place: Path, *, transcodes: bool) -> tuple[Normalisation, float]:
    """Return the kind and factor of the normalisation.

    Raises:
        UnsupportedError: The factor is not in the files.
    """
    kind = config.get("normalize_activations", str, default="none")
    if kind == "none":
        return "none", 1.0
    if transcodes:
        raise UnsupportedError(
            f"{config.path} says normalize_activations = {kind!r}: what a transcoder reads is normalised, "
            "and what it reconstructs is not",
            found=kind,
            expected="none",
            hint="no dictionary here normalises one side only",
        )
    if kind in NORMALISED:
        return NORMALISED[kind], 1.0
    if kind == "expected_average_only_in" and (place / SCALER).is_file():
        return "dataset_mean_norm", Config.read(place / SCALER).get("scaling_factor", float)
    why = {
        "expected_average_only_in": "its inputs are scaled by a factor that stands beside the "
        f"weights of a training checkpoint only, in {SCALER}",
        "covariance_whitening": "its inputs are whitened by matrices that stand in a training "
        "checkpoint only",
    }.get(kind, "that normalisation is not known here")
    raise UnsupportedError(
        f"{config.path} says normalize_activations = {kind!r}: {why}",
        found=kind,
        expected="none, layer_norm, constant_norm_rescale, or the factor beside it",
        hint="save the dictionary for inference with sae-lens, which folds the scale into the "
        "weights, and import that",
    )


def _taken(weights: Weights, architecture: Architecture) -> dict[str, Tensor]:
    """Return the weights by our names.

    Raises:
        ConfigError: One is missing, misshapen or unknown.
        UnsupportedError: A factor of each feature is among them.
    """
    d_in, d_sae = weights.shape("W_enc")
    d_out = weights.shape("W_dec")[1] if architecture.transcodes else d_in
    shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_out), "b_dec": (d_out,)}
    if architecture.skip:
        shapes["W_skip"] = (d_out, d_in)
    log = "threshold" in architecture.tensors and "log_threshold" in weights
    for name in architecture.tensors:
        shapes["log_threshold" if log and name == "threshold" else name] = (d_sae,)
    found = {name: weights.take(name, *shape) for name, shape in shapes.items()}
    if architecture.skip:
        found["W_skip"] = found["W_skip"].T.contiguous()
    if log:
        found["threshold"] = found.pop("log_threshold").exp()
    if architecture.kind == "batchtopk":
        value = weights.number("topk_threshold")
        if value:
            found["threshold"] = torch.full((d_sae,), value)
    if "scaling_factor" in weights:
        factor = weights.raw("scaling_factor").float()
        if not torch.allclose(factor, torch.ones_like(factor)):
            raise UnsupportedError(
                f"{weights.path} holds a scaling_factor that is not 1",
                found="scaling_factor",
                expected="ones, or none",
                hint="it multiplies features after training: multiply W_dec by it and save again",
            )
    weights.done()
    return found


def _forward(
    tensors: Mapping[str, Tensor], architecture: Architecture, meaning: Meaning, k: float
) -> Compute:
    """Return what sae-lens computes from these weights."""

    def compute(rows: Float[Tensor, "row d_in"]) -> Computed:
        w = {name: each.to(rows.dtype) for name, each in tensors.items()}
        read, back = reference.NORMALISATIONS[meaning.scale](rows, meaning.a)
        if meaning.subtract_b_dec:
            read = read - w["b_dec"]
        h = read @ w["W_enc"] + w.get("b_enc", 0)
        lengths = torch.linalg.vector_norm(w["W_dec"], dim=1)
        g = h * lengths if meaning.gate_on_decoder_norm else h
        codes = architecture.select(h, g, w, k)
        out = back(codes.values @ w["W_dec"] + w["b_dec"])
        if "W_skip" in w:
            out = out + rows @ w["W_skip"]
        if meaning.gate_on_decoder_norm:
            codes = codes._replace(values=codes.values * lengths)
        return Computed(codes, out)

    return compute


def _before_6(version: str) -> bool:
    first = version.split(".", maxsplit=1)[0]
    return first.isdigit() and int(first) < 6  # noqa: PLR2004 - configs became nested in 6.0


def _as_6(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config of before 6.0 in the terms of today, as sae-lens itself reads it.

    Raises:
        UnsupportedError: Its activation function has no name of its own any more.
    """
    function = flat.get("activation_fn", flat.get("activation_fn_str")) or "relu"
    kwargs = flat.get("activation_fn_kwargs") or {}
    if function not in {"relu", "topk"}:
        raise UnsupportedError(
            f"activation_fn {function!r} has no counterpart here",
            found=function,
            expected="relu or topk",
            hint="only these can be imported",
        )
    normalised = flat.get("normalize_activations")
    if isinstance(normalised, bool):
        normalised = "expected_average_only_in" if normalised else "none"
    topk = function == "topk" and kwargs.get("k") is not None
    return {
        "architecture": "topk" if topk else flat.get("architecture", "standard"),
        "apply_b_dec_to_input": flat.get("apply_b_dec_to_input", True),
        "normalize_activations": normalised or "none",
        **({"k": kwargs["k"]} if topk else {}),
    }
