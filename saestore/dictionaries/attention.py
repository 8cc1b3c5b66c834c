"""Causal attention over whole contexts, with values of many features for each group of heads.

    A^q_{t,u} = softmax over u ≤ t of (Q_t · K_u / scale),    z_{t,i} = Σ_u A^{q(i)}_{t,u} v_{u,i}

Contexts of one length are computed together, as many, or as many groups of one, as fit into a bound. A
pattern, (group, row, row) of a context, is all that is ever held: neither products of patterns and
values nor the patterns of a batch. The gradient computes patterns again:

    ∂v = Aᵀ ∂z      ∂A = ∂z vᵀ      ∂S = A ⊙ (∂A − Σ_u ∂A ⊙ A)      ∂Q = ∂S K / scale      ∂K = ∂Sᵀ Q / scale

Everything is in the type of the queries, whatever `torch.autocast` asks for: only the projections before
it are rounded.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

from saestore.dictionaries.contexts import Contexts


PATTERN_BYTES = 32 << 20
"""Patterns held at once, at most; those of one group in one context at least."""


def mixed(
    queries: Float[Tensor, "head row d"],
    keys: Float[Tensor, "head row d"],
    values: Float[Tensor, "row d_sae"],
    contexts: Contexts,
    scale: float,
) -> Float[Tensor, "row d_sae"]:
    """Return z of all rows, differentiable.

    Args:
        queries: Of each group.
        keys: Of each group.
        values: Of each feature; consecutive features share a group.
        contexts: Where rows stand.
        scale: What products are divided by.
    """
    result: Tensor = _Mixed.apply(  # type: ignore[no-untyped-call]
        queries, keys, values, contexts, scale
    )
    return result


def pattern(
    queries: Float[Tensor, "... position d"],
    keys: Float[Tensor, "... position d"],
    hidden: Bool[Tensor, "... position position"],
    scale: float,
) -> Float[Tensor, "... position position"]:
    """Return how much each row attends to each row of its context.

    Args:
        queries: Of the rows of contexts of one length.
        keys: Likewise.
        hidden: Which rows each row does not see.
        scale: What products are divided by.
    """
    scores = torch.matmul(queries, keys.transpose(-1, -2)).div_(scale)
    return torch.softmax(scores.masked_fill_(hidden, -torch.inf), dim=-1)


class _Mixed(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        queries, keys, values, contexts, scale = inputs
        ctx.save_for_backward(queries, keys, values)
        ctx.contexts, ctx.scale = contexts, scale
        grouped = values.view(len(values), len(queries), -1)
        out = torch.empty_like(grouped)
        with torch.autocast(values.device.type, enabled=False):
            for rows, groups, attended in _patterns(queries, keys, contexts, scale):
                found = torch.matmul(attended, _by_group(grouped, rows, groups))
                out[rows, groups] = found.permute(1, 2, 0, 3)
        return out.view(values.shape)

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values = ctx.saved_tensors
        grouped = values.view(len(values), len(queries), -1)
        arriving = gradients[0].reshape(grouped.shape)
        of_queries, of_keys, of_values = map(torch.empty_like, (queries, keys, grouped))
        with torch.autocast(values.device.type, enabled=False):
            for rows, groups, attended in _patterns(queries, keys, ctx.contexts, ctx.scale):
                arrived = _by_group(arriving, rows, groups)
                of_value = torch.matmul(attended.transpose(-1, -2), arrived)
                of_values[rows, groups] = of_value.permute(1, 2, 0, 3)
                value = _by_group(grouped, rows, groups)
                of_scores = torch.matmul(arrived, value.transpose(-1, -2))
                of_scores -= (of_scores * attended).sum(dim=-1, keepdim=True)
                of_scores.mul_(attended).div_(ctx.scale)
                of_queries[groups, rows] = torch.matmul(of_scores, keys[groups, rows])
                of_keys[groups, rows] = torch.matmul(
                    of_scores.transpose(-1, -2), queries[groups, rows]
                )
        return of_queries, of_keys, of_values.view(values.shape), None, None


def _by_group(
    grouped: Float[Tensor, "row head _"], rows: Int64[Tensor, "context position"], groups: slice
) -> Float[Tensor, "_ context position _"]:
    """Return what rows of some contexts have for some groups."""
    return grouped[:, groups][rows].permute(2, 0, 1, 3)


def _patterns(
    queries: Float[Tensor, "head row d"],
    keys: Float[Tensor, "head row d"],
    contexts: Contexts,
    scale: float,
) -> Iterator[tuple[Int64[Tensor, "context position"], slice, Tensor]]:
    """Yield patterns of some groups in some contexts of one length: these rows, the groups."""
    heads = len(queries)
    for all_rows in contexts.by_length():
        each = all_rows.shape[1] ** 2 * queries.element_size()
        at_once = max(1, PATTERN_BYTES // each)
        together = max(1, at_once // heads)
        for first in range(0, len(all_rows), together):
            rows = all_rows[first : first + together]
            hidden = contexts.hidden(rows)
            for group in range(0, heads, at_once):
                groups = slice(group, group + at_once)
                asked, given = queries[groups][:, rows], keys[groups][:, rows]
                yield rows, groups, pattern(asked, given, hidden, scale)
