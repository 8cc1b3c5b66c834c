"""The MongoDB index in a terminal: what a sync did, how it stands to the lake, where they differ."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from saestore.numbers import count
from saestore.words import visible
from saestore_cli.drawing import plain_table, terminal
from saestore_cli.numbers import many, size


if TYPE_CHECKING:
    from saestore.api.indexing import FoundPage
    from saestore.index import Dropped, Status, Synced

_STATES = {
    "indexed": "indexed",
    "behind": "indexed, without what people said since",
    "partly": "partly: a sync did not finish it",
    "changed": "of an earlier artefact of the name",
    "missing": "not indexed",
    "gone": "indexed, but gone from the lake",
}


def synced(out: Console, found: "Synced") -> None:
    """Print what a sync did."""
    out.print(
        f"{found.place}: {many(found.artefacts, 'artefacts')} of {found.lake}", soft_wrap=True
    )
    for path in found.written:
        out.print(f"  written: {path}", soft_wrap=True)
    for path in found.removed:
        out.print(f"  removed: {path}", soft_wrap=True)
    facts = [
        (found.features, "features written"),
        (found.kept, "features kept that an earlier sync had written"),
        (found.events, "annotation events written"),
        (found.orphans, "documents removed that belonged to nothing"),
    ]
    for n, what in facts:
        if n:
            out.print(f"  {count(n)} {what}", soft_wrap=True)
    if not (found.written or found.removed or any(n for n, _ in facts)):
        out.print("  nothing to do: it said what the lake says", soft_wrap=True)
    for path, why in found.unreadable.items():
        _warn(f"{path} is not indexed: {why}")


def status(out: Console, found: "Status") -> None:
    """Print how the index stands to each artefact."""
    out.print(f"{found.place}: {size(found.bytes)} on disk", soft_wrap=True)
    if found.index_of is None:
        out.print("it is empty", soft_wrap=True)
    elif found.index_of != found.lake:
        out.print(Text(f"it is the index of {found.index_of}", style="bold red"), soft_wrap=True)
    table = plain_table("artefact", "state", "features")
    for each in found.artefacts:
        n = "" if each.features is None else f"{count(each.indexed or 0)} of {count(each.features)}"
        table.add_row(each.path, _STATES[each.state], n)
    out.print(table)
    if found.orphans:
        out.print(f"{count(found.orphans)} documents belong to nothing in the lake", soft_wrap=True)
    for path, why in found.unreadable.items():
        _warn(f"{path} cannot be indexed: {why}")
    if not found.current:
        _hint("saestore index sync")


def verified(out: Console, place: str, found: Sequence[str]) -> None:
    """Print each difference."""
    if not found:
        out.print(f"{place}: every document is as the lake says", soft_wrap=True)
        return
    out.print(Text(f"{place}: {many(len(found), 'differences')}", style="bold red"), soft_wrap=True)
    for line in found:
        out.print(f"  {visible(line)}", soft_wrap=True)
    _hint("saestore index rebuild makes it again")


def dropped(out: Console, found: "Dropped") -> None:
    """Print what was dropped."""
    if found.index_of is None:
        out.print(f"{found.place}: there was no index", soft_wrap=True)
    else:
        of = f"the index of {found.index_of}, with {many(found.features, 'features')}"
        out.print(f"{found.place}: dropped {of}; the lake has everything", soft_wrap=True)


def source(found: "FoundPage") -> None:
    """Say on stderr where a feature was read, if an index is configured."""
    if found.why_not:
        _warn(f"{found.why_not}; read from the lake, which says the same")
    elif found.index is not None:
        terminal(sys.stderr).print(Text(f"read from the index at {found.index}", style="dim"))


def _warn(message: str) -> None:
    terminal(sys.stderr).print(Text("warning: ", style="bold").append(message), soft_wrap=True)


def _hint(message: str) -> None:
    terminal(sys.stderr).print(Text("hint: ", style="bold").append(message, "not bold"))
