"""How a crosscoder's heads decide what fires: all as one, or each by itself."""

from collections.abc import Mapping
from typing import Any, Literal

from saestore_schemas.base import Model


Gating = Literal["shared", "per_head"]
"""All heads as one, or each by itself."""


def with_ranking(given: Any) -> Any:
    """Return a crosscoder's settings that say what its heads' scores are ranked over, where they rank."""
    if not isinstance(given, Mapping) or given.get("gating") != "per_head":
        return given
    activation = given.get("activation")
    if isinstance(activation, Model):
        activation = activation.model_dump()
    if not isinstance(activation, Mapping) or activation.get("kind") != "batchtopk":
        return given
    rank_over = activation.get("rank_over") or "head"
    return {**given, "activation": {**activation, "rank_over": rank_over}}


def contradiction(gating: Gating, head_norm: str, *, on_lengths: bool) -> str | None:
    """Return why heads cannot gate so; None where they can.

    Args:
        gating: How they shall.
        head_norm: How a feature's decoder lengths at the heads add up.
        on_lengths: Whether what is compared is pre-activation times decoder length.
    """
    if gating == "shared":
        return None
    if not on_lengths:
        return (
            "gate_on_decoder_norm = false lets all heads decide alike, on the pre-activation that they "
            "share: with gating = 'per_head' each compares it times its own decoder length"
        )
    if head_norm != "l1":
        return (
            f"head_norm = {head_norm!r} makes one length of a feature's lengths at the heads, and with "
            "gating = 'per_head' each head has its own: remove head_norm, or use gating = 'shared'"
        )
    return None
