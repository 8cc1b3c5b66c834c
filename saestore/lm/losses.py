"""Cross-entropy of every next token, without ever holding the logits of a batch.

A vocabulary is wide: 8 contexts of 256 tokens over 49 152 tokens are 400 MB of logits. The
unembedding runs over `CHUNK` rows at a time into one kept buffer instead.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor
from torch.nn import functional as F
from torch.nn.functional import log_softmax


CHUNK = 256
"""Rows unembedded at once: 50 MB of logits for a vocabulary of 49 152."""


class Predictions(NamedTuple):
    """How well some rows predict the tokens after them, and how far from the clean ones.

    Attributes:
        losses: Cross-entropy of each target, nats.
        divergences: KL(clean || these) of each distribution, nats; 0 of the clean ones.
    """

    losses: Float32[Tensor, " row"]
    divergences: Float32[Tensor, " row"]


class NextTokenLoss:
    """Cross-entropy in nats from the final norm's output.

    Args:
        weight: Unembedding, one row per token.
        bias: Its bias, if any.
        soft_cap: Logits are `cap * tanh(logits / cap)`, if set.
        factor: Logits are multiplied by this.
    """

    def __init__(
        self,
        weight: Float[Tensor, "vocab d_model"],
        bias: Float[Tensor, " vocab"] | None,
        *,
        soft_cap: float | None = None,
        factor: float = 1.0,
    ) -> None:
        self._weight = weight.detach()
        self._bias = None if bias is None or not bool(bias.any()) else bias.detach()
        self._soft_cap = soft_cap
        self._factor = factor
        self._buffer: Tensor | None = None

    def logits(self, rows: Float[Tensor, "row d_model"]) -> Float32[Tensor, "row vocab"]:
        """Return the logits of at most `CHUNK` rows, in a buffer that the next call overwrites."""
        out = self._held(len(rows))
        if self._weight.dtype == torch.float32:
            torch.mm(rows, self._weight.T, out=out)
        else:
            out.copy_(F.linear(rows, self._weight))
        if self._bias is not None:
            out.add_(self._bias)
        if self._factor != 1.0:
            out.mul_(self._factor)
        if self._soft_cap is not None:
            out.div_(self._soft_cap).tanh_().mul_(self._soft_cap)
        return out

    def __call__(
        self, rows: Float[Tensor, "row d_model"], targets: Int64[Tensor, " row"]
    ) -> Float32[Tensor, " row"]:
        """Return the loss of each row's target."""
        losses = torch.empty(len(rows), dtype=torch.float32, device=rows.device)
        for start in range(0, len(rows), CHUNK):
            part = slice(start, start + CHUNK)
            logits = self.logits(rows[part])
            chosen = logits.gather(1, targets[part, None]).squeeze(1)
            top = logits.amax(1, keepdim=True)
            total = logits.sub_(top).exp_().sum(1).log_().add_(top.squeeze(1))
            losses[part] = total - chosen
        return losses

    def compared(
        self,
        clean: Float[Tensor, "row d_model"],
        others: Sequence[Float[Tensor, "row d_model"]],
        targets: Int64[Tensor, " row"],
    ) -> list[Predictions]:
        """Return the predictions of some rows, then of each of the others in their place.

        The clean distribution of a chunk is computed once for all of them. Equal rows have a
        divergence of exactly 0: differences of logarithms are taken before they are summed.
        """
        found = [
            Predictions(*torch.zeros(2, len(targets), dtype=torch.float32, device=clean.device))
            for _ in (clean, *others)
        ]
        for start in range(0, len(targets), CHUNK):
            part = slice(start, start + CHUNK)
            wanted = targets[part, None]
            expected = log_softmax(self.logits(clean[part]), dim=1)
            weights = expected.exp()
            found[0].losses[part] = -expected.gather(1, wanted).squeeze(1)
            for into, rows in zip(found[1:], others, strict=True):
                logs = log_softmax(self.logits(rows[part]), dim=1)
                into.losses[part] = -logs.gather(1, wanted).squeeze(1)
                into.divergences[part] = logs.sub_(expected).mul_(weights).sum(1).neg_()
        return found

    def _held(self, rows: int) -> Tensor:
        if self._buffer is None:
            shape = (CHUNK, self._weight.shape[0])
            self._buffer = torch.empty(shape, dtype=torch.float32, device=self._weight.device)
        return self._buffer[:rows]

    @classmethod
    def of(cls, bridge: Any) -> "NextTokenLoss":
        """Return the loss of a model, with what its architecture does to logits."""
        config = bridge.original_model.config
        head = bridge.original_model.get_output_embeddings()
        divisor = getattr(config, "logits_scaling", None)  # Granite
        multiplier = getattr(config, "logit_scale", None)  # Cohere
        return cls(
            head.weight,
            getattr(head, "bias", None),
            soft_cap=getattr(config, "final_logit_softcapping", None),  # Gemma 2
            factor=(multiplier or 1.0) / (divisor or 1.0),
        )
