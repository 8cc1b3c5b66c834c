"""Words that pages use, in a terminal or a browser, and text in which nothing is invisible."""

import unicodedata
from collections.abc import Mapping
from typing import Any


SUBSAMPLES = {
    "top": "Top contexts",
    "quantile": "Contexts across its range, strongest first",
    "uniform": "Contexts drawn at random among those where it fires",
    "silent": "Contexts where it is silent",
    "proportion": "Top contexts below a share of its maximum",
    "interval": "Contexts from equal parts of its range, strongest first",
    "near": "Hard negatives: silent where a feature like it fires",
    "same_token": "Hard negatives: its top token, where it does not fire",
}
"""Kind of subsample to heading."""

NEGATIVES = {"silent": False, "near": True, "same_token": True}
"""Kinds of subsample without the feature's own peaks, and whether they are about one position."""

QUANTILES = {"q01": "1 %", "q10": "10 %", "q50": "50 %", "q90": "90 %", "q99": "99 %"}
"""Quantiles that are shown, and their names."""

WITHOUT_FIRINGS = 'unknown, as no firings were kept: analyze with firings = "feature" or "both"'
"""What stands where quantiles would."""

BESIDE = {-1: "token before", 0: "fires on", 1: "token after"}
"""Where a token stands from a firing."""

ALIKE = {"dec_cos": "decoder like", "enc_cos": "encoder like"}
"""Method of finding neighbours to what it says."""

SAID = {
    "name": "name",
    "description": "description",
    "interpretation": "interpretation",
    "examples": "examples",
    "confidence": "confidence",
    "notes": "notes",
    "tag": "tags",
    "bookmark": "bookmark",
}
"""Field of an annotation to what it is called."""

OUTCOMES = {
    "answered": "answered",
    "unparsed": "unreadable",
    "truncated": "cut short",
    "refused": "refused",
    "no_examples": "without examples",
}
"""How asking for an explanation ended to what it is called."""


def outcome(name: str) -> str:
    """Return how asking ended, in words."""
    return OUTCOMES.get(name, visible(name))


def score(x: float | None) -> str:
    """Return a score of an explanation, which lies between -1 and 1; a dash where it is undefined.

    >>> score(0.75), score(-0.1234), score(None)
    ('0.75', '-0.12', '-')
    """
    return "-" if x is None else f"{x:.2f}"


def interval(low: float | None, high: float | None) -> str:
    """Return an interval of a score; nothing where there is none.

    >>> interval(0.71, 0.8), interval(None, None)
    ('0.71 to 0.80', '')
    """
    return "" if low is None or high is None else f"{low:.2f} to {high:.2f}"


def unreadable(runs: Mapping[str, str]) -> list[str]:
    """Return what to say of runs of `interpret` that cannot be read: path to why.

    >>> unreadable({"features/a/b/c/interpretations/r": "scores: missing"})[0].partition("; ")[0]
    'features/a/b/c/interpretations/r cannot be read and is left out (scores: missing)'
    """
    return [
        f"{path} cannot be read and is left out ({why}); `saestore verify {path}` says more, "
        f"`saestore remove {path}` takes it away"
        for path, why in runs.items()
    ]


WEAK = 0.33
"""A firing below this share of the feature's largest value is weak."""
STRONG = 0.66
"""From this share on it is strong; between the two, medium."""

_VISIBLE = {"\n": "↵", "\r": "␍", "\t": "⇥", "\u2028": "↵", "\u2029": "↵"}
_SHIFT = 0x2400
"""Control pictures stand this far above the control characters they show."""
_C0 = 0x20
_DELETE = 0x7F


def visible(text: str) -> str:
    r"""Return text in which nothing is invisible and nothing can steer a terminal.

    >>> visible("a\n\tb\x1b[31m")
    'a↵⇥b␛[31m'
    """
    if text.isprintable():
        return text
    return "".join(_seen(c) for c in text)


def _seen(c: str) -> str:
    if c in _VISIBLE:
        return _VISIBLE[c]
    code = ord(c)
    if code < _C0:
        return chr(_SHIFT + code)
    if code == _DELETE:
        return "␡"
    # Format characters (bidirectional marks, joiners) and the like reorder or hide what follows.
    return c if unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Co"} else "·"


def said(field: str, value: Any) -> list[str]:
    r"""Return the lines in which an annotation's value is shown.

    >>> said("notes", "one\ntwo"), said("tag", ["a", "b"]), said("bookmark", True)
    (['one', 'two'], ['a, b'], ['yes'])
    """
    if value is True:
        return ["yes"]
    if isinstance(value, str):
        return [visible(line) for line in value.splitlines()] or [""]
    texts = [visible(text) for text in value]
    return [", ".join(texts)] if field == "tag" else texts


def alone(token: str) -> str:
    """Return a token as it is shown where nothing stands around it: spaces alone are seen too.

    >>> alone(" the"), alone("  "), alone("")
    (' the', '␣␣', '∅')
    """
    shown = visible(token)
    return shown if shown.strip(" ") else "␣" * len(shown) or "∅"


def level(value: float, largest: float) -> int:
    """Return how strong a firing of either sign is: 0 for silent, 1 weak, 2 medium, 3 strong."""
    if value == 0 or largest <= 0:
        return 0
    share = abs(value) / largest
    return 1 if share < WEAK else 2 if share < STRONG else 3
