"""Looking up: the features of a text, the texts of a feature."""

from typing import Annotated

import typer

from saestore_cli.session import Session, command
from saestore_cli.texts import FileOption, LmOption, TextOption, given, refuse_none


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
        uses=_USES,
        panel=PANEL,
    )(texts)


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
    from saestore.errors import ConfigError

    refuse_none("top", text, file, context)
    most = n or None
    if context:
        if text or file:
            raise ConfigError(
                field="--context",
                found=f"{len(context)} contexts beside texts",
                expected="stored contexts, or texts",
                hint="ask about them one after the other",
            )
        table = session.lake.features_of_contexts(dictionary, context, most, by_token=position)
        names = [f"context {each}" for each in sorted(set(context))]
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
        session.output.texts(lake.texts(dictionary, feature, n, window=window))
        return
    lake.analysis(dictionary).check(feature)  # before a language model is loaded
    live = lake.live(dictionary, lm=lm, progress=session.progress)
    session.output.texts(
        lake.texts(
            live, feature, n, texts=found, names=names, window=window, progress=session.progress
        )
    )
