"""llamascopium's mixtures of linear transforms: features in the order of ascending rank.

    f = activation function of h n, over n      h = x' W_E + b_E      n_t = ‖U_t V_t‖_F
    ŷ' = Σ_t f_t (x' V_tᵀ) U_tᵀ + b_D

Ours are in the order of descending rank. Weights that do not contain the normalisation are folded while they
are read, as `dictionaries.molt` folds: W_enc *= a; V *= a; U /= c; b_dec /= c; θ on h n: θ a/c. Its own folding
of a molt misses a factor of the input, and is another function than what was trained; what it left is read
as it is. Weights are written in raw units.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from saestore.dictionaries import SparseDictionary
from saestore.exchange.dictionaries.files import Config, Weights
from saestore.exchange.dictionaries.foreign import Asked, Foreign, Written
from saestore.exchange.dictionaries.llamascopium_activation import FUNCTIONS, Activation
from saestore.exchange.dictionaries.llamascopium_parts import NORM, THETA, thresholds
from saestore.exchange.dictionaries.llamascopium_transcoding import Transcoding
from saestore.exchange.dictionaries.llamascopium_writing import Place, expressed, in_raw_units
from saestore.exchange.dictionaries.reference import Compute, Computed


KNOWN = frozenset({"rank_counts"})
"""Keys beside those of every family."""


def read(config: Config, weights: Weights, asked: Asked, *, known: frozenset[str]) -> Foreign:
    """Return what a config and its weights hold.

    Raises:
        ConfigError: A tensor is missing or misshapen, or nothing says whether the weights contain the
            normalisation.
        UnsupportedError: It has an activation function or a normalisation without a counterpart here.
    """
    found = Transcoding.of("molt", config, weights, asked, weights.shape("W_E")[0])
    activation = found.activation
    ranks = {int(rank): int(count) for rank, count in config.get("rank_counts", dict).items()}
    ranks = dict(sorted(ranks.items(), reverse=True))
    theirs = _tensors(weights, ranks, biased=config.get("use_decoder_bias", bool, default=True))
    if activation.kind == "jumprelu":
        order = _order(ranks)
        theirs["threshold"] = thresholds(weights, (len(order),))[order]
    weights.done(f"{NORM}*")
    return found.foreign(
        _folded(theirs, *found.factors, on_lengths=activation.gate_on_norm),
        _compute(theirs, ranks, activation, found.factors),
        known=known | KNOWN,
        decided=("features are in the order of descending rank",),
        ranks=ranks,
    )


def write(dictionary: SparseDictionary, place: Place) -> Written:
    """Return the files of a molt, in raw units.

    Raises:
        UnsupportedError: Its files cannot say what the dictionary computes, and why.
    """
    raw = in_raw_units(*expressed(dictionary, FUNCTIONS))
    config, tensors = raw.dictionary.config, raw.dictionary.tensors()
    ranks = config.options.ranks or {}
    theirs = _order(ranks).argsort()  # of its features, which of ours
    data = {
        "W_E": tensors["W_enc"][:, theirs], "b_E": tensors["b_enc"][theirs], "b_D": tensors["b_dec"]
    }  # fmt: skip
    for rank in ranks:
        data[f"U_matrices.{rank}"] = tensors[f"U.{rank}"]
        data[f"V_matrices.{rank}"] = tensors[f"V.{rank}"]
    if "threshold" in tensors:
        data[THETA] = tensors["threshold"][theirs].log()
    values = {
        "hook_point_in": config.hookpoints_in[0],
        "hook_point_out": config.hookpoints_out[0],
        "rank_counts": {str(rank): ranks[rank] for rank in sorted(ranks)},
    }
    return raw.written(data, values, place)


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
    activation: Activation,
    factors: tuple[float, float],
) -> Compute:
    """Return what it computes from rows as they are."""
    a, c = factors

    def compute(rows: Float[Tensor, "row d_in"]) -> Computed:
        w = {name: tensor.to(rows.dtype) for name, tensor in tensors.items()}
        x = rows * a
        h = x @ w["W_enc"] + w["b_enc"]
        maps = torch.cat([w[f"U.{rank}"] @ w[f"V.{rank}"] for rank in ranks])
        codes = activation.codes(h, torch.linalg.matrix_norm(maps), w.get("threshold"))
        written = torch.einsum("bt,toi,bi->bo", codes.values, maps, x)
        return Computed(codes, (written + w["b_dec"]) / c)

    return compute
