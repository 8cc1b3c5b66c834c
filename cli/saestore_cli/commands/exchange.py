"""Other tools' formats, both directions: `import` and `export`.

Of dictionaries see `dictionaries`, of features `exported_features`.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from saestore_cli.commands import dictionaries, exported_features
from saestore_cli.options import ResumeOption, SetOption
from saestore_cli.session import Session, command


PANEL = "Other tools"


class ActivationFormat(StrEnum):
    """Formats that activations are exported in."""

    SAFETENSORS = "safetensors"
    PARQUET = "parquet"
    LLAMASCOPIUM = "llamascopium"


class StoreType(StrEnum):
    """Types of activations that can be asked for."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"


class SplitName(StrEnum):
    """Which contexts of a store."""

    ALL = "all"
    TRAIN = "train"
    HELD_OUT = "held_out"


def add(app: typer.Typer) -> None:
    """Add `import` and `export`."""
    imports = typer.Typer(help="Read other tools' files into the lake.", no_args_is_help=True)
    command(
        imports,
        "activations",
        "saestore import activations llamascopium cache/gpt2 gpt2 --model openai-community/gpt2",
        "saestore import activations sae-lens cached/ gpt2 --hookpoint blocks.8.hook_resid_pre",
        "saestore import activations npy acts.npy mine --hookpoint blocks.3.hook_mlp_out "
        "--tokens tokens.npy",
        "saestore import activations configs/import/llamascopium.toml",
        uses=("lake", "no_progress"),
    )(import_activations)
    app.add_typer(imports, name="import", rich_help_panel=PANEL)
    exports = typer.Typer(
        help="Write dictionaries, activations and features in other tools' formats.",
        no_args_is_help=True,
    )
    command(
        exports,
        "activations",
        "saestore export activations demo demo-rows",
        "saestore export activations demo held-out.parquet --format parquet --split held_out "
        "--held-out 0.1",
        uses=("lake", "no_progress"),
    )(export_activations)
    exported_features.add(exports)
    dictionaries.add(imports, exports)
    app.add_typer(exports, name="export", rich_help_panel=PANEL)


def import_activations(
    session: Session,
    *,
    what: Annotated[
        str,
        typer.Argument(
            metavar="KIND | CONFIG.toml",
            help="llamascopium, sae-lens, npy or safetensors; or a settings file that says all.",
            show_default=False,
        ),
    ],
    path: Annotated[
        str | None,
        typer.Argument(metavar="PATH", help="What the other tool wrote.", show_default=False),
    ] = None,
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Name of the store.", show_default=False),
    ] = None,
    hookpoint: Annotated[
        list[str] | None,
        typer.Option(
            "--hookpoint",
            metavar="NAME[=HOOKPOINT]",
            help="Which one, and what TransformerLens calls it; may be repeated; absent, all.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The language model, hub name or directory; absent, tokens are shown as ids.",
            show_default=False,
        ),
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            help="Token ids: a .npy, a tensor or a column, by kind.",
            show_default=False,
        ),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE", help="0 where a row is not to be used, likewise.", show_default=False
        ),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            metavar="N,D", help="Shape of a raw file; -1 for one length.", show_default=False
        ),
    ] = None,
    source_dtype: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="What the numbers of a file are: needed for raw files and for bfloat16 in a .npy.",
            show_default=False,
        ),
    ] = None,
    context_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Cut rows that lie one after the other into contexts of N tokens.",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        StoreType | None,
        typer.Option(help="How to store them; absent, bit for bit.", show_default=False),
    ] = None,
    overrides: SetOption = None,
    resume: ResumeOption = False,
) -> None:
    """Activations of another tool to a store like any other.

    An import that was killed continues where it stopped when the same command is given again. Rows
    are read again from both sides at the end, and the largest difference is recorded.
    """
    from saestore.api import config
    from saestore.lake import Ref
    from saestore_schemas.exchange import ImportSettings

    del resume
    options: dict[str, Any] = {
        "source.tokens": tokens,
        "source.mask": mask,
        "source.shape": None if shape is None else _shape(shape),
        "source.dtype": source_dtype,
        "hookpoints": hookpoint,
        "lm.model": model,
        "context_size": context_size,
        "dtype": None if dtype is None else dtype.value,
    }
    file = None
    if path is None and what.endswith(".toml"):
        file = what
    else:
        _three(what, path, name)
        options |= {"source.kind": what, "source.path": path, "name": name}
    given = {key: value for key, value in options.items() if value is not None}
    settings = config.load(ImportSettings, file, overrides or (), options=given)
    lake = session.lake
    lake.import_activations(settings, progress=session.progress)
    ref = Ref("activations", settings.name)
    session.output.finished(ref, lake.lake.manifest(ref), {})


def export_activations(
    session: Session,
    *,
    store: Annotated[
        str, typer.Argument(metavar="STORE", help="An activation store.", show_default=False)
    ],
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Where to write; an earlier export there is replaced.",
            show_default=False,
        ),
    ],
    form: Annotated[
        ActivationFormat, typer.Option("--format", help="Which files to write.")
    ] = ActivationFormat.SAFETENSORS,
    hookpoint: Annotated[
        list[str] | None,
        typer.Option(
            "--hookpoint",
            metavar="NAME",
            help="Which one; may be repeated; absent, all.",
            show_default=False,
        ),
    ] = None,
    contexts: Annotated[
        str | None,
        typer.Option(metavar="A:B", help="Contexts A to B, B not included.", show_default=False),
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(
            metavar="A:B", help="Whole contexts that begin in these rows.", show_default=False
        ),
    ] = None,
    split: Annotated[
        SplitName, typer.Option(help="All contexts, or one side of a held-out split.")
    ] = SplitName.ALL,
    held_out: Annotated[
        float,
        typer.Option(
            "--held-out", metavar="SHARE", min=0.0, max=1.0, help="Share of contexts held out."
        ),
    ] = 0.0,
    dtype: Annotated[
        StoreType | None,
        typer.Option(
            help="Type of the activations; absent, the store's where the format has it.",
            show_default=False,
        ),
    ] = None,
    file_mib: Annotated[
        float, typer.Option(metavar="MIB", min=0.001, help="Upper bound of a file.")
    ] = 512.0,
) -> None:
    """An activation store as files that other tools read.

    Files hold whole contexts. Documents and vocabulary stand beside them, and `index.json`, written
    last, says what is where.
    """
    from saestore.exchange import Range, Wanted

    wanted = Wanted(
        files_are=form.value,
        hookpoints=tuple(hookpoint or ()),
        contexts=None if contexts is None else Range.parse(contexts, field="contexts"),
        rows=None if rows is None else Range.parse(rows, field="rows"),
        split=split.value,
        held_out=held_out,
        dtype=None if dtype is None else dtype.value,
        file_mib=file_mib,
    )
    report = session.lake.export_activations(store, folder, wanted, progress=session.progress)
    session.output.exported_activations(report)


def _shape(text: str) -> list[int | str]:
    return [int(n) if n.strip().lstrip("-").isdigit() else n for n in text.split(",")]


def _three(what: str, path: str | None, name: str | None) -> None:
    """Refuse a call that lacks the path or the name.

    Raises:
        ConfigError: It does.
    """
    from saestore.errors import ConfigError

    if path is None or name is None:
        raise ConfigError(
            field="import activations",
            found=" ".join(each for each in (what, path) if each is not None),
            expected="KIND PATH NAME, or one CONFIG.toml",
            hint="for example: saestore import activations llamascopium cache/gpt2 gpt2",
        )
