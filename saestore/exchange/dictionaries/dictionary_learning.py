"""dictionary_learning: `ae.pt`, a pickled state dict, and `config.json` (0.1.0, git 60ec6bf).

| dict_class | h | f |
|---|---|---|
| AutoEncoder | (x − bias) encoderᵀ | relu |
| AutoEncoderNew | x encoderᵀ | relu |
| GatedAutoEncoder | (x − decoder_bias) encoderᵀ | relu(e^r h + mag_bias) where h + gate_bias > 0 |
| AutoEncoderTopK | (x − b_dec) encoderᵀ | the k largest of relu(h) |
| BatchTopKSAE, MatryoshkaBatchTopKSAE | (x − b_dec) | relu(h) where it exceeds one threshold |
| JumpReluAutoEncoder | x W_enc | h where it exceeds its threshold |

Linear layers are [F, d] and [d, F], parameters [d, F] and [F, d]. A threshold below 0 was never
estimated. A run that normalised its inputs scaled biases and thresholds back before saving, and its
`norm_factor` only informs. `ae.pt` is read by the weights-only loader.
"""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saestore.dictionaries import SparseDictionary
from saestore.errors import UnsupportedError, nearest
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
from saestore.exchange.dictionaries.plain import Plain, plain
from saestore.exchange.dictionaries.reference import Codes, Computed


CONFIG = "config.json"
WEIGHTS = "ae.pt"

