"""Whether artefacts are whole, which stores belong together, and whether a store is its model's."""

from typing import Annotated

import typer

from saestore_cli.commands.look import PANEL
from saestore_cli.report import FAILED
from saestore_cli.session import Session, command


def add(app: typer.Typer) -> None:
    """Add the command that checks."""
    command(
        app,
        "verify",
        "saestore verify demo/topk-32",
        "saestore verify --all --quick",
        "saestore verify --same-tokens activations/gpt2 activations/gpt2-medium",
        "saestore verify activations/demo --against-model 16",
        uses=("lake", "device", "no_progress"),
        panel=PANEL,
    )(verify)


def verify(
    session: Session,
    *,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ARTEFACT...",
            help="Names of artefacts, as `saestore ls` prints them.",
            show_default=False,
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", metavar="", help="Check all finished artefacts of the lake.")
    ] = False,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            metavar="",
            help="Look at manifests, file sizes and shard indexes only, not at every byte.",
        ),
    ] = False,
    same_tokens: Annotated[
        bool,
        typer.Option(
            "--same-tokens",
            metavar="",
            help="Instead, compare the tokens of several activation stores.",
        ),
    ] = False,
    against_model: Annotated[
        int | None,
        typer.Option(
            "--against-model",
            min=1,
            metavar="N",
            help="Instead, compute N random contexts of a store again with its language model.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, help="Which contexts --against-model takes; absent, 0.", show_default=False
        ),
    ] = None,
) -> None:
    """Check that artefacts are whole.

    Every byte is read again; each damaged, missing or foreign file is named, and what the parts of
    a store say against each other.
    """
    named = _named(session, names or [], everything=everything)
    modes = [quick, same_tokens, against_model is not None]
    if sum(modes) > 1 or (seed is not None and against_model is None):
        raise _verify_mistake(
            "found options that exclude each other",
            "one of --quick, --same-tokens and --against-model; --seed with the last",
        )
    if same_tokens:
        _same_tokens(session, named)
    elif against_model is not None:
        _against_model(session, named, against_model, seed or 0)
    else:
        progress = session.progress
        found = {n: session.lake.verify(n, quick=quick, progress=progress) for n in named}
        session.output.verified(found, quick=quick)
        if any(found.values()):
            raise typer.Exit(FAILED)


def _named(session: Session, names: list[str], *, everything: bool) -> list[str]:
    """Return the paths of the artefacts that are to be checked."""
    if everything and not names:
        return [each.ref.path for each in session.lake.ls() if each.manifest or each.damage]
    if not names or everything:
        raise _verify_mistake(
            "found names and --all" if everything else "missing argument 'ARTEFACT'",
            "names of artefacts, or --all",
        )
    lake = session.lake.lake
    return list(dict.fromkeys(lake.find(name).path for name in names))


def _verify_mistake(problem: str, expected: str) -> Exception:
    from saestore.errors import ConfigError

    return ConfigError(
        field="verify",
        problem=problem,
        expected=expected,
        hint="saestore verify [OPTIONS] ARTEFACT...; `saestore verify --help` says more",
    )


def _stores(named: list[str]) -> list[str]:
    """Return the names of activation stores."""
    for path in named:
        if not path.startswith("activations/"):
            raise _verify_mistake(f"found {path}", "activation stores: only they have tokens")
    return [path.removeprefix("activations/") for path in named]


def _same_tokens(session: Session, named: list[str]) -> None:
    stores = _stores(named)
    if len(stores) == 1:
        raise _verify_mistake(f"found only {stores[0]}", "two or more stores to compare")
    found = session.lake.same_tokens(stores)
    session.output.same_tokens(found)
    if not found.same:
        raise typer.Exit(FAILED)


def _against_model(session: Session, named: list[str], contexts: int, seed: int) -> None:
    if len(named) > 1:
        raise _verify_mistake(f"found {len(named)} artefacts", "one store at a time")
    (store,) = _stores(named)
    progress = session.progress
    found = session.lake.against_model(store, contexts, seed=seed, progress=progress)
    session.output.against_model(named[0], found)
    if not found.agrees:
        raise typer.Exit(FAILED)
