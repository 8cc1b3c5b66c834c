"""What people say about a feature, as HTML."""

from html import escape

from saestore.features import FeaturePage
from saestore.words import SAID, said
from saestore_schemas.annotations import AnnotationEvent


_ROOM = 6_000
"""Characters of all texts, at most: a page's size is bounded whatever people say."""


def annotations(page: FeaturePage) -> str:
    """Return what people say about a feature now, with who said it and when; nothing if nobody does.

    Long texts are cut, and many are not all shown; what is left out is told.
    """
    lines, left = [], _ROOM
    for event in page.annotations:
        if left <= 0:
            break
        lines.append(_line(event, left))
        left -= len(lines[-1])
    if not lines:
        return ""
    hidden = len(page.annotations) - len(lines)
    more = f'<p class="quiet">{hidden} more in the lake</p>' if hidden else ""
    return f'<dl class="said">{"".join(lines)}</dl>{more}'


def _line(event: AnnotationEvent, room: int) -> str:
    text = "\n".join(said(event.field, event.value))
    shown = escape(text[:room]).replace("\n", "<br>")
    cut = f'… <span class="quiet">{len(text) - room:,} more characters</span>' * (len(text) > room)
    moment = event.created.isoformat(timespec="seconds")
    return (
        f"<div><dt>{escape(SAID[event.field])}</dt><dd>{shown}{cut} "
        f'<span class="quiet">{escape(event.author)}, <time datetime="{moment}">'
        f"{moment[:10]}</time></span></dd></div>"
    )
