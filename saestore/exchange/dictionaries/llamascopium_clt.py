"""llamascopium's cross-layer transcoders: one encoder tensor of all layers, decoders by target.

    f^s = activation function of h^s n^s, over n^s        h^s = x^s W_E[s] + b_E[s]
    ŷ^t = Σ_{s≤t} f^s W_D.t[s] + b_D.t                    n^s = ‖W_D.t[s] of all t ≥ s‖

k counts in each layer (`topk`) or over all (`layertopk`). The batch kinds hold no threshold, and what
stands for them would not be what was trained: they are refused.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saestore.dictionaries import SparseDictionary
from saestore.errors import UnsupportedError
from saestore.exchange.dictionaries import llamascopium_fold as fold, reference
from saestore.exchange.dictionaries.files import Config, Weights
from saestore.exchange.dictionaries.foreign import Asked, Foreign, Meaning, Written
from saestore.exchange.dictionaries.llamascopium_parts import NORM, THETA, hooks, thresholds
from saestore.exchange.dictionaries.llamascopium_writing import Place, expressed, in_raw_units
from saestore.exchange.dictionaries.reference import Codes, Compute, Computed


KNOWN = frozenset(
    [
        "hook_points_in",
        "hook_points_out",
        "init_cross_layer_decoder_all_zero",
        "decode_with_csr",
        "sparsity_threshold_for_csr",
    ]
)
"""Keys beside those of every family."""

Select = Callable[[Tensor, Tensor, Tensor | None, int], Codes]
"""Pre-activations and gate scores [row, layer, feature], thresholds and k to codes of all layers."""


def _flat(tensor: Tensor) -> Tensor:
    return tensor.flatten(1)


def _each(h: Tensor, g: Tensor, k: int) -> Codes:
    """Return the k largest of each layer."""
    found = [reference.topk(h[:, s], k, gate=g[:, s]) for s in range(h.shape[1])]
    margins = [each.margin for each in found if each.margin is not None]
    values = torch.cat([each.values for each in found], dim=1)
    return Codes(values, torch.cat(margins, dim=1) if len(margins) == len(found) else None)


FUNCTIONS: Mapping[str, Select] = {
    "relu": lambda h, *_: reference.relu(_flat(h)),
    "topk": lambda h, g, _, k: _each(h, g, k),
    "layertopk": lambda h, g, _, k: reference.topk(_flat(h), k, gate=_flat(g)),
    "jumprelu": lambda h, g, theta, _: reference.above(
        _flat(h), torch.zeros(()) if theta is None else theta.flatten(), gate=_flat(g)
    ),
}
"""Its activation functions that rows can be encoded with one by one."""


def read(config: Config, weights: Weights, asked: Asked, *, known: frozenset[str]) -> Foreign:
    """Return what a config and its weights hold.

    Raises:
        ConfigError: A tensor is missing or misshapen, or nothing says that the weights contain the
            normalisation.
        UnsupportedError: They do not contain it, or the activation function looks at a batch.
    """
    kind = config.get("act_fn", str, default="relu").lower()
    if kind not in FUNCTIONS:
        raise UnsupportedError(
            f"{config.path}: act_fn {kind!r} of a cross-layer transcoder holds no threshold: which features "
            "fire depends on the other rows of a batch",
            found=kind,
            expected=f"one of {', '.join(FUNCTIONS)}",
            hint="train it with layertopk or jumprelu",
        )
    decided = _contained(config, asked)
    biased = config.get("use_decoder_bias", bool, default=True)
    reads, writes = (hooks(config, name) for name in ("hook_points_in", "hook_points_out"))
    tensors = _tensors(weights, len(reads), biased=biased)
    activation: dict[str, Any] = {"kind": kind}
    k = config.get("top_k", int, default=50)
    if kind.endswith("topk"):
        activation["k"] = k
    if kind == "jumprelu":
        tensors["threshold"] = thresholds(weights, (len(reads), tensors["W_enc.0"].shape[1]))
    weights.done(f"{NORM}*")
    on_lengths = config.get("sparsity_include_decoder_norm", bool, default=True)
    return Foreign(
        architecture=f"clt, {kind}",
        version=None,
        files=(config.path, weights.path),
        hookpoint=None,
        model=None,
        meaning=Meaning(
            activation,
            subtract_b_dec=False,
            gate_on_decoder_norm=on_lengths,
            l0_scope="layer" if kind == "topk" else "row",
            layers=len(reads),
        ),
        tensors=tensors,
        compute=_compute(tensors, FUNCTIONS[kind], k=k, on_lengths=on_lengths, layers=len(reads)),
        decided=(*weights.notes, decided),
        inexact=config.unknown(known | KNOWN),
        family="clt",
        reads=reads,
        writes=writes,
    )


def write(dictionary: SparseDictionary, place: Place) -> Written:
    """Return the files of a cross-layer transcoder, in raw units.

    Raises:
        UnsupportedError: Its files cannot say what the dictionary computes, and why.
    """
    raw = in_raw_units(*expressed(dictionary, FUNCTIONS))
    config, tensors = raw.dictionary.config, raw.dictionary.tensors()
    layers = range(len(config.hookpoints_in))
    data = {
        "W_E": torch.stack([tensors[f"W_enc.{s}"] for s in layers]),
        "b_E": torch.stack([tensors[f"b_enc.{s}"] for s in layers]),
    }
    for t in layers:
        data[f"W_D.{t}"] = torch.stack([tensors[f"W_dec.{s}"][:, t - s] for s in layers[: t + 1]])
        data[f"b_D.{t}"] = tensors[f"b_dec.{t}"]
    if "threshold" in tensors:
        data[THETA] = tensors["threshold"].log()
    values = {
        "hook_points_in": list(config.hookpoints_in), "hook_points_out": list(config.hookpoints_out)
    }  # fmt: skip
    return raw.written(data, values, place)


def _contained(config: Config, asked: Asked) -> str:
    """Return who says that the weights contain the normalisation.

    Raises:
        ConfigError: Nobody.
        UnsupportedError: They do not.
    """
    if fold.required(config, asked) == "external":
        raise UnsupportedError(
            f"{config.path}: rows of a cross-layer transcoder that are normalised outside of its weights have "
            "no counterpart here",
            found="external",
            expected="weights that contain the normalisation",
            hint="save it with llamascopium after its standardize_parameters_of_dataset_norm",
        )
    return fold.said_folded(config)


def _tensors(weights: Weights, layers: int, *, biased: bool) -> dict[str, Tensor]:
    """Return the weights by our names: decoders by source."""
    _, d_in, d_sae = weights.raw("W_E").shape
    encoder, bias = weights.take("W_E", layers, d_in, d_sae), weights.take("b_E", layers, d_sae)
    by_target = []
    found: dict[str, Tensor] = {}
    for t in range(layers):
        width = weights.raw(f"W_D.{t}").shape[-1]
        by_target.append(weights.take(f"W_D.{t}", t + 1, d_sae, width))
        found[f"b_dec.{t}"] = weights.take(f"b_D.{t}", width) if biased else torch.zeros(width)
    for s in range(layers):
        found[f"W_enc.{s}"], found[f"b_enc.{s}"] = encoder[s].contiguous(), bias[s].contiguous()
        found[f"W_dec.{s}"] = torch.stack([by_target[t][s] for t in range(s, layers)], dim=1)
    return found


def _compute(
    tensors: Mapping[str, Tensor], select: Select, *, k: int, on_lengths: bool, layers: int
) -> Compute:
    """Return what it computes from rows of all layers side by side."""

    def compute(rows: Float[Tensor, "row _"]) -> Computed:
        w = {name: tensor.to(rows.dtype) for name, tensor in tensors.items()}
        each = rows.chunk(layers, dim=1)
        h = torch.stack([x @ w[f"W_enc.{s}"] + w[f"b_enc.{s}"] for s, x in enumerate(each)], dim=1)
        lengths = [
            torch.linalg.vector_norm(w[f"W_dec.{s}"].flatten(1), dim=1) for s in range(layers)
        ]
        g = h * torch.stack(lengths) if on_lengths else h
        codes = select(h, g, w.get("threshold"), k)
        f = codes.values.chunk(layers, dim=1)
        written = [
            w[f"b_dec.{t}"] + sum(f[s] @ w[f"W_dec.{s}"][:, t - s] for s in range(t + 1))
            for t in range(layers)
        ]
        return Computed(codes, torch.cat(written, dim=1))

    return compute
