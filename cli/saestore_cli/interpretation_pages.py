"""Runs of `interpret` in a terminal: what one found, what one would take, several side by side."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from saestore.numbers import count, value
from saestore.words import visible
from saestore_cli.drawing import plain_table
from saestore_cli.numbers import many


if TYPE_CHECKING:
    from saestore.interpret import Compared, Estimate, Interpretation, Mean
    from saestore_schemas.interpret import InterpretSettings

_SHOWN = 5
"""Explanations shown of a run."""


def interpreted(out: Console, made: "Interpretation") -> None:
    """Print what a run found: its best explanations, mean scores, what it took."""
    counts, facts = made.manifest.counts, made.manifest.facts
    out.print(
        f"{made.ref.path}: {many(counts['features'], 'features')}, "
        f"{many(counts['explanations'], 'explanations')}, {many(counts['scores'], 'scores')}",
        soft_wrap=True,
    )
    for each in made.best(_SHOWN):
        line = Text(f"  {each.feature:>7}  ", style="bold")
        line.append(visible(each.text), style="italic")
        if each.score is not None:
            line.append(f"  {value(each.score)}", style="dim")
        out.print(line, soft_wrap=True)
    for explainer, scorer, mean in made.means():
        out.print(f"  {explainer} by {scorer}: {_mean(mean)}", soft_wrap=True)
    for outcome, n in made.failed.items():
        out.print(f"  {count(n)} without an explanation: {outcome}", soft_wrap=True)
    tokens = int(str(facts["prompt_tokens"])), int(str(facts["completion_tokens"]))
    again = (
        f"{many(int(str(facts['reused'])), 'answers')} from cassettes, " if facts["reused"] else ""
    )
    out.print(
        f"{many(int(str(facts['requests'])), 'requests')} answered by {facts['model']}, {again}"
        f"{_tokens(*tokens)}{_cost(facts['cost'])}",
        soft_wrap=True,
    )
    dictionary, _, _ = made.ref.name.rpartition("/")
    out.print(f"side by side: saestore interpret compare {dictionary}", soft_wrap=True)


def estimated(out: Console, found: "Estimate", settings: "InterpretSettings") -> None:
    """Print what a run would take."""
    out.print(
        f"{many(found.features, 'features')}, {many(len(settings.explainers), 'explainers')}, "
        f"{many(len(settings.scorers), 'scorers')}: {many(found.requests, 'requests')} to "
        f"{settings.endpoint.model} at {settings.endpoint.base_url}",
        soft_wrap=True,
    )
    if found.unexplained:
        out.print(
            f"  {many(found.unexplained, 'explanations')} will not be asked for: no example to show",
            soft_wrap=True,
        )
    out.print(
        f"  about {_tokens(found.tokens.prompt, found.tokens.completion)}{_cost(found.cost)}",
        soft_wrap=True,
    )
    out.print(
        f"  at most {_tokens(found.most.prompt, found.most.completion)}{_cost(found.most_cost)}",
        soft_wrap=True,
    )
    if found.cost is None:
        out.print(
            f'  for their price: --set \'prices={{"{settings.endpoint.model}" = {{prompt = …, '
            "completion = …}}' (per million tokens)",
            soft_wrap=True,
        )
    limits = [
        (settings.budget.tokens, found.tokens.total, "tokens"),
        (settings.budget.money, found.cost, "money"),
    ]
    for limit, wanted, what in limits:
        if limit is not None and wanted is not None and wanted > limit:
            out.print(
                f"  the budget of {value(limit)} ({what}) will not last: the run will stop before it is used "
                "up, and go on with a larger one",
                soft_wrap=True,
            )
    out.print("nobody was asked", soft_wrap=True)


def compared(out: Console, found: "Compared") -> None:
    """Print runs side by side."""
    table = plain_table("run", ">features", ">explained", ">tokens", ">cost")
    for each in found.outlays:
        table.add_row(
            each.run,
            count(each.features),
            f"{count(each.explanations)} of {count(each.asked)}",
            count(each.tokens),
            "" if each.cost is None else value(each.cost),
        )
    out.print(table)
    alone = len({each.run.rpartition("/")[0] for each in found.outlays}) == 1
    if found.standings:
        out.print()
        table = plain_table("explainer", "scorer", ">score", ">95 %", ">features", ">unparsed")
        for line in found.standings:
            table.add_row(
                _who(line.run, line.explainer, alone=alone),
                line.scorer,
                value(line.score.value),
                _interval(line.score),
                f"{count(line.score.n)}"
                + (f" (+{count(line.undefined)} ?)" if line.undefined else ""),
                "" if line.unparsed is None else f"{line.unparsed:.1%}",
            )
        out.print(table)
    if found.duels:
        out.print()
        out.print("on the same features", style="bold")
        table = plain_table("first", "second", "scorer", ">difference", ">95 %", ">first better")
        for duel in found.duels:
            table.add_row(
                _who(*duel.first, alone=alone),
                _who(*duel.second, alone=alone),
                duel.scorer,
                "" if duel.difference.value is None else f"{duel.difference.value:+.3f}",
                _interval(duel.difference, signed=True),
                "" if duel.wins is None else f"{duel.wins:.0%} of {count(duel.difference.n)}",
            )
        out.print(table)


def _who(run: str, explainer: str, *, alone: bool) -> str:
    shown = run.rpartition("/")[2] if alone else run
    return f"{shown}: {explainer}"


def _mean(mean: "Mean") -> str:
    if mean.value is None:
        return "undefined"
    interval = f" ({_interval(mean)})" if mean.ci_low is not None else ""
    return f"{value(mean.value)}{interval}, {many(mean.n, 'features')}"


def _interval(mean: "Mean", *, signed: bool = False) -> str:
    if mean.ci_low is None or mean.ci_high is None:
        return ""
    form = "+.3f" if signed else ".3f"
    return f"{mean.ci_low:{form}} to {mean.ci_high:{form}}"


def _tokens(prompt: int, completion: int) -> str:
    return f"{count(prompt)} tokens sent and {count(completion)} received"


def _cost(cost: object) -> str:
    return "" if cost is None else f", {value(float(str(cost)))} in money"