LINEAR = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight"}
PARAMETERS = {"W_enc": "W_enc", "b_enc": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
TOPK = {**LINEAR, "b_dec": "b_dec"}

Select = Callable[[Tensor, Mapping[str, Tensor], Mapping[str, Any]], Codes]
"""Pre-activations, weights by our names and numbers of the file to codes."""


@dataclass(frozen=True)
class DictClass:
    """One of its classes.

    Attributes:
        names: Our names to its own.
        linear: Whether matrices are those of linear layers, transposed to ours.
        kind: What we call its activation function.
        subtract_b_dec: Whether it subtracts the decoder bias.
        select: What it computes.
        numbers: Names of numbers beside the weights: k, threshold.
    """

    names: Mapping[str, str]
    linear: bool
    kind: str
    subtract_b_dec: bool
    select: Select
    numbers: tuple[str, ...] = ()


def _threshold(h: Tensor, _: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> Codes:
    if numbers["threshold"] is None or numbers["threshold"] < 0:
        return reference.batchtopk(h, numbers["k"])
    return reference.above(h, numbers["threshold"])


CLASSES: Mapping[str, DictClass] = {
    "AutoEncoder": DictClass(
        {**LINEAR, "b_dec": "bias"}, linear=True, kind="relu", subtract_b_dec=True,
        select=lambda h, *_: reference.relu(h),
    ),
    "AutoEncoderNew": DictClass(
        {**LINEAR, "b_dec": "decoder.bias"}, linear=True, kind="relu", subtract_b_dec=False,
        select=lambda h, *_: reference.relu(h),
    ),
    "GatedAutoEncoder": DictClass(
        {
            "W_enc": "encoder.weight", "W_dec": "decoder.weight", "b_dec": "decoder_bias",
            "r_mag": "r_mag", "b_gate": "gate_bias", "b_mag": "mag_bias",
        },
        linear=True, kind="gated", subtract_b_dec=True,
        select=lambda h, w, _: reference.gated(h, w["r_mag"], w["b_mag"], w["b_gate"]),
    ),
    "AutoEncoderTopK": DictClass(
        TOPK, linear=True, kind="topk", subtract_b_dec=True,
        select=lambda h, _, numbers: reference.topk(h, numbers["k"]),
        numbers=("k", "threshold"),
    ),
    "BatchTopKSAE": DictClass(
        TOPK, linear=True, kind="batchtopk", subtract_b_dec=True, select=_threshold,
        numbers=("k", "threshold"),
    ),
    "MatryoshkaBatchTopKSAE": DictClass(
        PARAMETERS, linear=False, kind="batchtopk", subtract_b_dec=True, select=_threshold,
        numbers=("k", "threshold"),
    ),
    "JumpReluAutoEncoder": DictClass(
        {**PARAMETERS, "threshold": "threshold"}, linear=False, kind="jumprelu",
        subtract_b_dec=False, select=lambda h, w, _: reference.above(h, w["threshold"]),
    ),
}  # fmt: skip


class DictionaryLearning(WrittenFormat):
    """Dictionaries of dictionary_learning."""

    title: ClassVar[str] = "dictionary_learning"
    version: ClassVar[str] = "0.1.0"

    @override
    def read(self, place: Path, asked: Asked) -> Foreign:
        """Return what a trainer's folder holds, or one of its checkpoints.

        Raises:
            ConfigError: A file is missing, torn, needs code to be run, or not of this format.
            UnsupportedError: Its class has no counterpart here.
        """
        folder = place.parent if place.is_file() else place
        config = Config.read(_config(folder))
        trainer = config.section("trainer")
        name = trainer.get("dict_class", str)
        kind = _supported(name, config.path)
        file = place if place.is_file() else one_of(folder, WEIGHTS, tool=self.title)
        weights = Weights.pt(file)
        w = _taken(weights, kind)
        numbers = {each: weights.number(each) for each in kind.numbers}
        weights.done("group_sizes")
        activation: dict[str, Any] = {"kind": kind.kind}
        uncalibrated = None
        if "k" in kind.numbers:
            k = numbers["k"] or trainer.get("k", int)
            numbers["k"] = activation["k"] = int(k)
        threshold = numbers.get("threshold")
        if kind.kind == "batchtopk":
            if threshold is None or threshold < 0:
                uncalibrated = file
            else:
                w["threshold"] = torch.full((w["W_enc"].shape[1],), threshold)
        return Foreign(
            architecture=name,
            version=None,
            files=(config.path, file),
            hookpoint=_hookpoint(trainer, config.section("buffer")),
            model=trainer.get("lm_name", str, default=None),
            meaning=Meaning(activation, subtract_b_dec=kind.subtract_b_dec),
            tensors=w,
            compute=_forward(weights, kind, numbers),
            decided=weights.notes,
            uncalibrated=uncalibrated,
        )

    @override
    def write(self, dictionary: SparseDictionary, context: Context) -> Written:
        """Return the files that dictionary_learning reads.

        Raises:
            UnsupportedError: None of its classes computes it.
        """
        form = plain(dictionary, tool=f"{self.title} {self.version}").unit()
        name, form = _class(form)
        kind = CLASSES[name]
        tensors = form.subtracting() if kind.subtract_b_dec else form.tensors
        state: dict[str, Tensor] = {}
        for ours, theirs in kind.names.items():
            each = tensors[ours].T if kind.linear and tensors[ours].ndim > 1 else tensors[ours]
            state[theirs] = each.float().contiguous()
        k = _k(form)
        if "k" in kind.numbers:
            state["k"] = torch.tensor(k, dtype=torch.int32)
            first = tensors["threshold"][0] if "threshold" in tensors else torch.tensor(-1.0)
            state["threshold"] = first.float()
        buffer = io.BytesIO()
        torch.save(state, buffer)
        hook = dictionary.hookpoints_in[0]
        config = {
            "trainer": {
                "trainer_class": None,
                "dict_class": name,
                "activation_dim": dictionary.config.d_in[0],
                "dict_size": dictionary.d_sae,
                **({"k": k} if "k" in kind.numbers else {}),
                "layer": spelling.layer_of(hook),
                "lm_name": dictionary.config.model.name if dictionary.config.model else None,
                "submodule_name": hook,
                "wandb_name": name,
                "device": "cpu",
            },
            "buffer": {"d_submodule": dictionary.config.d_in[0], "io": "out"}
            | ({"ctx_len": context.context_size} if context.context_size else {}),
        }
        return Written(
            architecture=name,
            files={
                WEIGHTS: buffer.getvalue(),
                CONFIG: (json.dumps(config, indent=2) + "\n").encode(),
            },
            rewrites=form.rewrites,
            factors=form.factors,
            inexact=form.inexact,
        )


def _class(form: Plain) -> tuple[str, Plain]:
    """Return which class computes a form, and the form as that class has it.

    Raises:
        UnsupportedError: None does.
    """
    kind = form.activation.kind
    if kind == "relu":
        # AutoEncoder divides by decoder lengths as it is loaded; zero would become NaN.
        return ("AutoEncoderNew" if bool((form.lengths == 0).any()) else "AutoEncoder"), form
    if kind == "batchtopk":
        thresholds = form.tensors["threshold"]
        if bool((thresholds == thresholds[0]).all()):
            return "BatchTopKSAE", form
        form = form.above_thresholds().unit()
        return "JumpReluAutoEncoder", form
    names = {each.kind: name for name, each in CLASSES.items() if each.kind != "relu"}
    if kind not in names:
        raise UnsupportedError(
            f"dictionary_learning has no class with activation {kind!r}",
            found=kind,
            expected=f"one of relu, {', '.join(names)}",
            hint="train or convert to one of these before exporting",
        )
    return names[kind], form


def _k(form: Plain) -> int:
    return max(1, round(float(getattr(form.activation, "k", 1))))


def _taken(weights: Weights, kind: DictClass) -> dict[str, Tensor]:
    """Return the weights by our names and in our orientation."""
    rows, columns = weights.shape(kind.names["W_enc"])
    d_in, d_sae = (columns, rows) if kind.linear else (rows, columns)
    vectors = {"b_dec": (d_in,)}
    found = {}
    for ours, theirs in kind.names.items():
        if ours in {"W_enc", "W_dec"}:
            shape = (d_in, d_sae) if ours == "W_enc" else (d_sae, d_in)
            each = weights.take(theirs, *(shape[::-1] if kind.linear else shape))
            found[ours] = each.T.contiguous() if kind.linear else each
        else:
            found[ours] = weights.take(theirs, *vectors.get(ours, (d_sae,)))
    return found


def _forward(weights: Weights, kind: DictClass, numbers: Mapping[str, Any]) -> reference.Compute:
    """Return what its class computes, from the tensors as they are in the file."""
    raw = {ours: weights.raw(theirs).float() for ours, theirs in kind.names.items()}

    def compute(rows: Float[Tensor, "row d_in"]) -> Computed:
        w = {name: each.to(rows.dtype) for name, each in raw.items()}
        read = rows - w["b_dec"] if kind.subtract_b_dec else rows
        h = read @ w["W_enc"].T if kind.linear else read @ w["W_enc"]
        codes = kind.select(h + w.get("b_enc", 0), w, numbers)
        decoded = codes.values @ (w["W_dec"].T if kind.linear else w["W_dec"])
        return Computed(codes, decoded + w["b_dec"])

    return compute


def _config(folder: Path) -> Path:
    """Return the config of a trainer's folder; checkpoints lie one folder below it.

    Raises:
        ConfigError: There is none.
    """
    for each in (folder, folder.parent):
        if (each / CONFIG).is_file():
            return each / CONFIG
    return one_of(folder, CONFIG, tool="dictionary_learning")


def _supported(name: str, path: Path) -> DictClass:
    """Return what a class is.

    Raises:
        UnsupportedError: It has no counterpart here.
    """
    if name in CLASSES:
        return CLASSES[name]
    close = nearest(name, list(CLASSES))
    raise UnsupportedError(
        f"{path}: dict_class {name!r} is not supported",
        found=name,
        expected=f"one of {', '.join(CLASSES)}",
        hint=f"did you mean {close[0]}?"
        if close
        else "crosscoders and identity dictionaries cannot be imported",
    )


def _hookpoint(trainer: Config, buffer: Config) -> str | None:
    """Return what a dictionary reads, as far as its config says it."""
    name: str | None = trainer.get("submodule_name", str, default=None)
    if name is not None and spelling.translated(name) is not None:
        return name
    layer = trainer.values.get("layer")
    if not isinstance(layer, int) or buffer.values.get("io", "out") != "out":
        return name
    if name is None or name.startswith("resid_post"):
        return f"blocks.{layer}.hook_resid_post"
    kind = {"mlp_out": "hook_mlp_out", "attn_out": "hook_attn_out"}.get(name.split("_layer")[0])
    return f"blocks.{layer}.{kind}" if kind else name
