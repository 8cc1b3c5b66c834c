"""A text, run through the language model: which features fire on which of its tokens."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from saestore.errors import SaestoreError
from saestore.features import Passages, whole
from saestore.report import passages
from saestore.server.pages.ask import from_elsewhere
from saestore.server.pages.drawing import drawn, page, path, script
from saestore.server.pages.notes import summaries
from saestore.server.problems import Refused, problem_of, refused
from saestore.server.routes import ServedLake
from saestore.server.served import Live, Opened, Served
from saestore.words import alone


routes = APIRouter(include_in_schema=False)

STRONGEST = 25
"""Features of a text that are listed."""
SHOWN = 5
"""Those of them whose firings are shown in the text."""
AT_TOKEN = 8
"""Features of a token, at most."""
MOST = 6_000
"""Characters of a text that stands in an address."""


@routes.get("/text")
async def text(request: Request, served: ServedLake) -> Response:
    """Show a text's features, if this server's own page or nobody else's led here."""
    live = served.needs_live()
    given = request.query_params
    words = given.get("text", "").replace("\r\n", "\n")
    names = [ref.name for ref in served.lake.refs("features")]
    on = given.get("on") or (names[0] if names else "")
    elsewhere = bool(words) and from_elsewhere(request)
    model: dict[str, Any] = {
        "model": live.model,
        "analyses": names,
        "on": on,
        "text": words,
        "most": most_of(served),
        "asked_elsewhere": elsewhere,
        "found": None,
        "problem": None,
    }
    if words and not elsewhere:
        try:
            model["found"] = await _found(served, live, on, words)
        except SaestoreError as error:
            model["problem"] = problem_of(error)
        except Refused as error:
            model["problem"] = error.problem
    status = model["problem"].status if model["problem"] is not None else 200
    return page(request, "text.html", model, crumbs=[("text", "")], status=status)


def most_of(served: Served) -> int:
    """Return how many characters a text may have."""
    return min(MOST, served.settings.live_chars)


async def _found(served: Served, live: Live, on: str, words: str) -> dict[str, Any]:
    """Return what the page says of a text.

    Raises:
        Refused: The text is too long.
        SaestoreError: There is no such analysis, or no model for it.
    """
    most = most_of(served)
    if len(words) > most:
        raise refused(
            422,
            f"the text has {len(words)} characters",
            found=len(words),
            expected=f"at most {most}",
            hint="longer texts: saestore top SERIES/NAME --text FILE",
        )
    opened = served.analysis(on)
    return await served.live_turns.take(
        lambda: _drawn(opened, live.encode(opened.analysis.ref.name, [words]))
    )


def _drawn(opened: Opened, encoded: Passages) -> dict[str, Any]:
    """Return what the page says of what fires in a text."""
    on = opened.analysis.ref.name
    largest = dict(enumerate(opened.table.values("max").tolist()))
    at_tokens = _at_tokens(encoded, opened)
    strongest = encoded.strongest(STRONGEST).to_pylist()
    said = summaries(opened, [line["feature"] for line in strongest])
    chosen = [line["feature"] for line in strongest[:SHOWN]]
    lines = opened.table.lines([line["feature"] for line in strongest])
    return {
        "contexts": list(_reading(encoded, at_tokens)),
        "json": script({"on": path("features", on), "at": at_tokens}),
        "strongest": [
            {
                **line,
                "share": _share(line["value"], largest[line["feature"]]),
                "top_token": listed.top_token,
                "names": "; ".join(said[line["feature"]].names),
            }
            for line, listed in zip(strongest, lines, strict=True)
        ],
        "highlights": [
            {
                "feature": each.feature,
                "figures": drawn(
                    "".join(
                        passages.figure(example, each.max or example.peak, f"context {n}")
                        for n, example in enumerate(each.examples)
                    )
                ),
            }
            for each in whole(opened.analysis, chosen, encoded)
        ],
    }


def _at_tokens(encoded: Passages, opened: Opened) -> dict[str, list[list[Any]]]:
    """Return the features of each token by context and position.

    Of each: its number, value, share of its largest, the token, and that it fires on most elsewhere.
    """
    largest, top = (opened.table.values(column) for column in ("max", "top_token_id"))
    token = opened.analysis.vocabulary.token
    found: dict[str, list[list[Any]]] = {}
    for line in encoded.at_tokens(AT_TOKEN).to_pylist():
        feature = line["feature"]
        share = _share(line["value"], float(largest[feature]))
        most = "" if math.isnan(top[feature]) else alone(token(int(top[feature])))
        entry = [feature, line["value"], share, alone(line["token"]), most]
        found.setdefault(f"{line['context']}.{line['position']}", []).append(entry)
    return found


def _reading(
    encoded: Passages, at_tokens: Mapping[str, list[list[Any]]]
) -> Iterable[Sequence[Mapping[str, Any]]]:
    """Return the tokens of each context, each with how strong its strongest feature is."""
    for number, example in enumerate(encoded.windows(None, width=None, ranked=False)):
        tokens = []
        for position, piece in enumerate(example.tokens, example.window_start):
            key = f"{number}.{position}"
            there = at_tokens.get(key, [])
            # a token may be stronger than any in the analysis: its colour is full then
            share = max((min(entry[2] or 0.0, 1.0) for entry in there), default=0.0)
            tokens.append(
                {
                    "text": piece.text,
                    "kept": piece.kept and not piece.special,
                    "features": bool(there),
                    "strength": passages.strength(share),
                    "key": key,
                    "says": f"{position}: " + ", ".join(f"{f} {v:.3g}" for f, v, *_ in there[:3]),
                }
            )
        yield tokens


def _share(value: float, largest: float) -> float | None:
    return value / largest if largest and largest > 0 else None
