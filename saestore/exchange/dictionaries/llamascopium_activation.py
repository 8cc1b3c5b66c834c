"""Which features fire in llamascopium's dictionaries of one layer: its activation functions, written plainly.

`top_k` counts in each row, over a whole batch with `batchtopk`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saestore.errors import UnsupportedError
from saestore.exchange.dictionaries import reference
from saestore.exchange.dictionaries.files import Config
from saestore.exchange.dictionaries.reference import Codes


Select = Callable[[Tensor, Tensor, Tensor, int], Codes]
"""Pre-activations, gate scores, thresholds and k to codes."""

FUNCTIONS: Mapping[str, Select] = {
    "relu": lambda h, *_: reference.relu(h),
    "topk": lambda h, g, _, k: reference.topk(h, k, gate=g),
    "batchtopk": lambda h, g, _, k: reference.batchtopk(h, k, gate=g),
    "jumprelu": lambda h, g, theta, _: reference.above(h, theta, gate=g),
}
"""Its activation functions."""


@dataclass(frozen=True)
class Activation:
    """The activation function that a config names.

    Attributes:
        kind: Its name.
        k: For the top-k functions.
        gate_on_norm: Whether the gate includes the decoder's lengths.
    """

    kind: str
    k: int
    gate_on_norm: bool

    @classmethod
    def of(cls, config: Config, family: str) -> "Activation":
        """Return what a config of a family says.

        Raises:
            UnsupportedError: It has no counterpart here.
        """
        kind = config.get("act_fn", str, default="relu").lower()
        if kind not in FUNCTIONS:
            raise UnsupportedError(
                f"{config.path}: act_fn {kind!r} of a {family} has no counterpart here",
                found=kind,
                expected=f"one of {', '.join(FUNCTIONS)}",
                hint="train it with one of these",
            )
        on_norm = config.get("sparsity_include_decoder_norm", bool, default=True)
        return cls(kind, config.get("top_k", int, default=50), on_norm)

    @property
    def settings(self) -> dict[str, Any]:
        """The activation function as our `config.json` writes it."""
        return {"kind": self.kind} | ({"k": self.k} if self.kind.endswith("topk") else {})

    def codes(
        self,
        h: Float[Tensor, "row d_sae"],
        lengths: Float[Tensor, " d_sae"],
        threshold: Float[Tensor, " d_sae"] | None,
    ) -> Codes:
        """Return which pre-activations fire.

        Args:
            h: Pre-activations.
            lengths: Of the decoder vectors.
            threshold: Of each feature, where there are thresholds.
        """
        gate = h * lengths if self.gate_on_norm else h
        limits = torch.zeros(()) if threshold is None else threshold
        return FUNCTIONS[self.kind](h, gate, limits, self.k)
