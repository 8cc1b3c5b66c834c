"""The rest: a model's hookpoints, conversion, removal."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from saestore_cli.commands.look import NameArgument
from saestore_cli.session import Session, command


PANEL = "More"


class GatingName(StrEnum):
    """How the heads of a crosscoder decide what fires."""

    SHARED = "shared"
    PER_HEAD = "per_head"


def add(app: typer.Typer) -> None:
    """Add the remaining commands."""
    command(
        app,
        "hookpoints",
        "saestore hookpoints EleutherAI/pythia-70m",
        "saestore hookpoints models/smollm2 --match 'blocks.*.hook_resid_post'",
        uses=(),
        panel=PANEL,
    )(hookpoints)
    command(
        app,
        "convert",
        "saestore convert demo/topk-32 demo/topk-32-jumprelu",
        "saestore convert scope/layer-8 scope/layer-8-jumprelu --activations llama",
        "saestore convert demo/crosscoder demo/by-head --gating per_head",
        uses=("lake", "device", "no_progress"),
        panel=PANEL,
    )(convert)
    command(app, "remove", "saestore remove features/demo/topk-32/default", panel=PANEL)(remove)


def hookpoints(
    session: Session,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Hub name or local Hugging Face directory.",
            show_default=False,
        ),
    ],
    match: Annotated[
        str | None,
        typer.Option(metavar="GLOB", help="Only names that match.", show_default=False),
    ] = None,
) -> None:
    """List a language model's hookpoints with their widths."""
    from saestore.api import models

    session.output.hookpoints(model, models.hookpoints(model, match))


def convert(
    session: Session,
    dictionary: Annotated[
        str,
        typer.Argument(metavar="SERIES/NAME", help="What is converted.", show_default=False),
    ],
    name: Annotated[
        str,
        typer.Argument(metavar="SERIES/NEW", help="What it becomes.", show_default=False),
    ],
    activations: Annotated[
        str | None,
        typer.Option(
            metavar="STORE",
            help="Store on whose rows thresholds are found and codes compared; absent, the one that "
            "trained it.",
            show_default=False,
        ),
    ] = None,
    rows: Annotated[
        int, typer.Option(min=1, help="Rows on which thresholds are found, at most.")
    ] = 1 << 18,
    gating: Annotated[
        GatingName | None,
        typer.Option(
            help="How a crosscoder's heads shall gate, instead of becoming a JumpReLU; refused where codes "
            "would be others.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """A dictionary as a JumpReLU, which fires above a threshold of each feature.

    Of a gated, relu or batchtopk dictionary the codes are the same. A topk keeps k features on every
    row, which no threshold does: it gets one at which k fire on average, and it is said how often the
    same features fire.
    """
    from saestore.errors import ConfigError

    series, found, rest = name.partition("/")
    if not found or "/" in rest:
        raise ConfigError(
            field="name",
            found=name,
            expected="SERIES/NAME",
            hint=f"for example: saestore convert {dictionary} {dictionary}-jumprelu",
        )
    settings: dict[str, Any] = {"series": series, "name": rest, "dictionary": dictionary}
    settings |= {"rows": rows, "gating": None if gating is None else gating.value}
    if activations is not None:
        settings["activations"] = {"name": activations}
    made = session.lake.convert(settings, progress=session.progress)
    session.output.finished(made.ref, made.manifest, {})


def remove(
    session: Session,
    name: NameArgument,
    with_annotations: Annotated[
        bool,
        typer.Option(
            "--with-annotations",
            metavar="",
            help="Remove what people say about an analysis's features too.",
        ),
    ] = False,
) -> None:
    """Remove an artefact from which no other was made."""
    session.output.removed(session.lake.remove(name, with_annotations=with_annotations))
