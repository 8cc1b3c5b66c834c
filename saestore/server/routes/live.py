"""Texts run through the language model, where the server was started with one."""

from fastapi import Response

from saestore.features import Passages
from saestore.server.answers import json_response
from saestore.server.problems import refused
from saestore.server.routes import ANALYSIS, Analysed, ServedLake, router
from saestore.server.served import Live, Opened
from saestore_schemas.wire import AskedTexts, FiringLine, TextsAnswer, TextToken


routes = router("live")


@routes.post(f"{ANALYSIS}/texts", response_model=TextsAnswer)
async def texts(served: ServedLake, opened: Analysed, asked: AskedTexts) -> Response:
    """Return the features that fire in texts, by the live model, with the rules of the analysis."""
    live = served.needs_live()
    n_chars = sum(map(len, asked.texts))
    if n_chars > served.settings.live_chars:
        raise refused(
            413,
            f"the texts have {n_chars} characters",
            found=n_chars,
            expected=f"{served.settings.live_chars} or fewer, together",
            hint="send fewer or shorter texts, or set SAESTORE_SERVER_LIVE_CHARS",
        )

    def work() -> Response:
        return json_response(answer(live, opened, asked))

    return await served.live_turns.take(work)


def answer(live: Live, opened: Opened, asked: AskedTexts) -> TextsAnswer:
    """Return what fires in texts."""
    found = live.encode(opened.analysis.ref.name, asked.texts)
    table = found.at_tokens(asked.k) if asked.by_token else found.strongest(asked.k)
    return TextsAnswer(
        model=live.model,
        tokens=_tokens(found, len(asked.texts)),
        firings=[FiringLine(**line) for line in table.to_pylist()],
    )


def _tokens(found: Passages, n_texts: int) -> list[list[TextToken]]:
    """Return the tokens of each text."""
    tokens: list[list[TextToken]] = [[] for _ in range(n_texts)]
    context = 0
    for text, line in zip(found.text_of.tolist(), found.contexts.to_pylist(), strict=True):
        context = context + 1 if tokens[text] else 0
        offsets, ignored = line["char_offsets"], set(line["ignored"])
        tokens[text] += [
            TextToken(
                context=context,
                position=at,
                text=line["text"][offsets[at] : offsets[at + 1]],
                kept=at not in ignored,
            )
            for at in range(line["n_positions"])
        ]
    return tokens
