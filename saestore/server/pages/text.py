"""A text, run through the language model: which features fire on which of its tokens."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from jaxtyping import Float64
from markupsafe import Markup
from starlette.concurrency import run_in_threadpool

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
TOKENS = 500
"""Tokens whose features are shown, at most: each takes some 150 bytes."""
ROOM = 60_000
"""Bytes of the texts in which single features are shown, at most."""


@routes.get("/text")
async def text(request: Request, served: ServedLake) -> Response:
    """Show a text's features, if this server's own page or nobody else's led here."""
    live = served.needs_live()
    names = await run_in_threadpool(lambda: [ref.name for ref in served.lake.refs("features")])
    given = request.query_params
    words = given.get("text", "").replace("\r\n", "\n")
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
    crumbs = [("text", "")]
    return await run_in_threadpool(page, request, "text.html", model, crumbs=crumbs, status=status)


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

    def work() -> dict[str, Any]:
        opened = served.analysis(on)
        return _drawn(opened, live.encode(opened.analysis.ref.name, [words]))

    return await served.live_turns.take(work)


def _drawn(opened: Opened, encoded: Passages) -> dict[str, Any]:
    """Return what the page says of what fires in a text."""
    strongest = encoded.strongest(STRONGEST).to_pylist()
    features = [line["feature"] for line in strongest]
    said = summaries(opened, features)
    largest = opened.table.values("max")
    told = _Tokens.of(opened, encoded)
    return {
        "contexts": told.contexts,
        "hidden": told.hidden,
        "json": told.json,
        "strongest": [
            {
                **line,
                "share": _share(line["value"], float(largest[line["feature"]])),
                "top_token": listed.top_token,
                "names": "; ".join(said[line["feature"]].names),
            }
            for line, listed in zip(strongest, opened.table.lines(features), strict=True)
        ],
        "highlights": list(_highlights(opened, encoded, features[:SHOWN])),
    }


def _highlights(
    opened: Opened, encoded: Passages, features: Sequence[int]
) -> Iterator[Mapping[str, Any]]:
    """Yield the texts under single features, as long as there is room."""
    room = ROOM
    for each in whole(opened.analysis, features, encoded):
        figures = []
        for n, example in enumerate(each.examples):
            figure = passages.figure(example, each.max or example.peak, f"context {n}")
            room -= len(figure.encode())
            if room < 0:
                break
            figures.append(figure)
        if figures:
            yield {"feature": each.feature, "figures": drawn("".join(figures))}


@dataclass(frozen=True)
class _Tokens:
    """A text's tokens with their features.

    Attributes:
        contexts: Tokens of each context, each with its class, and whether it was analysed.
        hidden: Tokens whose features have no room.
        json: Features of each token, for the script.
    """

    contexts: Sequence[Sequence[Mapping[str, Any]]]
    hidden: int
    json: Markup

    @classmethod
    def of(cls, opened: Opened, encoded: Passages) -> "_Tokens":
        """Return what the page says of each token."""
        largest, top = (opened.table.values(column) for column in ("max", "top_token_id"))
        at: dict[tuple[int, int], list[tuple[int, float]]] = {}
        for line in encoded.at_tokens(AT_TOKEN).to_pylist():
            entry = line["feature"], float(f"{line['value']:.4g}")
            at.setdefault((line["context"], line["position"]), []).append(entry)
        shown = dict(list(at.items())[:TOKENS])
        contexts = []
        for number, example in enumerate(encoded.windows(None, width=None, ranked=False)):
            tokens = enumerate(example.tokens, example.window_start)
            contexts.append(
                [
                    {
                        "text": piece.text.replace("\r", "").replace("\n", "↵"),
                        "ends": "\n" * piece.text.count("\n"),
                        "kept": piece.kept and not piece.special,
                        "key": f"{number}.{position}" if (number, position) in shown else "",
                        "strength": passages.strength(
                            _strongest(at.get((number, position)), largest)
                        ),
                    }
                    for position, piece in tokens
                ]
            )
        token = opened.analysis.vocabulary.token
        known = {
            feature: [
                _finite(largest[feature]),
                "" if math.isnan(top[feature]) else alone(token(int(top[feature]))),
            ]
            for entries in shown.values()
            for feature, _ in entries
        }
        data = {
            "on": path("features", opened.analysis.ref.name),
            "at": {f"{c}.{p}": entries for (c, p), entries in shown.items()},
            "features": known,
        }
        return cls(contexts, len(at) - len(shown), script(data))


def _strongest(
    entries: Sequence[tuple[int, float]] | None, largest: Float64[np.ndarray, " d_sae"]
) -> float:
    """Return the largest share of a feature's largest value; what is stronger than any counts as full."""
    shares = (_share(value, float(largest[feature])) or 0.0 for feature, value in entries or ())
    return min(max(shares, default=0.0), 1.0)


def _finite(x: float) -> float | None:
    return float(f"{x:.4g}") if math.isfinite(x) else None


def _share(value: float, largest: float) -> float | None:
    """Return how strong a value is; those below zero by their distance from it."""
    return abs(value) / largest if largest and largest > 0 else None
