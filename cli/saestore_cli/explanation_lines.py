"""What models say that a feature stands for, in a terminal: the best explanation, and all of them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.text import Text

from saestore.words import interval, outcome, score, unreadable, visible
from saestore_cli.drawing import plain_table


if TYPE_CHECKING:
    from saestore.features import Explanation, ExplanationScore, FeaturePage


def best(page: "FeaturePage") -> "Iterator[tuple[str, Text]]":
    """Yield the lines about the best explanation, or say that there is none; nothing without any run."""
    for each in unreadable(page.unreadable):
        yield "left out", Text(visible(each), style="yellow")
    found = page.explanation
    if found is None:
        if page.explanations:
            ended = dict.fromkeys(outcome(each.outcome) for each in page.explanations)
            yield "explanation", Text(f"none: {', '.join(ended)}", style="dim")
        return
    by = ", ".join(map(visible, (found.model, found.explainer, found.run)))
    yield (
        "explanation",
        Text(visible(found.text or ""), style="italic").append(f"  {by}", style="not italic dim"),
    )
    rated = [
        f"{name} {x} of 5"
        for name, x in (("consistency", found.consistency), ("complexity", found.complexity))
        if x is not None
    ]
    held = [*map(_told, found.scores), *rated]
    if held:
        yield "it holds", Text("   ".join(held))


def _told(found: "ExplanationScore") -> str:
    between = interval(found.ci_low, found.ci_high)
    said = [between] if between else []
    if found.n_parsed < found.n:
        said.append(f"{found.n - found.n_parsed} of {found.n} answers could not be read")
    more = f" ({'; '.join(said)})" if said else ""
    return f"{visible(found.scorer)} {score(found.score)}{more}"


def every(console: Console, page: "FeaturePage") -> None:
    """Print all explanations, where there are several: explainers down, scorers across."""
    if len(page.explanations) > 1:
        console.print()
        console.print(Text("What models say that it stands for", style="bold"))
        console.print(_table(page))


def _table(page: "FeaturePage") -> RenderableType:
    scorers = list(dict.fromkeys(s.scorer for each in page.explanations for s in each.scores))
    names = (f">{visible(name)}" for name in scorers)
    table = plain_table("run", "explainer", *names, "explanation")
    for each in page.explanations:
        known = {found.scorer: found.score for found in each.scores}
        cells = (score(known.get(name)) for name in scorers)
        table.add_row(visible(each.run), visible(each.explainer), *cells, _text(each))
    return table


def _text(each: "Explanation") -> Text:
    if each.text is None:
        return Text(outcome(each.outcome), style="dim")
    return Text(visible(each.text), style="italic")
