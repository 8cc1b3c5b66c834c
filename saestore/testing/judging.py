"""Asking a persona without a server: what it replies, as the endpoint's answer."""

from collections.abc import Sequence
from dataclasses import dataclass

from saestore.features import FeaturePage
from saestore.interpret.evidence import Evidence
from saestore.interpret.explainers import Explainer, Explanation, read
from saestore.interpret.places import FeatureDraw, Material
from saestore.interpret.request import Answer, Asking, Choice, Request
from saestore.interpret.scorers import Score, Scorer, Verdict
from saestore.testing.llm import Asked, Persona
from saestore_schemas.interpret import EndpointSettings


SEED = 4
"""Of runs."""
ASKING = Asking(EndpointSettings(model="m", embedding_model="e"), seed=SEED)


def answered(persona: Persona, request: Request) -> Answer:
    """Return what a persona answers to a request."""
    reply = persona(Asked(request.path, request.body, {}, 0, 0))
    return Answer(
        request=request.hash,
        text=reply.text or "",
        finish=reply.finish or "",
        prompt_tokens=1,
        completion_tokens=1,
        created=0,
        model="m",
        choices=tuple(
            Choice(text, likely[text], tuple(likely.items())) for text, likely in reply.logprobs
        ),
        vectors=reply.vectors or (),
    )


@dataclass(frozen=True)
class Judgement:
    """What a scorer found out from a persona.

    Attributes:
        verdicts: One of each item, in the order they were asked about.
        score: What they amount to.
        requests: What was asked.
    """

    verdicts: Sequence[Verdict]
    score: Score
    requests: Sequence[Request]


@dataclass(frozen=True)
class Session:
    """One feature, and who is asked about it.

    Attributes:
        material: What draws places.
        draw: Of the feature.
        persona: Who answers.
        asking: How requests are put.
    """

    material: Material
    draw: FeatureDraw
    persona: Persona
    asking: Asking = ASKING

    @property
    def page(self) -> FeaturePage:
        """The feature's page."""
        return self.draw.page

    def explained(self, explainer: Explainer) -> Explanation:
        """Return what the persona says the feature stands for."""
        messages = explainer.prompt(self.evidence(explainer))
        request = self.asking.chat(messages, purpose="", form=explainer.form)
        return read(answered(self.persona, request))

    def judged(
        self, scorer: Scorer, explanation: str, *, seed: int = SEED, bootstrap: int = 200
    ) -> Judgement:
        """Return how well an explanation holds, going by the persona."""
        evidence = self.evidence(scorer)
        items = scorer.items(evidence, seed=seed)
        questions = scorer.questions(explanation, items, self.asking, evidence)
        verdicts = [
            verdict
            for question in questions
            for verdict in scorer.read(question, answered(self.persona, question.request), evidence)
        ]
        score = scorer.measure(verdicts, evidence=evidence, bootstrap=bootstrap, seed=seed)
        return Judgement(verdicts, score, [question.request for question in questions])

    def evidence(self, shows: Explainer | Scorer) -> Evidence:
        """Return what an explainer or scorer chooses to show."""
        (evidence,) = self.material.shown([(self.draw, shows.choose(self.draw), shows.window)])
        return evidence
