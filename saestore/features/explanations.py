"""What features stand for, going by a language model, and how well that holds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


METRICS = (
    "balanced_accuracy", "balanced_accuracy_all", "precision", "recall", "f1", "auroc", "brier",
    "correlation",
)  # fmt: skip
"""Numbers of `interpretation_scores`, of which each kind of scorer is known by one."""

DIGITS = 9
"""Digits behind the point of a mean score: those that go by order of summing make no difference."""

COUNTS = ("tp", "fp", "tn", "fn")


@dataclass(frozen=True)
class ExplanationScore:
    """How well an explanation holds, going by one scorer.

    Attributes:
        scorer: Name in the settings' `[scorers.NAME]`.
        kind: Its kind, such as `detection`.
        score: What this kind is known by: balanced accuracy, of simulation the correlation, of embedding
            the AUROC; None where undefined.
        ci_low: Lower end of its 95 % bootstrap interval; None without one.
        ci_high: Its upper end.
        n: Examples asked about.
        n_parsed: Of these, answers that could be read.
        counts: `tp`, `fp`, `tn`, `fn` of those.
        metrics: Every number by name; None where undefined.
        by_decile: Balanced accuracy with the positives of one decile of strength, weakest first.
        why_null: Why the score is undefined; None where it is not.
    """

    scorer: str
    kind: str
    score: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    n_parsed: int
    counts: Mapping[str, int]
    metrics: Mapping[str, float | None]
    by_decile: tuple[float | None, ...]
    why_null: str | None


@dataclass(frozen=True)
class Explanation:
    """What a feature stands for, going by one explainer of one run of `interpret`.

    Attributes:
        run: Name of the run.
        explainer: Name in the settings' `[explainers.NAME]`.
        kind: Its kind, such as `quantile`.
        model: The model that was asked.
        prompt_version: Version of the prompt.
        text: The explanation; None where there is none.
        outcome: `answered`, or why there is none: `unparsed`, `truncated`, `refused`, `no_examples`.
        consistency: How many examples it fits, going by the model: 1 few to 5 all; None where it does not say.
        complexity: How complex it is, going by the model: 1 a token to 5 several ideas; None likewise.
        reasoning: What the model thought aloud; None, nothing.
        created: When the endpoint answered, ISO 8601, UTC; None where nobody was asked.
        scores: How well it holds, by scorer.
    """

    run: str
    explainer: str
    kind: str
    model: str
    prompt_version: str
    text: str | None
    outcome: str
    consistency: int | None
    complexity: int | None
    reasoning: str | None
    created: str | None
    scores: tuple[ExplanationScore, ...]

    @property
    def score(self) -> float | None:
        """The mean of its defined scores, by which explanations are ranked; None without any."""
        known = [each.score for each in self.scores if each.score is not None]
        return round(sum(known) / len(known), DIGITS) if known else None


def best(explanations: Sequence[Explanation]) -> Explanation | None:
    """Return the explanation with the largest mean score; None where none has a text.

    Without scores last; of equal ones that of the newest run, and in it of the first explainer by name.

    Args:
        explanations: Of a feature, those of the newest run last.
    """
    found: Explanation | None = None
    for each in explanations:
        if each.text is not None and (found is None or _beats(each, found)):
            found = each
    return found


def _beats(later: Explanation, earlier: Explanation) -> bool:
    mine, its = later.score, earlier.score
    if mine == its:
        return later.run != earlier.run
    return its is None or (mine is not None and mine > its)


def explanations(
    said: Iterable[Mapping[str, Any]], scores: Iterable[Mapping[str, Any]]
) -> tuple[Explanation, ...]:
    """Return the explanations of a feature.

    Args:
        said: Its lines of `interpretations`, each with its `run`, those of the newest run last.
        scores: Its lines of `interpretation_scores`, likewise.
    """
    of: dict[tuple[str, str], list[ExplanationScore]] = {}
    for line in scores:
        of.setdefault((line["run"], line["explainer"]), []).append(_score(line))
    return tuple(
        Explanation(
            run=line["run"],
            explainer=line["explainer"],
            kind=line["kind"],
            model=line["endpoint_model"],
            prompt_version=line["prompt_version"],
            text=line["text"],
            outcome=line["outcome"],
            consistency=line["consistency"],
            complexity=line["complexity"],
            reasoning=line["reasoning"],
            created=None if line["created"] is None else line["created"].isoformat(),
            scores=tuple(of.get((line["run"], line["explainer"]), ())),
        )
        for line in said
    )


def _score(line: Mapping[str, Any]) -> ExplanationScore:
    own = ("scorer", "kind", "score", "ci_low", "ci_high", "n", "n_parsed", "why_null")
    return ExplanationScore(
        **{name: line[name] for name in own},
        counts={name: line[name] for name in COUNTS},
        metrics={name: line[name] for name in METRICS},
        by_decile=tuple(line["by_decile"]),
    )
