"""What people say about features, in a terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.text import Text

from saestore.words import SAID, said, visible
from saestore_cli.drawing import plain_table
from saestore_cli.numbers import many, size


if TYPE_CHECKING:
    from saestore.exchange.annotations import AnnotationsExport, AnnotationsImport
    from saestore.features import Compacted
    from saestore_schemas.annotations import AnnotationEvent


def listed(events: "Sequence[AnnotationEvent]", *, history: bool) -> RenderableType:
    """Return a table of events, or that there are none.

    Args:
        events: Which.
        history: Whether what was taken back is among them; the way by which each came is then shown.
    """
    if not events:
        return Text("nobody said anything")
    more = ("by",) if history else ()
    table = plain_table(">feature", "field", "value", "author", "when", *more)
    for event in events:
        value = (
            Text("taken back", style="dim")
            if event.deleted
            else Text("\n".join(said(event.field, event.value)))
        )
        table.add_row(
            str(event.feature),
            SAID[event.field],
            value,
            visible(event.author),
            f"{event.created:%Y-%m-%d %H:%M}",
            *((visible(event.source),) if history else ()),
        )
    return table


def exported(console: Console, report: "AnnotationsExport") -> None:
    """Print what was written."""
    left = f"; {report.left_out:,} have no place in it" if report.left_out else ""
    console.print(
        f"{report.file}: {many(report.events, 'annotations')} of {many(report.features, 'features')} of "
        f"{report.analysis} for {report.format}, {size(report.bytes)}{left}",
        soft_wrap=True,
    )


def imported(console: Console, report: "AnnotationsImport") -> None:
    """Print what was added, what was known, and what was passed over."""
    console.print(
        f"{report.analysis}: {many(report.added, 'annotations')} of {many(report.features, 'features')} "
        f"added, {report.known:,} known already",
        soft_wrap=True,
    )
    for note in report.notes:
        console.print(visible(note), soft_wrap=True)


def compacted(console: Console, found: "Compacted") -> None:
    """Print how many files there were and are."""
    swept = f"; {many(found.removed, 'files')} of killed writers removed" if found.removed else ""
    console.print(
        f"{many(found.events, 'annotations')}: {many(found.files_before, 'files')} before, "
        f"{found.files_after:,} now{swept}",
        soft_wrap=True,
    )
