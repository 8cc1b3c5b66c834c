"""llamascopium's mixtures of linear transforms: features in the order of ascending rank.

    f = activation function of h n, over n      h = x' W_E + b_E      n_t = ‖U_t V_t‖_F
    ŷ' = Σ_t f_t (x' V_tᵀ) U_tᵀ + b_D

Ours are in the order of descending rank. Weights that do not contain the normalisation are folded while they
are read, as `dictionaries.molt` folds: W_enc *= a; V *= a; U /= c; b_dec /= c; θ on h n: θ a/c. Its own folding
of a molt misses a factor of the input, and is another function than what was trained; what it left is read
as it is.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saestore.errors import ConfigError, UnsupportedError
from saestore.exchange.dictionaries import reference
from saestore.exchange.dictionaries.files import Config, Weights
from saestore.exchange.dictionaries.foreign import Asked, Foreign, Meaning
from saestore.exchange.dictionaries.llamascopium_parts import NORM, thresholds
from saestore.exchange.dictionaries.reference import Codes, Compute, Computed


KNOWN = frozenset({"rank_counts"})
"""Keys beside those of every family."""

Select = Callable[[Tensor, Tensor, Tensor, int], Codes]
"""Pre-activations, gate scores, thresholds and k to codes."""

FUNCTIONS: Mapping[str, Select] = {
    "relu": lambda h, *_: reference.relu(h),
    "topk": lambda h, g, _, k: reference.topk(h, k, gate=g),
    "batchtopk": lambda h, g, _, k: reference.batchtopk(h, k, gate=g),
    "jumprelu": lambda h, g, theta, _: reference.above(h, theta, gate=g),
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
            f"{config.path}: act_fn {kind!r} of a molt has no counterpart here",
            found=kind,
            expected=f"one of {', '.join(FUNCTIONS)}",
            hint="train it with one of these",
        )
    reads, writes = (config.get(f"hook_point_{side}", str) for side in ("in", "out"))
    a, c, decided = _factors(config, weights, asked, (reads, writes))
    ranks = {int(rank): int(count) for rank, count in config.get("rank_counts", dict).items()}
    ranks = dict(sorted(ranks.items(), reverse=True))
    theirs = _tensors(weights, ranks, biased=config.get("use_decoder_bias", bool, default=True))
    on_lengths = config.get("sparsity_include_decoder_norm", bool, default=True)
    if kind == "jumprelu":
        order = _order(ranks)
        theirs["threshold"] = thresholds(weights, (len(order),))[order]
    weights.done(f"{NORM}*")
    activation: dict[str, Any] = {"kind": kind}
    k = config.get("top_k", int, default=50)
    if kind.endswith("topk"):
        activation["k"] = k
    return Foreign(
        architecture=f"molt, {kind}",
        version=None,
        files=(config.path, weights.path),
        hookpoint=reads,
        model=None,
        meaning=Meaning(
            activation, subtract_b_dec=False, gate_on_decoder_norm=on_lengths, ranks=ranks
        ),
        tensors=_folded(theirs, a, c, on_lengths=on_lengths),
        compute=_compute(theirs, ranks, FUNCTIONS[kind], (a, c), k=k, on_lengths=on_lengths),
        decided=(*weights.notes, decided, "features are in the order of descending rank"),
        inexact=config.unknown(known | KNOWN),
        uncalibrated=weights.path if kind == "batchtopk" else None,
        transcodes=True,
        hookpoint_out=writes,
        family="molt",
    )


def _factors(
    config: Config, weights: Weights, asked: Asked, hooks: tuple[str, str]
) -> tuple[float, float, str]:
    """Return by what rows of input and output are multiplied outside of the weights, and who says so.

    Raises:
        ConfigError: Nobody does, or a factor is missing.
        UnsupportedError: Rows are normalised otherwise.
    """
    norm = config.get("norm_activation", str, default="dataset-wise")
    if norm == "inference" or (norm == "dataset-wise" and asked.fold_state == "folded"):
        told = "the config" if norm == "inference" else "--fold-state"
        return 1.0, 1.0, f"the weights contain the normalisation (said by {told})"
    if norm != "dataset-wise":
        raise UnsupportedError(
            f"{config.path}: rows of a molt that are normalised {norm} have no counterpart here",
            found=norm,
            expected="dataset-wise or inference",
            hint="train with norm_activation = 'dataset-wise'",
        )
    if asked.fold_state is None:
        raise ConfigError(
            file=str(config.path),
            field="norm_activation",
            found=norm,
            problem="does not say whether the weights contain the normalisation already",
            expected="to be told",
            hint="say --fold-state folded or external: what its trainer saves at the end is folded by "
            "default, and that is another function than what was trained",
        )
    lengths = [weights.number(NORM + hook) for hook in hooks]
    width = weights.shape("W_E")[0]
    a, c = (math.sqrt(width) / each if each else math.nan for each in lengths)
    if not (0 < a < math.inf and 0 < c < math.inf):
        raise ConfigError(
            file=str(weights.path),
            field=NORM + hooks[0 if not 0 < a < math.inf else 1],
            found=lengths,
            expected="the mean length of rows of input and of output",
            hint="save it with llamascopium after its initialisation on data",
        )
    said = (
        f"rows are multiplied by {a:g}, outputs divided by {c:g} (said by --fold-state), and folded"
    )
    return a, c, said


def _order(ranks: Mapping[int, int]) -> Tensor:
    """Return which of its features, by ascending rank, each of ours is."""
    counts = [ranks[rank] for rank in sorted(ranks)]
    return torch.cat(torch.split(torch.arange(sum(counts)), counts)[::-1])


def _tensors(weights: Weights, ranks: Mapping[int, int], *, biased: bool) -> dict[str, Tensor]:
    """Return the weights by our names, in our order of features."""
    width, order = weights.shape("W_E")[0], _order(ranks)
    features = len(order)
    found = {
        "W_enc": weights.take("W_E", width, features)[:, order].contiguous(),
        "b_enc": weights.take("b_E", features)[order],
        "b_dec": weights.take("b_D", width) if biased else torch.zeros(width),
    }
    for rank, count in ranks.items():
        found[f"U.{rank}"] = weights.take(f"U_matrices.{rank}", count, width, rank)
        found[f"V.{rank}"] = weights.take(f"V_matrices.{rank}", count, rank, width)
    return found


def _folded(
    tensors: Mapping[str, Tensor], a: float, c: float, *, on_lengths: bool
) -> dict[str, Tensor]:
    """Return weights that read and reconstruct rows as they are."""
    by = {"W": a, "V": a, "U": 1 / c, "b_dec": 1 / c, "b_enc": 1.0}
    by["threshold"] = a / c if on_lengths else 1.0
    return {
        name: (tensor.double() * by[name if name in by else name[0]]).float()
        for name, tensor in tensors.items()
    }


def _compute(
    tensors: Mapping[str, Tensor],
    ranks: Mapping[int, int],
    select: Select,
    factors: tuple[float, float],
    *,
    k: int,
    on_lengths: bool,
) -> Compute:
    """Return what it computes from rows as they are."""
    a, c = factors

    def compute(rows: Float[Tensor, "row d_in"]) -> Computed:
        w = {name: tensor.to(rows.dtype) for name, tensor in tensors.items()}
        x = rows * a
        h = x @ w["W_enc"] + w["b_enc"]
        maps = torch.cat([w[f"U.{rank}"] @ w[f"V.{rank}"] for rank in ranks])
        g = h * torch.linalg.matrix_norm(maps) if on_lengths else h
        codes = select(h, g, w.get("threshold", torch.zeros(())), k)
        written = torch.einsum("bt,toi,bi->bo", codes.values, maps, x)
        return Computed(codes, (written + w["b_dec"]) / c)

    return compute
