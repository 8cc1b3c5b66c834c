"""One gate for all heads of a crosscoder, or one of each: the other kind of gating, where it is the same.

    shared       fires where h N > θ,     N_i = Σ_l n^l_i; or where h > θ
    per_head     fires at head l where h n^l > θ^l

Both say that h exceeds a number, θ/N or θ^l/n^l, so what compares with thresholds becomes per head with
θ^l = θ n^l/N, and shared where θ^l/n^l is the same at all heads where the feature writes anything. A ReLU's
thresholds are 0. What ranks keeps its order only where each feature's lengths are equal at all heads, and,
gated on h alone, where all features' are.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from saestore.dictionaries.activation_functions import ACTIVATION_FUNCTIONS
from saestore.errors import UnsupportedError
from saestore_schemas.dictionary import BatchTopK, DictionaryConfig
from saestore_schemas.gating import Gating


EQUAL = 1e-6
"""Relative spread below which numbers of the heads count as one: rounding to float32 leaves 1e-7."""


@dataclass(frozen=True)
class Regated:
    """The other kind of gating.

    Attributes:
        config: What the weights mean then.
        threshold: Thresholds in the file's shape; None where there are none.
    """

    config: DictionaryConfig
    threshold: Float[Tensor, "..."] | None


def regated(
    config: DictionaryConfig,
    gating: Gating,
    *,
    norms: Float64[Tensor, "d_sae head"],
    lengths: Float64[Tensor, " d_sae"],
    threshold: Float[Tensor, "..."] | None,
) -> Regated:
    """Return what a crosscoder's heads compare with when they gate otherwise, with the same codes.

    Args:
        config: The record.
        gating: How heads shall gate.
        norms: Length of each feature's decoder vector at each head.
        lengths: Its decoder length, all heads together.
        threshold: Thresholds in the file's shape, if it has any.

    Raises:
        UnsupportedError: Codes would be others, and why.
    """
    kind = config.semantics.activation
    if ACTIVATION_FUNCTIONS[kind.kind].has_gate:
        raise _refused(gating, f"{kind.kind} has a gate of its own, which is one of all heads")
    if kind.ranks:
        _refuse_order(config, gating, norms)
    on_lengths = config.semantics.gate_on_decoder_norm
    if threshold is not None and gating == "per_head":
        least = _over(threshold.double(), lengths) if on_lengths else threshold.double()
        threshold = norms.T * least
    elif threshold is not None:
        threshold = _common(gating, _over(threshold.double(), norms.T), norms.T > 0) * lengths
    return Regated(_changed(config, gating), threshold)


def _changed(config: DictionaryConfig, gating: Gating) -> DictionaryConfig:
    """Return what the weights mean with another kind of gating."""
    activation, scope = config.semantics.activation, "row"
    if gating == "per_head" and activation.ranks:
        scope = "head"
    if isinstance(activation, BatchTopK):
        rank_over = "head" if gating == "per_head" else None
        activation = activation.model_copy(update={"rank_over": rank_over})
    changes = {
        "activation": activation,
        "gate_on_decoder_norm": True,
        "head_norm": "l1",
        "l0_scope": scope,
    }
    options = config.options.model_copy(update={"gating": gating})
    semantics = config.semantics.model_copy(update=changes)
    return config.model_copy(update={"options": options, "semantics": semantics})


def _refuse_order(
    config: DictionaryConfig, gating: Gating, norms: Float64[Tensor, "d_sae head"]
) -> None:
    """Refuse to change what a top-k ranks.

    Raises:
        UnsupportedError: Features would be ranked in another order, or heads apart.
    """
    semantics = config.semantics
    low, high = norms.amin(dim=1), norms.amax(dim=1)
    if not semantics.gate_on_decoder_norm:
        low, high = low.min(), high.max()
    if semantics.ranks_together:
        raise _refused(gating, f"{semantics.activation.kind} ranks all heads together")
    if bool((high > low * (1 + EQUAL)).any()):
        apart = "features are" if not semantics.gate_on_decoder_norm else "a feature is"
        raise _refused(
            gating,
            f"{semantics.activation.kind} ranks pre-activations times decoder lengths, and {apart} "
            "not as long at one head as at another",
        )


def _common(
    gating: Gating, least: Float64[Tensor, "head d_sae"], writes: Tensor
) -> Float64[Tensor, " d_sae"]:
    """Return what pre-activations must exceed, where that is the same at all heads that write.

    Raises:
        UnsupportedError: It is not.
    """
    low = torch.where(writes, least, torch.inf).amin(dim=0)
    high = torch.where(writes, least, 0.0).amax(dim=0)
    if bool((high > low * (1 + EQUAL)).any()):
        number = int((high > low * (1 + EQUAL)).sum())
        raise _refused(gating, f"{number} features fire at one head and not at another")
    return high


def _over(
    threshold: Float64[Tensor, "..."], lengths: Float64[Tensor, "..."]
) -> Float64[Tensor, "..."]:
    """Return thresholds over lengths; 0 where there is no length, and nothing is written."""
    return torch.where(lengths > 0, threshold / torch.where(lengths > 0, lengths, 1.0), 0.0)


def _refused(gating: Gating, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"with gating {gating} its codes would be others: {why}",
        found=why,
        expected="an activation function that compares with numbers, or ranks features that are equally "
        "long at all heads",
        hint="keep its gating, or make a BatchTopK a JumpReLU first: saestore convert without --gating",
    )
