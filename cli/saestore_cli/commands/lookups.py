"""Looking up: the features of a text, the texts of a feature."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saestore_cli.session import Session, command
from saestore_cli.texts import FileOption, LmOption, TextOption, given, refuse_mix, refuse_one


if TYPE_CHECKING:
    from saestore.features import Highlight

PANEL = "Look"

DictionaryArgument = Annotated[
    str,
    typer.Argument(
        metavar="SERIES/NAME[/ANALYSIS]",
        help="A dictionary that was analysed; which analysis, where there are several.",
        show_default=False,
    ),
]
ContextOption = Annotated[
    list[int] | None,
    typer.Option(
        "--context",
        metavar="N",
        help="A stored context, by number: answered from the lake, no model is loaded. May be repeated.",
        show_default=False,
    ),
]

HtmlOption = Annotated[
    Path | None,
    typer.Option(
        "--html",
        metavar="FILE",
        help="Write a page for browsers instead; it needs no network and no script.",
        show_default=False,
    ),
]

_USES = ("lake", "device", "no_progress")


def add(app: typer.Typer) -> None:
    """Add the look-ups."""
    command(
        app,
        "top",
        'saestore top demo/topk-32 --text "Return the number of rows in the table."',
        "saestore top demo/topk-32 --file README.md --n 20 --output json",
        "saestore top demo/topk-32 --file - --position",
        "saestore top demo/topk-32 --context 12",
        uses=_USES,
        panel=PANEL,
    )(top)
    command(
        app,
        "texts",
        "saestore texts demo/topk-32 17",
        "saestore texts demo/topk-32 17 --n 50 --around 8 --output json",
        'saestore texts demo/topk-32 17 --text "One text." --text "Another text."',
        "saestore texts demo/topk-32 17 --html feature-17.html",
        uses=_USES,
        panel=PANEL,
    )(texts)
    command(
        app,
        "highlight",
        'saestore highlight demo/topk-32 --text "Return the number of rows in the table."',
        "saestore highlight demo/topk-32 --file README.md --feature 17 --feature 42 --html readme.html",
        "saestore highlight demo/topk-32 --context 12 --n 3",
        uses=_USES,
        panel=PANEL,
    )(highlight)
    command(
        app,
        "overlap",
        'saestore overlap demo/topk-32 --text "A fox ran." --text "A wolf ran." --text "x = 3"',
        "saestore overlap demo/topk-32 --context 3 --context 12 --k 50",
        uses=_USES,
        panel=PANEL,
    )(overlap)


def top(
    session: Session,
    dictionary: DictionaryArgument,
    *,
    text: TextOption = None,
    file: FileOption = None,
    context: ContextOption = None,
    n: Annotated[
        int, typer.Option("--n", min=0, help="Features of each text or token; 0 for all.")
    ] = 10,
    position: Annotated[
        bool, typer.Option("--position", metavar="", help="List the features of each token.")
    ] = False,
    lm: LmOption = None,
) -> None:
    """Features that fire in a text, strongest first.

    The language model runs on the text as it did on the corpus: same BOS, context size and ignored tokens,
    thresholds as training fixed them. Of each feature the largest value counts, and the first token that
    has it. A text longer than a context goes on in further ones.
    """
    refuse_mix("top", text, file, context)
    most = n or None
    if context:
        names = [f"context {each}" for each in sorted(set(context))]
        table = session.lake.features_of_contexts(dictionary, context, most, by_token=position)
    else:
        found, names = given(text, file)
        live = session.lake.live(dictionary, lm=lm, progress=session.progress)
        table = session.lake.features_for_text(
            live, found, most, by_token=position, progress=session.progress
        )
    session.output.strongest(table, names, dictionary=dictionary)


def texts(
    session: Session,
    dictionary: DictionaryArgument,
    feature: Annotated[
        int, typer.Argument(metavar="FEATURE", help="Which feature.", show_default=False)
    ],
    *,
    text: TextOption = None,
    file: FileOption = None,
    n: Annotated[int, typer.Option("--n", min=1, help="At most so many texts.")] = 10,
    around: Annotated[
        int, typer.Option("--around", min=0, help="Tokens on each side of the peak.")
    ] = 20,
    html: HtmlOption = None,
    lm: LmOption = None,
) -> None:
    """Texts in which a feature is strongest, one passage of each.

    Without texts, all contexts that were analysed, read from the lake: no model is loaded. With texts,
    those: the language model runs on them as it did on the corpus.
    """
    lake = session.lake
    window = 2 * around + 1
    found, names = given(text, file)
    if not found:
        _show(session, (lake.texts(dictionary, feature, n, window=window),), html)
        return
    lake.analysis(dictionary).check(feature)  # before a language model is loaded
    live = lake.live(dictionary, lm=lm, progress=session.progress)
    answer = lake.texts(
        live, feature, n, texts=found, names=names, window=window, progress=session.progress
    )
    _show(session, (answer,), html)


def highlight(
    session: Session,
    dictionary: DictionaryArgument,
    *,
    text: TextOption = None,
    file: FileOption = None,
    context: ContextOption = None,
    feature: Annotated[
        list[int] | None,
        typer.Option(
            "--feature",
            metavar="N",
            help="Under which feature; may be repeated. Absent, the strongest.",
            show_default=False,
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="How many, if none are named.")] = 5,
    html: HtmlOption = None,
    lm: LmOption = None,
) -> None:
    """Whole texts under features: each token coloured by how strongly the feature fires on it.

    Colours are scaled by the feature's largest value in the analysis, so that texts can be compared.
    """
    refuse_mix("highlight", text, file, context)
    lake = session.lake
    if context:
        _show(session, lake.highlight(dictionary, features=feature, contexts=context, k=n), html)
        return
    found, names = given(text, file)
    for each in feature or ():
        lake.analysis(dictionary).check(each)  # before a language model is loaded
    live = lake.live(dictionary, lm=lm, progress=session.progress)
    answer = lake.highlight(live, found, feature, k=n, names=names, progress=session.progress)
    _show(session, answer, html)


def overlap(
    session: Session,
    dictionary: DictionaryArgument,
    *,
    text: TextOption = None,
    file: FileOption = None,
    context: ContextOption = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Strongest features of each text.")] = 20,
    lm: LmOption = None,
) -> None:
    """How many of their strongest features texts share, every two of them, and how many by chance.

    By chance: what two contexts of the analysis would share if they were independent. A few features
    that are strong nearly everywhere make that large.
    """
    refuse_mix("overlap", text, file, context)
    lake = session.lake
    if context:
        names = [f"context {each}" for each in sorted(set(context))]
        session.output.overlaps(lake.overlap(dictionary, k=k, contexts=context), names)
        return
    found, names = given(text, file)
    refuse_one(found)
    live = lake.live(dictionary, lm=lm, progress=session.progress)
    session.output.overlaps(lake.overlap(live, found, k, progress=session.progress), names)


def _show(session: Session, found: "tuple[Highlight, ...]", html: Path | None) -> None:
    if html is None:
        session.output.highlights(found)
    else:
        session.output.reported(session.lake.write_highlights(found, html))
