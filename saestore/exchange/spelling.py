"""Hookpoints as other tools spell them, to what TransformerLens calls them.

A module's name means its output: `layers.5` is the residual stream after block 5. What is not in
the table is not guessed: the user says what it is.
"""

import re
from collections.abc import Sequence

from saestore.errors import ConfigError, HookpointNotFoundError


_BLOCKS = (
    r"(?:(?:model|transformer|gpt_neox|base_model|language_model)\.)*(?:layers|h|blocks)\.(\d+)"
)

_TABLE: tuple[tuple[str, str], ...] = (
    (r"((?:blocks\.\d+|hook_|ln_final).*)", r"\1"),
    (_BLOCKS, r"blocks.\1.hook_resid_post"),
    (rf"{_BLOCKS}\.(?:mlp|feed_forward)", r"blocks.\1.hook_mlp_out"),
    (rf"{_BLOCKS}\.(?:self_attn|attn|attention|self_attention)", r"blocks.\1.hook_attn_out"),
    (r"(?:(?:model|transformer|gpt_neox)\.)*(?:embed_tokens|wte|embed_in)", "hook_embed"),
)
"""Pattern of a whole name, and what it is called here; the first that fits."""

_ALIASES: tuple[tuple[str, str], ...] = (
    (r"blocks\.(\d+)", r"blocks.\1.hook_resid_post"),
    (r"blocks\.(\d+)\.hook_in", r"blocks.\1.hook_resid_pre"),
    (r"blocks\.(\d+)\.hook_out", r"blocks.\1.hook_resid_post"),
    (r"blocks\.(\d+)\.attn\.hook_out", r"blocks.\1.hook_attn_out"),
    (r"blocks\.(\d+)\.mlp\.hook_out", r"blocks.\1.hook_mlp_out"),
)
"""Names that TransformerLens's bridge gives the same places."""


def translated(name: str) -> str | None:
    """Return TransformerLens's name of a hookpoint, or None if the spelling is not known.

    >>> translated("model.layers.5.mlp")
    'blocks.5.hook_mlp_out'
    >>> translated("blocks.3.hook_out")
    'blocks.3.hook_resid_post'
    """
    for pattern, ours in (*_ALIASES, *_TABLE):
        if re.fullmatch(pattern, name):
            return re.sub(pattern, ours, name)
    return None


_MODULES: tuple[tuple[str, str], ...] = (
    (r"blocks\.(\d+)\.hook_resid_post", r"layers.\1"),
    (r"blocks\.(\d+)\.hook_mlp_out", r"layers.\1.mlp"),
    (r"blocks\.(\d+)\.hook_attn_out", r"layers.\1.self_attn"),
    (r"hook_embed", "embed_tokens"),
)


def module(hookpoint: str) -> str | None:
    """Return the module whose output a hookpoint is, as most models call it; None if it is none.

    >>> module("blocks.5.hook_mlp_out")
    'layers.5.mlp'
    """
    for pattern, theirs in _MODULES:
        if re.fullmatch(pattern, hookpoint):
            return re.sub(pattern, theirs, hookpoint)
    return None


def chosen(wanted: Sequence[str], available: Sequence[str], *, where: str) -> dict[str, str]:
    """Return the hookpoints to import: our name to the source's own.

    Args:
        wanted: `ITS-NAME` or `ITS-NAME=HOOKPOINT` each; none means all.
        available: Names the source has.
        where: What the source is, for errors.

    Raises:
        HookpointNotFoundError: The source has none of that name.
        ConfigError: A name is not one that TransformerLens knows, or two become one.
    """
    found: dict[str, str] = {}
    for each in wanted or available:
        theirs, ours = _pair(each, available, where=where)
        if ours in found:
            raise ConfigError(
                field="hookpoints",
                problem=f"{found[ours]!r} and {theirs!r} both become {ours!r}",
                expected="one array for each hookpoint",
                hint="say which one: --hookpoint ITS-NAME=HOOKPOINT",
            )
        found[ours] = theirs
    return found


def _pair(each: str, available: Sequence[str], *, where: str) -> tuple[str, str]:
    theirs, _, ours = each.partition("=") if each not in available else (each, "", "")
    if ours:
        if theirs not in available:
            raise _missing(theirs, available, where=where)
        return theirs, translated(ours) or ours
    name = translated(theirs)
    if theirs not in available:
        alike = [known for known in available if name and translated(known) == name]
        if not alike and name and len(available) == 1 and translated(available[0]) is None:
            alike = list(
                available
            )  # an array without a hookpoint's name, and the name it is to have
        if len(alike) != 1:
            raise _missing(theirs, available, where=where)
        theirs = alike[0]
    if name is None:
        raise ConfigError(
            field="hookpoints",
            problem=f"{theirs!r} of {where} is not how TransformerLens spells a hookpoint",
            expected="a name such as blocks.8.hook_resid_post",
            hint=f"say which hookpoint it is: --hookpoint '{theirs}=blocks.8.hook_resid_post'",
        )
    return theirs, name


def _missing(name: str, available: Sequence[str], *, where: str) -> HookpointNotFoundError:
    error = HookpointNotFoundError(pattern=name, where=where, known=tuple(available))
    if not error.hint.startswith("did you mean"):
        error.hint = f"it has: {', '.join(sorted(available)[:10])}"
    return error


def layer_of(hookpoint: str) -> int | None:
    """Return the block a hookpoint is in, or None outside the blocks."""
    found = re.match(r"blocks\.(\d+)\.", hookpoint)
    return int(found[1]) if found else None
