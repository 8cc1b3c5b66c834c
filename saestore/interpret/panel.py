"""Who asks about a feature, and about what: the explainers and scorers of a run, and one feature's evidence."""

import asyncio
import zlib
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from saestore.interpret import lines
from saestore.interpret.budget import Tokens
from saestore.interpret.client import Ask
from saestore.interpret.evidence import Evidence
from saestore.interpret.explainers import Explainer, explainer_of, read
from saestore.interpret.lines import Lines
from saestore.interpret.places import Material
from saestore.interpret.request import Answer, Asking, Request
from saestore.interpret.scorers import Item, Scorer, scorer_of
from saestore.mixing import mixed
from saestore_schemas.interpret import InterpretSettings
from saestore_schemas.interpretation_tables import (
    INTERPRETATION_ANSWERS,
    INTERPRETATION_SCORES,
    INTERPRETATIONS,
)


T = TypeVar("T")


@dataclass(frozen=True)
class Case:
    """One feature, and what each explainer and scorer shows of it.

    Attributes:
        feature: Which.
        explained: By explainer.
        scored: By scorer.
    """

    feature: int
    explained: Mapping[str, Evidence]
    scored: Mapping[str, Evidence]


@dataclass(frozen=True)
class Panel:
    """The explainers and scorers of a run.

    Attributes:
        settings: The run's.
        explainers: By name.
        scorers: By name.
    """

    settings: InterpretSettings
    explainers: Mapping[str, Explainer]
    scorers: Mapping[str, Scorer]

    @classmethod
    def of(cls, settings: InterpretSettings) -> "Panel":
        """Return those that some settings name."""
        return cls(
            settings,
            {name: explainer_of(each) for name, each in settings.explainers.items()},
            {name: scorer_of(each) for name, each in settings.scorers.items()},
        )

    @property
    def asking(self) -> Asking:
        """How its requests are put."""
        return Asking(self.settings.endpoint, self.settings.seed)

    def cases(self, material: Material, features: Sequence[int]) -> Iterator[Case]:
        """Yield what is shown of each of some features; their contexts are read together.

        Raises:
            UnsupportedError: The analysis lacks what an explainer shows.
        """
        draws = list(material.draws(features))
        members: list[Explainer | Scorer] = [*self.explainers.values(), *self.scorers.values()]
        wanted = [(draw, each.choose(draw), each.window) for draw in draws for each in members]
        shown = iter(material.shown(wanted))
        for draw in draws:
            explained = {name: next(shown) for name in self.explainers}
            scored = {name: next(shown) for name in self.scorers}
            yield Case(draw.page.feature, explained, scored)

    def question(self, name: str, evidence: Evidence) -> Request:
        """Return what an explainer asks."""
        explainer = self.explainers[name]
        return self.asking.chat(
            explainer.prompt(evidence),
            purpose=f"explaining feature {evidence.page.feature} by {name}",
            form=explainer.form,
        )

    def items(self, name: str, evidence: Evidence) -> Sequence[Item]:
        """Return the examples that a scorer asks about, in its order."""
        return self.scorers[name].items(evidence, seed=self._seed(name, evidence))

    def _seed(self, name: str, evidence: Evidence) -> int:
        return mixed(self.settings.seed, zlib.crc32(name.encode()), evidence.page.feature)

    async def interpret(self, case: Case, ask: Ask) -> Lines:
        """Return all that is found out about a feature.

        Raises:
            EndpointError: The endpoint cannot be asked.
            BudgetError: The budget is used up.
            ReplayError: A cassette that is replayed lacks an answer.
        """
        found = Lines()
        await _together(self._explained(name, case, ask, found) for name in self.explainers)
        for table, keys in _ORDER.items():
            found.tables[table].sort(key=lambda line: tuple(line[key] for key in keys))
        return found

    async def _explained(self, name: str, case: Case, ask: Ask, found: Lines) -> None:
        explainer, evidence = self.explainers[name], case.explained[name]
        answer = said = None
        if evidence.snippets:
            answer = await ask.ask(self.question(name, evidence))
            said = read(answer)
        line = lines.interpretation(
            explainer=explainer,
            evidence=evidence,
            answer=answer,
            said=said,
            known={
                "feature": case.feature,
                "explainer": name,
                "kind": self.settings.explainers[name].kind,
                "endpoint_model": self.settings.endpoint.model,
                "seed": self.settings.seed,
                "cost": self._cost(self.settings.endpoint.model, [answer] if answer else []),
            },
        )
        found.tables[INTERPRETATIONS.name].append(line)
        if said is not None and said.text is not None:
            await _together(
                self._scored(each, line, said.text, case.scored[each], ask, found)
                for each in self.scorers
            )

    async def _scored(
        self,
        name: str,
        about: Mapping[str, object],
        text: str,
        evidence: Evidence,
        ask: Ask,
        found: Lines,
    ) -> None:
        scorer = self.scorers[name]
        questions = scorer.questions(text, self.items(name, evidence), self.asking, evidence)
        answers = await _together(ask.ask(each.request) for each in questions)
        verdicts = [
            verdict
            for question, answer in zip(questions, answers, strict=True)
            for verdict in scorer.read(question, answer, evidence)
        ]
        measured = scorer.measure(
            verdicts,
            evidence=evidence,
            bootstrap=self.settings.bootstrap,
            seed=self._seed(name, evidence),
        )
        known = {
            "interpretation_id": about["interpretation_id"],
            "feature": about["feature"],
            "explainer": about["explainer"],
            "scorer": name,
        }
        model = str(questions[0].request.body["model"]) if questions else ""
        cost = {"kind": self.settings.scorers[name].kind, "cost": self._cost(model, answers)}
        found.tables[INTERPRETATION_SCORES.name].append(
            lines.score(found=measured, answers=answers, known={**known, **cost})
        )
        found.tables[INTERPRETATION_ANSWERS.name] += lines.answers(verdicts, known)

    def _cost(self, model: str, answers: Sequence[Answer]) -> float | None:
        tokens = Tokens(
            sum(each.prompt_tokens for each in answers),
            sum(each.completion_tokens for each in answers),
        )
        return lines.cost(self.settings.prices, model, tokens)


async def _together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return what several find out at once; all come to their end before the first error is raised."""
    found: list[T] = []
    for each in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(each, BaseException):
            raise each
        found.append(each)
    return found


_ORDER = {
    INTERPRETATIONS.name: ("explainer",),
    INTERPRETATION_SCORES.name: ("explainer", "scorer"),
    INTERPRETATION_ANSWERS.name: ("explainer", "scorer", "example"),
}
"""Columns that a feature's lines are sorted by in each table."""
