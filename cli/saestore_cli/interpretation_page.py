"""A run of `interpret` in a terminal: what was asked, what it took, and how well explanations hold."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from saestore.numbers import count, share, value
from saestore.words import interval, outcome, score, visible
from saestore_cli.drawing import bars, plain_table


if TYPE_CHECKING:
    from saestore.report.interpretation_page import InterpretationPage, Judged
    from saestore_schemas.manifest import Manifest


def facts_of(page: "InterpretationPage") -> list[tuple[str, Text | str]]:
    """Return what was asked, and what it took."""
    manifest = page.manifest
    known, counts = manifest.facts, manifest.counts
    rows: list[tuple[str, Text | str]] = [
        ("model", f"{visible(str(known['model']))}, at {visible(str(known['base_url']))}"),
        ("features", f"{count(counts['features'])} of {page.analysis}"),
    ]
    rows += [
        ("explanations" if n == 0 else "", f"{name}: {_counted(found)}")
        for n, (name, found) in enumerate(page.outcomes.items())
    ]
    rows += [
        ("scores", f"{count(counts['scores'])}, by {', '.join(_scorers(manifest)) or 'no scorer'}"),
        ("requests", count(counts["requests"])),
        ("tokens", tokens(known)),
        ("cost", cost(known)),
    ]
    return rows


def _counted(outcomes: Mapping[str, int]) -> str:
    return ", ".join(f"{count(n)} {outcome(name)}" for name, n in outcomes.items())


def _scorers(manifest: "Manifest") -> list[str]:
    scorers = manifest.settings.get("scorers")
    return list(scorers) if isinstance(scorers, dict) else []


def tokens(facts: Mapping[str, Any]) -> str:
    """Return how many tokens a run took."""
    sent, got = facts["prompt_tokens"], facts["completion_tokens"]
    return f"{count(sent)} sent, {count(got)} received"


def cost(facts: Mapping[str, Any]) -> str:
    """Return what a run cost."""
    found = facts["cost"]
    return "not known: no price of the model was given" if found is None else value(found)


def draw(page: "InterpretationPage", console: Console) -> None:
    """Print how well the explanations hold, and the best and the worst of them."""
    if page.judged:
        _scores(page.judged, console)
    for title, shown in (("Best", page.best), ("Worst", page.worst)):
        if shown:
            console.print()
            console.print(Text(f"{title} explained", style="bold"))
            table = plain_table(">feature", ">score", "explainer", "explanation")
            for each in shown:
                text = Text(visible(each.text), style="italic")
                table.add_row(str(each.feature), score(each.score), each.explainer, text)
            console.print(table)
    if page.best:
        dictionary, _, analysis = page.analysis.rpartition("/")
        first = page.best[0].feature
        console.print()
        console.print(Text("Go on with", style="bold"))
        console.print(f"  saestore show feature {dictionary} {first} --analysis {analysis}")
        console.print(f"  saestore query best_explained --in {page.analysis}")


def _scores(judged: "Sequence[Judged]", console: Console) -> None:
    """Print means with their intervals, and how scores are distributed."""
    table = plain_table("explainer", "scorer", ">mean", ">95 % interval", ">of", ">unreadable")
    drawn = plain_table("explainer", "scorer", "distribution of scores")
    for each in judged:
        unread = "-" if each.unparsed is None else share(each.unparsed)
        of = count(each.n) if each.n_scored == each.n else f"{count(each.n_scored)} of {each.n}"
        between = interval(each.ci_low, each.ci_high)
        table.add_row(each.explainer, each.scorer, score(each.mean), between, of, unread)
        if each.n_scored:
            low, high = value(each.distribution.lo), value(each.distribution.hi)
            shown = "".join(bar * 2 for bar in bars(each.distribution.counts))
            drawn.add_row(each.explainer, each.scorer, f"{low} {shown} {high}")
    console.print()
    console.print(Text("How well explanations hold", style="bold"))
    console.print(table)
    console.print(drawn)
