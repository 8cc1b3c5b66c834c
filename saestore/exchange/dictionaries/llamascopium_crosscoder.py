"""llamascopium's crosscoders: heads that gate by themselves, each hookpoint with a tensor in a stack.

    h   = Σ_l (x'^l W_E[l] + b_E[l])                        x'^l = x^l times √d over the mean length of its rows
    f^l = activation function of h n^l, over n^l            n^l = ‖W_D[l]‖
    x̂'^l = f^l W_D[l] + b_D[l]

k counts at each head; its BatchTopK ranks all heads together, and holds no threshold. A feature has one
threshold for all heads. Hookpoints have one width in the files, to which it fills up narrower rows with zeros.

What its trainer saves at the end is folded by dividing biases by the factors of their heads, which is another
function than what was trained unless those are equal. We read what the files compute. Written, normalisation
is in the weights and features are the same numbers: a single encoder sum allows no unit of each head.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saestore.dictionaries import SparseDictionary
from saestore.dictionaries.crosscoder import CrossCoder
from saestore.dictionaries.regating import EQUAL
from saestore.errors import UnsupportedError
from saestore.exchange.dictionaries import llamascopium_fold as fold, reference
from saestore.exchange.dictionaries.files import Config, Weights
from saestore.exchange.dictionaries.foreign import Asked, Foreign, Meaning, Written
from saestore.exchange.dictionaries.llamascopium_parts import (
    NORM,
    THETA,
    factor,
    hooks,
    thresholds,
)
from saestore.exchange.dictionaries.llamascopium_writing import Place, expressed, in_raw_units
from saestore.exchange.dictionaries.reference import Codes, Compute, Computed


KNOWN = frozenset({"hook_points"})
"""Keys beside those of every family."""

Select = Callable[[Tensor, Tensor, Tensor, int], Codes]
"""Pre-activations and gate scores [row, head, feature], thresholds and k to codes of all heads."""


def _flat(tensor: Tensor) -> Tensor:
    return tensor.flatten(1)


def _each(h: Tensor, g: Tensor, k: int) -> Codes:
    """Return the k largest at each head."""
    rows, heads, features = g.shape
    found = reference.topk(h.reshape(-1, features), k, gate=g.reshape(-1, features))
    whole = found.values.view(rows, heads * features)
    margin = None if found.margin is None else found.margin.view(rows, heads * features)
    return Codes(whole, margin)


FUNCTIONS: Mapping[str, Select] = {
    "relu": lambda h, *_: reference.relu(_flat(h)),
    "topk": lambda h, g, _, k: _each(h, g, k),
    "batchtopk": lambda h, g, _, k: reference.batchtopk(_flat(h), k * h.shape[1], gate=_flat(g)),
    "jumprelu": lambda h, g, theta, _: reference.above(_flat(h), theta.flatten(), gate=_flat(g)),
}
"""Its activation functions."""


def read(config: Config, weights: Weights, asked: Asked, *, known: frozenset[str]) -> Foreign:
    """Return what a config and its weights hold.

    Raises:
        ConfigError: A tensor is missing or misshapen, or nothing says whether the weights contain the
            normalisation.
        UnsupportedError: It has an activation function or a normalisation without a counterpart here.
    """
    kind = config.get("act_fn", str, default="relu").lower()
    if kind not in FUNCTIONS:
        raise UnsupportedError(
            f"{config.path}: act_fn {kind!r} of a crosscoder has no counterpart here",
            found=kind,
            expected=f"one of {', '.join(FUNCTIONS)}",
            hint="train it with one of these",
        )
    heads = hooks(config, "hook_points")
    tensors = _tensors(weights, len(heads))
    factors, decided = _factors(config, weights, asked, tensors["W_enc.0"].shape[0])
    k = config.get("top_k", int, default=50)
    activation: dict[str, Any] = {"kind": kind}
    if kind.endswith("topk"):
        activation["k"] = k
    if kind == "batchtopk":
        activation["rank_over"] = "heads"
    if kind == "jumprelu":
        features = len(tensors["b_enc"])
        tensors["threshold"] = thresholds(weights, (features,)).repeat(len(heads), 1)
    weights.done(f"{NORM}*")
    external = dict(zip(heads, factors, strict=True)) if factors else {}
    vectors = [tensors[f"W_dec.{head}"] for head in range(len(heads))]
    silent = sum(int((each.norm(dim=1) == 0).sum()) for each in vectors)
    if silent:
        decided = (
            f"{decided}; {silent} decoder vectors of zero, of which it makes NaN, write nothing"
        )
    return Foreign(
        architecture=f"crosscoder, {kind}",
        version=None,
        files=(config.path, weights.path),
        hookpoint=None,
        model=None,
        meaning=Meaning(
            activation,
            subtract_b_dec=False,
            gate_on_decoder_norm=True,
            scale="dataset_mean_norm" if factors else "none",
            each=external,
            gating="per_head",
            l0_scope="head" if kind.endswith("topk") else "row",
        ),
        tensors=tensors,
        compute=_compute(tensors, FUNCTIONS[kind], factors or (1.0,) * len(heads), k=k),
        decided=(*weights.notes, decided),
        inexact=config.unknown(known | KNOWN),
        uncalibrated=weights.path if kind == "batchtopk" else None,
        family="crosscoder",
        reads=heads,
        writes=heads,
    )


def _factors(
    config: Config, weights: Weights, asked: Asked, width: int
) -> tuple[tuple[float, ...], str]:
    """Return by what rows of each head are multiplied outside of the weights, and who says so.

    Raises:
        ConfigError: Nobody does, or a mean length is missing.
        UnsupportedError: Rows are normalised otherwise.
    """
    if fold.required(config, asked) == "folded":
        return (), (
            f"{fold.said_folded(config)}; where hookpoints were scaled unequally, its own fold changed what "
            "they compute"
        )
    found = tuple(factor(weights, str(hook), width) for hook in config.get("hook_points", list))
    said = ", ".join(f"{each:.4g}" for each in found)
    return found, f"rows are multiplied by {said}, head by head (said by --fold-state)"


def _tensors(weights: Weights, heads: int) -> dict[str, Tensor]:
    """Return the weights by our names; only the sum of encoder biases matters."""
    _, width, features = weights.raw("W_E").shape
    encoder, decoder = (
        weights.take("W_E", heads, width, features),
        weights.take("W_D", heads, features, width),
    )
    bias = weights.take("b_D", heads, width)
    found = {"b_enc": weights.take("b_E", heads, features).double().sum(dim=0).float()}
    for head in range(heads):
        found[f"W_enc.{head}"] = encoder[head].contiguous()
        found[f"W_dec.{head}"] = decoder[head].contiguous()
        found[f"b_dec.{head}"] = bias[head].contiguous()
    return found


def _compute(
    tensors: Mapping[str, Tensor], select: Select, factors: tuple[float, ...], *, k: int
) -> Compute:
    """Return what it computes from rows of all heads side by side."""

    def compute(rows: Float[Tensor, "row _"]) -> Computed:
        w = {name: tensor.to(rows.dtype) for name, tensor in tensors.items()}
        heads = range(len(factors))
        each = [x * a for x, a in zip(rows.chunk(len(heads), dim=1), factors, strict=True)]
        h = w["b_enc"] + sum(x @ w[f"W_enc.{head}"] for head, x in enumerate(each))
        h = h.unsqueeze(1).expand(-1, len(heads), -1)
        lengths = torch.stack([w[f"W_dec.{head}"].norm(dim=1) for head in heads])
        codes = select(h, h * lengths, w.get("threshold", lengths), k)
        values = torch.where(lengths.flatten() > 0, codes.values, 0)  # it divides by them
        codes = codes._replace(values=values)
        written = [
            (f @ w[f"W_dec.{head}"] + w[f"b_dec.{head}"]) / a
            for head, (f, a) in enumerate(
                zip(values.chunk(len(heads), dim=1), factors, strict=True)
            )
        ]
        return Computed(codes, torch.cat(written, dim=1))

    return compute


def write(dictionary: SparseDictionary, place: Place) -> Written:
    """Return the files of a crosscoder, in raw units.

    Raises:
        UnsupportedError: Its files cannot say what the dictionary computes, and why.
    """
    found, steps = expressed(dictionary, FUNCTIONS)
    if not isinstance(found, CrossCoder):
        raise TypeError(found)
    if found.config.options.gating == "shared":
        found = found.with_gating("per_head")
        steps.append("one gate of all heads written as one of each, with the same codes")
    raw = in_raw_units(found, steps)
    config, tensors = raw.dictionary.config, raw.dictionary.tensors()
    heads = range(config.gates)
    data = {
        theirs: torch.stack([tensors[f"{ours}.{head}"] for head in heads])
        for theirs, ours in (("W_E", "W_enc"), ("W_D", "W_dec"), ("b_D", "b_dec"))
    }
    data["b_E"] = torch.zeros(len(heads), config.d_sae)
    data["b_E"][0] = tensors["b_enc"]  # only their sum matters
    if "threshold" in tensors:
        data[THETA] = _of_all_heads(tensors["threshold"]).log()
    return raw.written(data, {"hook_points": list(config.hookpoints_in)}, place)


def _of_all_heads(threshold: Float[Tensor, "head d_sae"]) -> Float[Tensor, " d_sae"]:
    """Return what is the threshold of a feature at every head.

    Raises:
        UnsupportedError: It differs from head to head.
    """
    low, high = threshold.amin(dim=0), threshold.amax(dim=0)
    differ = int((high > low * (1 + EQUAL)).sum())
    if differ:
        raise UnsupportedError(
            f"{differ} features have thresholds that differ from head to head in raw units, and "
            "llamascopium's files hold one for all heads",
            found=f"thresholds of {differ} features",
            expected="one of each feature",
            hint="export a crosscoder of topk or relu",
        )
    return high
