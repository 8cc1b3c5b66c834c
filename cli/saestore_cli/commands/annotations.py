"""What people say about features: `annotations add`, `list`, `export`, `import` and `compact`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from saestore_cli.session import Session, command


PANEL = "Look"


class Field(StrEnum):
    """What can be said about a feature."""

    NAME = "name"
    DESCRIPTION = "description"
    INTERPRETATION = "interpretation"
    EXAMPLES = "examples"
    CONFIDENCE = "confidence"
    NOTES = "notes"
    TAG = "tag"
    BOOKMARK = "bookmark"


class Confidence(StrEnum):
    """How sure somebody is."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class AnnotationFormat(StrEnum):
    """Files that annotations are read from and written to."""

    PARQUET = "parquet"
    JSON = "json"
    MLXTERP = "mlxterp"
    FEATURE_CIRCUITS = "feature-circuits"
    LLAMASCOPIUM = "llamascopium"


AnalysisArgument = Annotated[
    str,
    typer.Argument(
        metavar="SERIES/NAME[/ANALYSIS]",
        help="An analysis; of a dictionary, the only one.",
        show_default=False,
    ),
]
AuthorOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Who says it; absent, SAESTORE_AUTHOR, else the user who is logged in.",
        show_default=False,
    ),
]
OnlyAuthorOption = Annotated[
    str | None,
    typer.Option("--author", metavar="NAME", help="Only what they say.", show_default=False),
]
FormatOption = Annotated[
    AnnotationFormat | None,
    typer.Option(
        "--format",
        help="parquet and json hold every event, the others what is said now; absent, by the suffix.",
        show_default=False,
    ),
]
TheirsOption = Annotated[
    str | None,
    typer.Option(
        "--as",
        metavar="SERIES/NAME",
        help="What llamascopium calls the dictionary; absent, what it is called here.",
        show_default=False,
    ),
]


def _text(option: str, what: str) -> Any:
    return typer.Option(option, metavar="TEXT", help=what, show_default=False)


def add(app: typer.Typer) -> None:
    """Add the group `annotations`."""
    group = typer.Typer(
        help="Names, notes, tags and bookmarks of features, kept in the lake.", no_args_is_help=True
    )
    command(
        group,
        "add",
        'saestore annotations add demo/topk-32 17 --name "river names" --tag geo --tag water --bookmark',
        'saestore annotations add demo/topk-32 17 --notes "fires on lakes too" --confidence medium',
        "saestore annotations add demo/topk-32 17 --drop bookmark",
    )(add_annotations)
    command(
        group,
        "list",
        "saestore annotations list demo/topk-32",
        "saestore annotations list demo/topk-32 --field bookmark --output json",
        "saestore annotations list demo/topk-32 --feature 17 --history",
    )(list_annotations)
    command(
        group,
        "export",
        "saestore annotations export demo/topk-32 notes.parquet",
        "saestore annotations export demo/topk-32 registry.json --format mlxterp --author ana",
    )(export_annotations)
    command(
        group,
        "import",
        "saestore annotations import demo/topk-32/longer notes.parquet",
        "saestore annotations import demo/topk-32 sae_features.json --format mlxterp",
        "saestore annotations import demo/topk-32 bookmarks.json --format llamascopium --as L10/topk",
    )(import_annotations)
    command(group, "compact", "saestore annotations compact demo/topk-32")(compact_annotations)
    app.add_typer(group, name="annotations", rich_help_panel=PANEL)


