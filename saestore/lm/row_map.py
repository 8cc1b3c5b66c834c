"""What a model computes of one row and no other, such as an MLP: rows at a hookpoint to rows at another."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from saestore.errors import UnsupportedError


RowMap = Callable[[Float[Tensor, "row d_in"]], Float32[Tensor, "row d_out"]]
"""Rows at one hookpoint to the model's rows at another, on the CPU."""
Host = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Rows of one context by hookpoint to rows of it by hookpoint, differentiable."""
ROWS_AT_ONCE = 1024
"""Rows that pass through the model together."""
TRIED = 3
"""Tokens of the context on which it is seen whether rows meet."""


def reached(
    host: Host, rows: Mapping[str, Float[Tensor, "row _"]], at: int
) -> dict[str, Bool[Tensor, " row"]]:
    """Return which rows a row of each output changes with.

    Args:
        host: What the model computes.
        rows: Rows of one context.
        at: Which row of the outputs.
    """
    leaves = {hook: each.detach().clone().requires_grad_() for hook, each in rows.items()}
    found = {}
    for hook, written in host(leaves).items():
        changes = torch.zeros(len(written), dtype=torch.bool, device=written.device)
        if written.requires_grad:
            gradients = torch.autograd.grad(
                written[at].sum(), list(leaves.values()), retain_graph=True, allow_unused=True
            )
            for gradient in gradients:
                if gradient is not None:
                    changes |= (gradient != 0).any(dim=1)
        found[hook] = changes
    return found


def row_map(
    between: Callable[[Int64[Tensor, "batch position"], Tensor], Tensor],
    rows: Float[Tensor, "position d_in"],
    tokens: Int64[Tensor, "batch position"],
    names: tuple[str, str],
) -> RowMap:
    """Return the map between two hookpoints, tried out on one context.

    Args:
        between: Tokens, and rows that stand in for those at the first hookpoint, to those at the second.
        rows: What passes by the first.
        tokens: The context.
        names: The hookpoints.

    Raises:
        UnsupportedError: The second does not change with the first, or rows meet in between.
    """
    reads, writes = names
    changes = reached(
        lambda given: {writes: between(tokens, given[reads].unsqueeze(0))[0]}, {reads: rows}, -1
    )[writes]
    if not changes[-1]:
        raise _none(reads, writes, f"{writes} does not change with {reads}")
    if changes[:-1].any():
        raise _none(reads, writes, "rows of a context meet in between, as in attention")

    @torch.inference_mode()
    def respond(given: Float[Tensor, "row d_in"]) -> Float32[Tensor, "row d_out"]:
        # A context of one token each; what comes before the hookpoint is computed of one alone.
        parts = [
            between(tokens[:, :1], part.unsqueeze(1))[:, 0].to("cpu", torch.float32)
            for part in torch.split(given, ROWS_AT_ONCE)
        ]
        return torch.cat(parts).clone()

    return respond


def _none(reads: str, writes: str, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"the model computes no rows at {writes} from single rows at {reads}: {why}",
        found=f"{reads} and {writes}",
        expected="what an MLP reads and what it writes",
        hint="dictionary.hookpoint_in = blocks.N.ln2.hook_normalized, hookpoint_out = blocks.N.hook_mlp_out",
    )
