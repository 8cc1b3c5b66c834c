"""What models say that a feature stands for, as HTML: the best explanation, and all of them in a table."""

from html import escape

from saestore.features import Explanation, FeaturePage
from saestore.words import interval, outcome, score, unreadable


_ROOM = 8_000
"""Characters of all texts in the table, at most."""
_LONGEST = 600
"""Characters of one text, at most."""


def explanations(page: FeaturePage) -> str:
    """Return what models say of a feature; nothing where none was asked.

    Long texts are cut, and many are not all shown; what is left out is told.
    """
    lost = "".join(f'<p class="problem">{escape(each)}</p>' for each in unreadable(page.unreadable))
    if not page.explanations:
        return f'<div class="explanations">{lost}</div>' if lost else ""
    best = page.explanation
    first = (
        '<p class="explained quiet">No model could explain it.</p>' if best is None else _best(best)
    )
    return f'<div class="explanations">{first}{_all(page)}{lost}</div>'


def _best(found: Explanation) -> str:
    held = "; ".join(
        f"{escape(each.scorer)} {score(each.score)}"
        + (f" ({between})" if (between := interval(each.ci_low, each.ci_high)) else "")
        for each in found.scores
    )
    by = escape(f"{found.model}, {found.explainer}, {found.run}")
    return (
        f'<p class="explained"><em>{_cut(found.text or "")}</em> '
        f'<span class="quiet">{by}{"; " if held else ""}{held}</span></p>'
    )


def _all(page: FeaturePage) -> str:
    scorers = list(dict.fromkeys(s.scorer for each in page.explanations for s in each.scores))
    head = "".join(
        f'<th scope="col"{" class=n" if name in scorers else ""}>{escape(name)}</th>'
        for name in ("run", "explainer", *scorers, "explanation")
    )
    lines, left = [], _ROOM
    for each in reversed(page.explanations):  # of many the newest are shown
        if left <= 0:
            break
        lines.append(_line(each, scorers))
        left -= len(lines[-1])
    hidden = len(page.explanations) - len(lines)
    more = f'<p class="quiet">{hidden} more in the lake</p>' if hidden else ""
    return (
        f"<details><summary>{len(page.explanations)} explanations, the newest first</summary>"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
        f"</div>{more}</details>"
    )


def _line(each: Explanation, scorers: list[str]) -> str:
    known = {found.scorer: found for found in each.scores}
    cells = []
    for name in scorers:
        found = known.get(name)
        why = "" if found is None or found.why_null is None else found.why_null
        title = "" if found is None else interval(found.ci_low, found.ci_high) or why
        shown = score(None if found is None else found.score)
        cells.append(
            f'<td class="n"{f" title={chr(34)}{escape(title)}{chr(34)}" if title else ""}>{shown}</td>'
        )
    rated = "; ".join(
        f"{name} {x} of 5"
        for name, x in (("consistency", each.consistency), ("complexity", each.complexity))
        if x is not None
    )
    text = outcome(each.outcome) if each.text is None else f"<em>{_cut(each.text)}</em>"
    said = f'{text} <span class="quiet">{rated}</span>' if rated and each.text else text
    return (
        f"<tr><td>{escape(each.run)}</td><td>{escape(each.explainer)}</td>{''.join(cells)}"
        f"<td>{said}</td></tr>"
    )


def _cut(text: str) -> str:
    more = len(text) - _LONGEST
    return escape(text[:_LONGEST]) + (f"… ({more:,} more characters)" if more > 0 else "")