def add_annotations(
    session: Session,
    *,
    analysis: AnalysisArgument,
    feature: Annotated[
        int, typer.Argument(metavar="FEATURE", help="Which feature.", show_default=False)
    ],
    name: Annotated[str | None, _text("--name", "What it is called.")] = None,
    description: Annotated[str | None, _text("--description", "What it does.")] = None,
    interpretation: Annotated[
        str | None, _text("--interpretation", "What it stands for, as an explanation.")
    ] = None,
    notes: Annotated[str | None, _text("--notes", "Anything else.")] = None,
    example: Annotated[
        list[str] | None, _text("--example", "A text it fires on; may be repeated.")
    ] = None,
    confidence: Annotated[
        Confidence | None, typer.Option(help="How sure you are.", show_default=False)
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="TAG", help="A tag; may be repeated.", show_default=False),
    ] = None,
    bookmark: Annotated[
        bool, typer.Option("--bookmark", metavar="", help="Bookmark the feature.")
    ] = False,
    drop: Annotated[
        list[Field] | None,
        typer.Option(
            metavar="FIELD",
            help=f"Take back what you said: {', '.join(Field)}; may be repeated.",
            show_default=False,
        ),
    ] = None,
    author: AuthorOption = None,
) -> None:
    """Say something about a feature.

    What is given stands for all that you said of it before: give every tag, and every example. What you
    do not name stays, and so does what others say.
    """
    from saestore.errors import ConfigError

    given: dict[str, Any] = {
        "name": name,
        "description": description,
        "interpretation": interpretation,
        "examples": example,
        "confidence": None if confidence is None else confidence.value,
        "notes": notes,
        "tag": tag,
        "bookmark": bookmark or None,
    }
    said = {field: value for field, value in given.items() if value is not None}
    dropped = {field.value: None for field in drop or ()}
    both = sorted(said.keys() & dropped.keys())
    if both or not (said or dropped):
        raise ConfigError(
            field="annotations add",
            problem=f"{', '.join(both)} is given and dropped" if both else "nothing is said",
            expected="fields to say, or to --drop",
            hint='for example: --name "river names" --tag geo',
        )
    lake = session.lake
    events = lake.annotate(analysis, feature, said | dropped, author=author, source="cli")
    session.output.annotations(events, history=True)


def list_annotations(
    session: Session,
    *,
    analysis: AnalysisArgument,
    feature: Annotated[
        int | None, typer.Option(metavar="N", help="Only this feature.", show_default=False)
    ] = None,
    field: Annotated[
        Field | None, typer.Option(help="Only this field.", show_default=False)
    ] = None,
    author: OnlyAuthorOption = None,
    history: Annotated[
        bool,
        typer.Option("--history", metavar="", help="Everything that was ever said, oldest first."),
    ] = False,
) -> None:
    """List what people say about features now."""
    said = session.lake.annotations(analysis, feature=feature, history=history)
    chosen = [
        event
        for event in said
        if (field is None or event.field == field.value) and author in {None, event.author}
    ]
    session.output.annotations(chosen, history=history)


def export_annotations(
    session: Session,
    *,
    analysis: AnalysisArgument,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Where; one that is there is replaced.", show_default=False
        ),
    ],
    form: FormatOption = None,
    author: OnlyAuthorOption = None,
    theirs: TheirsOption = None,
) -> None:
    """Write annotations to a file: for another lake, or for another tool.

    A format of another tool has room for one value of a field: of several authors', the last one.
    """
    name = None if form is None else form.value
    report = session.lake.export_annotations(analysis, file, name, author=author, theirs=theirs)
    session.output.exported_annotations(report)


def import_annotations(
    session: Session,
    *,
    analysis: AnalysisArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What is read.", show_default=False)],
    form: FormatOption = None,
    author: AuthorOption = None,
    theirs: TheirsOption = None,
) -> None:
    """Add what a file says, all of it or nothing; importing it again adds nothing.

    Events of parquet and json keep their authors and times, bookmarks of llamascopium their times.
    """
    name = None if form is None else form.value
    report = session.lake.import_annotations(analysis, file, name, author=author, theirs=theirs)
    session.output.imported_annotations(report)


def compact_annotations(session: Session, *, analysis: AnalysisArgument) -> None:
    """Put annotations into one file, which is quicker to read; every event stays.

    Others may read and write meanwhile.
    """
    session.output.compacted(session.lake.compact_annotations(analysis))
