"""What a run would ask and take, without asking: from the prompts it would send."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from saestore.interpret.budget import Tokens, bound
from saestore.interpret.lines import cost as cost_of
from saestore.interpret.panel import Case, Panel
from saestore.interpret.places import Material
from saestore.interpret.request import Request
from saestore.interpret.run import TOGETHER, resolved
from saestore.interpret.selection import select
from saestore.lake import Lake
from saestore.progress import Progress, Silent
from saestore_schemas.interpret import InterpretSettings, PriceSettings


_BYTES = 3.5
"""Bytes of a prompt that are a token, about: less than of plain English, as marks and numbers are short."""
_EXPLANATION = (
    "fires on words and phrases that are about a subject, most of all where it begins " * 2
)
"""Stands for an explanation that is not known yet."""
_ANSWERED = 150
"""Tokens of an explanation with its ratings, about."""
_PER_ITEM = 8
"""Tokens of an answer about one example, about."""
_SILENT = Silent()
_NONE = Tokens(0, 0)


@dataclass(frozen=True)
class Estimate:
    """What a run would ask at most.

    Attributes:
        features: Features it is about.
        unexplained: Pairs of a feature and an explainer that has no examples to show.
        requests: Requests to the chat model and the model of embeddings.
        tokens: Tokens sent and received, about.
        most: Tokens sent and received that they could not exceed.
        cost: Price of `tokens`; None where a model has no price.
        most_cost: Price of `most`; None likewise.
    """

    features: int
    unexplained: int
    requests: int
    tokens: Tokens
    most: Tokens
    cost: float | None
    most_cost: float | None


def estimate(settings: InterpretSettings, lake: Lake, *, progress: Progress = _SILENT) -> Estimate:
    """Return what a run would ask if nothing of it was asked before. Nobody is asked.

    Raises:
        ArtefactNotFoundError: There is no such analysis.
        ConfigError: Nothing is selected.
        UnsupportedError: The analysis keeps no firings, or lacks what an explainer shows.
    """
    settings, analysis = resolved(settings, lake)
    panel = Panel.of(settings)
    features = select(analysis, settings.select, seed=settings.seed)
    material = Material(analysis, seed=settings.seed)
    found = _Sum(settings.prices)
    with progress.task("estimate", total=len(features), unit="features") as task:
        for first in range(0, len(features), TOGETHER):
            for case in panel.cases(material, features[first : first + TOGETHER]):
                found = reduce(_Sum.plus, _requests(panel, case), found)
                found = found.without(sum(not e.snippets for e in case.explained.values()))
                task.advance(1)
    return found.estimate(len(features))


def _requests(panel: Panel, case: Case) -> Sequence[tuple[Request, int]]:
    """Return the requests about a feature, each with the tokens of its answer, about."""
    found = []
    for name, evidence in case.explained.items():
        if not evidence.snippets:
            continue
        found.append((panel.question(name, evidence), _ANSWERED))
        for scorer, shown in case.scored.items():
            items = panel.items(scorer, shown)
            asked = panel.scorers[scorer].questions(_EXPLANATION, items, panel.asking, shown)
            found += [(each.request, _PER_ITEM * len(each.items)) for each in asked]
    return found


@dataclass(frozen=True)
class _Sum:
    prices: Mapping[str, PriceSettings]
    requests: int = 0
    unexplained: int = 0
    tokens: Tokens = _NONE
    most: Tokens = _NONE
    cost: float | None = 0.0
    most_cost: float | None = 0.0

    def plus(self, asked: tuple[Request, int]) -> "_Sum":
        request, answered = asked
        most, model = bound(request), str(request.body["model"])
        tokens = Tokens(round(most.prompt / _BYTES), min(answered, most.completion))
        return replace(
            self,
            requests=self.requests + 1,
            tokens=_both(self.tokens, tokens),
            most=_both(self.most, most),
            cost=_added(self.cost, cost_of(self.prices, model, tokens)),
            most_cost=_added(self.most_cost, cost_of(self.prices, model, most)),
        )

    def without(self, n: int) -> "_Sum":
        return replace(self, unexplained=self.unexplained + n)

    def estimate(self, features: int) -> Estimate:
        return Estimate(
            features=features,
            unexplained=self.unexplained,
            requests=self.requests,
            tokens=self.tokens,
            most=self.most,
            cost=self.cost,
            most_cost=self.most_cost,
        )


def _both(a: Tokens, b: Tokens) -> Tokens:
    return Tokens(a.prompt + b.prompt, a.completion + b.completion)


def _added(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b
