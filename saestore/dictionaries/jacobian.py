"""How a dictionary's output changes with its input, beside how the model's does.

    J(x) = ∂ŷ/∂x, raw units, what fires held fixed          cos = ⟨J, J_host⟩ / (‖J‖ ‖J_host‖), of each row

A dictionary may reconstruct well and compute otherwise than the model between its inputs: squared error
does not see it, the cosine does. Exact, it takes a backward pass of both for each output dimension;
with m random orthonormal directions u it is that of u J and u J_host, m passes, and as exact as they are
many. A projection of both by the same directions keeps inner products on average.

Source: Anthropic 2025, "Sparse mixtures of linear transforms".
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from saestore.dictionaries.base import SparseDictionary
from saestore.dictionaries.passes import Rows
from saestore.errors import ConfigError, UnsupportedError


Host = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]
"""Rows of each input hookpoint in raw units to rows of each output hookpoint, differentiable."""


def jacobian(
    dictionary: SparseDictionary, inputs: Rows | Float[Tensor, "row d_in"]
) -> Float[Tensor, "row d_out d_in"]:
    """Return ∂ŷ/∂x of each row, hookpoints side by side; for few rows.

    Args:
        dictionary: Whose.
        inputs: Rows of each input hookpoint in raw units; a bare tensor when there is only one.

    Raises:
        UnsupportedError: A row's output depends on other rows.
    """
    rows = _leaves(dictionary, inputs)
    found = _joined(dictionary, dictionary.reconstruct_differentiably(rows))
    directions = torch.eye(found.shape[1], dtype=found.dtype, device=found.device)
    return torch.stack(list(_pulled(found, rows, directions)), dim=1)


def jacobian_cosine(
    dictionary: SparseDictionary,
    host: Host,
    inputs: Rows | Float[Tensor, "row d_in"],
    *,
    projections: int | None = None,
    seed: int = 0,
) -> Float64[Tensor, " row"]:
    """Return the cosine of the Jacobians of a dictionary and of what it imitates, of each row.

    NaN where one of them is zero.

    Args:
        dictionary: Which.
        host: What it imitates, such as an MLP.
        inputs: Rows of each input hookpoint in raw units; a bare tensor when there is only one.
        projections: How many random directions; None or at least d_out, exactly.
        seed: Of the directions.

    Raises:
        ConfigError: No direction is asked for.
        UnsupportedError: A row's output depends on other rows.
    """
    rows = _leaves(dictionary, inputs)
    mine = _joined(dictionary, dictionary.reconstruct_differentiably(rows))
    directions = _directions(mine, projections, seed)
    theirs = _joined(dictionary, host(rows))
    shape = (3, len(mine))
    inner, own, other = torch.zeros(shape, dtype=torch.float64, device=mine.device)
    for ours, its in zip(
        _pulled(mine, rows, directions), _pulled(theirs, rows, directions), strict=True
    ):
        a, b = ours.double(), its.double()
        inner += torch.linalg.vecdot(a, b)
        own += a.square().sum(dim=1)
        other += b.square().sum(dim=1)
    cosine: Tensor = inner / (own * other).sqrt()
    return cosine


def _directions(like: Tensor, count: int | None, seed: int) -> Float[Tensor, "_ d_out"]:
    """Return orthonormal directions of the output, all of them or so many random ones."""
    width = like.shape[1]
    if count is None or count >= width:
        return torch.eye(width, dtype=like.dtype, device=like.device)
    if count < 1:
        raise ConfigError(
            field="projections", found=count, expected="1 or more, or None for all directions"
        )
    draw = torch.Generator().manual_seed(seed)
    drawn = torch.randn(width, count, generator=draw, dtype=torch.float64)
    directions: Tensor = torch.linalg.qr(drawn)[0].T.to(like)
    return directions


def _pulled(
    found: Float[Tensor, "row d_out"], rows: dict[str, Tensor], directions: Tensor
) -> Iterator[Float[Tensor, "row d_in"]]:
    """Yield each direction times the Jacobian of each row."""
    for direction in directions:
        # Rows do not meet, so the gradient of a sum over rows is that of each.
        parts = torch.autograd.grad(
            (found @ direction).sum(), list(rows.values()), retain_graph=True
        )
        yield torch.cat(parts, dim=1)


def _leaves(
    dictionary: SparseDictionary, inputs: Rows | Float[Tensor, "row d_in"]
) -> dict[str, Tensor]:
    if dictionary.reads_contexts:
        raise UnsupportedError(
            "a row's output depends on the rows before it: it has no Jacobian of its own row alone",
            found=f"a {dictionary.family}",
            expected="a family whose codes are of one row",
            hint="dictionary.z_patterns says what each earlier row adds",
        )
    rows = dictionary.as_inputs(inputs)
    return {hook: each.detach().clone().requires_grad_() for hook, each in rows.items()}


def _joined(dictionary: SparseDictionary, outputs: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([outputs[hook] for hook in dictionary.hookpoints_out], dim=1)
