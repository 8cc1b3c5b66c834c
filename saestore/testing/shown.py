"""Reading a line of a prompt as somebody reads it who knows only what the prompt says of its marks.

It shares nothing with what writes such lines.
"""

import re
from dataclasses import dataclass
from itertools import groupby


_SIGNS = re.compile(
    r"(?P<open><<)|(?P<close>>>)|\\u\{(?P<code>[0-9A-F]+)\}|(?P<begin>\\\{)|\\(?P<plain>.)|(?P<end>\})|(?P<char>.)",
    re.DOTALL,
)
_NAMED = {"n": "\n", "r": "\r", "t": "\t", "?": ""}


@dataclass(frozen=True)
class Span:
    """A stretch of a text.

    Attributes:
        text: What stands there.
        marked: Whether it stands between marks.
        control: Whether it is a control token.
    """

    text: str
    marked: bool
    control: bool = False


def spans(line: str) -> list[Span]:
    """Return what a line shows, stretch by stretch; empty ones are left out unless they are marked.

    Raises:
        AssertionError: Its marks are not one open, one close, in turn, or a control token has no end.
    """
    found, text, marked, control = [], "", False, False

    def close() -> None:
        nonlocal text
        if text or marked or control:
            found.append(Span(text, marked, control))
        text = ""

    for sign in _SIGNS.finditer(line):
        kind = sign.lastgroup
        assert sign["char"] != "\n", "a line has no line break"
        if kind in {"open", "close"}:
            assert marked == (kind == "close"), f"marks out of turn in {line!r}"
            assert not control, f"a mark inside a control token in {line!r}"
            close()
            marked = kind == "open"
        elif kind == "begin" or (kind == "end" and control):
            assert control == (kind == "end"), f"a control token inside another in {line!r}"
            if text or kind == "end":
                close()
            control = kind == "begin"
        elif kind == "code":
            text += chr(int(sign["code"], 16))
        elif kind == "plain":
            text += _NAMED.get(sign["plain"], sign["plain"])
        else:
            text += sign[0]
    assert not marked, f"a mark without end in {line!r}"
    assert not control, f"a control token without end in {line!r}"
    close()
    return found


def text_of(line: str) -> str:
    """Return the text that a line shows."""
    return "".join(span.text for span in spans(line))


def marked_of(line: str) -> list[str]:
    """Return the texts between marks."""
    runs = groupby(spans(line), lambda span: span.marked)
    return ["".join(span.text for span in some) for marked, some in runs if marked]
