"""Verification in a terminal: what is whole, what is damaged, which stores and models belong together."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from saestore.numbers import count, value
from saestore.words import visible
from saestore_cli.drawing import plain_table


if TYPE_CHECKING:
    from saestore.activations.same_tokens import Difference, SameTokens
    from saestore.generate import ModelCheck

_BAD = "bold red"


def verified(out: Console, found: Mapping[str, Sequence[str]], *, quick: bool) -> None:
    """Print each artefact: that it is whole, or everything that is wrong with it."""
    what = "sizes and indexes are right" if quick else "every byte is as it was written"
    for path, damage in found.items():
        if not damage:
            out.print(f"{path}: {what}", soft_wrap=True)
            continue
        many = "problem" if len(damage) == 1 else "problems"
        out.print(Text(f"{path}: {count(len(damage))} {many}", style=_BAD), soft_wrap=True)
        for line in damage:
            out.print(f"  {visible(line)}", soft_wrap=True)


def same_tokens(out: Console, found: "SameTokens") -> None:
    """Print which stores can be used together, and what parts the others."""
    text = f"{count(found.rows)} tokens in {count(found.contexts)} contexts"
    if found.same:
        out.print(f"the same {text}: {', '.join(found.groups[0])}", soft_wrap=True)
    else:
        out.print(f"{found.groups[0][0]} has {text}", soft_wrap=True)
    for each in found.compared:
        if not each.differences:
            continue
        verdict = "can be used together, but not alike" if each.together else "other tokens"
        head = Text(f"{each.store} beside {each.beside}: {verdict}")
        out.print(head if each.together else head.append("", style=_BAD), soft_wrap=True)
        for difference in each.differences:
            out.print(Padding(Text(_told(difference)), (0, 0, 0, 2), expand=False))
    if not found.same:
        for group in found.groups:
            alone = "on its own" if len(group) == 1 else "together"
            out.print(f"{alone}: {', '.join(group)}", soft_wrap=True)


def _told(each: "Difference") -> str:
    share = f"{count(each.count)} of {count(each.total)} differ"
    return f"{each.part}: {share}; the first: {visible(each.first)}"


def against_model(out: Console, name: str, found: "ModelCheck") -> None:
    """Print each hookpoint's largest difference, and whether the model is the store's."""
    verdict = (
        "the model's, within rounding"
        if found.agrees
        else "computed with other weights"
        if found.other_weights
        else "not the model's"
    )
    of = f"{count(found.contexts)} of {count(found.of)} contexts"
    style = "bold" if found.agrees else _BAD
    out.print(Text(f"{name}: {of} are {verdict}", style=style), soft_wrap=True)
    if found.other_weights:
        out.print(
            f"  weights {str(found.fingerprint)[:12]} made it, "
            f"{found.model} has {found.found_fingerprint[:12]}",
            soft_wrap=True,
        )
    table = plain_table("hookpoint", ">rows", ">wrong", ">largest", ">noise", ">spacings")
    for each in found.hookpoints:
        table.add_row(
            each.hookpoint,
            count(each.rows),
            count(each.wrong_rows),
            value(each.relative),
            value(each.noise),
            value(each.worst.spacings),
        )
    out.print(table)
    for each in found.hookpoints:
        worst = each.worst
        if each.wrong_rows:
            out.print(
                f"  {each.hookpoint}: worst at row {count(worst.row)} (context "
                f"{count(worst.context)}, position {worst.position}), dimension "
                f"{worst.dimension}: stored {value(worst.stored)}, computed "
                f"{value(worst.computed)}",
                soft_wrap=True,
            )
    out.print(
        Text(
            "largest: greatest difference, in root mean squares of its row; noise: what another "
            f"shape of the forward pass changes; spacings: the worst value's difference, in steps "
            f"of {found.dtype}",
            style="dim",
        )
    )
