"""What there is to tell of a run of `interpret`: what was asked, what it took, how well explanations hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from saestore.errors import DamagedArtefactError
from saestore.features import Histogram, Interpretations
from saestore.lake import Lake, Ref
from saestore_schemas.interpretation_tables import INTERPRETATION_SCORES, INTERPRETATIONS
from saestore_schemas.manifest import Manifest


BINS = 20
"""Bins of a distribution of scores."""
RESAMPLED = 1000
"""How often explanations are drawn again for the interval of a mean."""
EXAMPLES = 5
"""Explanations that are shown of the best and of the worst ones."""


@dataclass(frozen=True)
class Judged:
    """How well the explanations of one explainer hold, going by one scorer.

    Attributes:
        explainer: Name of the explainer.
        scorer: Name of the scorer.
        kind: Its kind, such as `detection`.
        n: Explanations that it judged.
        n_scored: Those whose score is defined.
        mean: Mean of those; None without any.
        ci_low: Lower end of the mean's 95 % bootstrap interval, explanations drawn with replacement; None
            with fewer than two.
        ci_high: Its upper end.
        unparsed: Share of all answers that could not be read; None where nothing was asked.
        distribution: How many scores lie in each of `BINS` equal bins from 0, of simulation from -1, to 1.
    """

    explainer: str
    scorer: str
    kind: str
    n: int
    n_scored: int
    mean: float | None
    ci_low: float | None
    ci_high: float | None
    unparsed: float | None
    distribution: Histogram


@dataclass(frozen=True)
class ExplainedFeature:
    """One explanation on the page of a run; its score is the mean over scorers, None without any."""

    feature: int
    explainer: str
    text: str
    score: float | None


@dataclass(frozen=True)
class InterpretationPage:
    """A run of `interpret`.

    Attributes:
        manifest: Its manifest.
        outcomes: How many explanations there are by explainer and outcome, `answered` first.
        judged: How well they hold, by explainer and scorer.
        best: The features with the largest scores.
        worst: Those with the smallest ones, of the others, smallest first.
    """

    manifest: Manifest
    outcomes: Mapping[str, Mapping[str, int]]
    judged: tuple[Judged, ...]
    best: tuple[ExplainedFeature, ...]
    worst: tuple[ExplainedFeature, ...]

    @property
    def analysis(self) -> str:
        """The analysis whose features it explains, `series/name/analysis`."""
        return self.manifest.name.rpartition("/")[0]


def interpretation(lake: Lake, ref: Ref) -> InterpretationPage:
    """Return the page of a run.

    Raises:
        DamagedArtefactError: A table that the page needs does not match the manifest.
        FormatVersionError: Another major version wrote it.
    """
    manifest = lake.manifest(ref)
    runs = Interpretations(lake, Ref("features", ref.name.rpartition("/")[0]))
    run = next((each for each in runs.runs if each.ref == ref), None)
    if run is None:
        raise DamagedArtefactError(name=ref.name, damage=("it went away while it was read",))
    said = run.columns(INTERPRETATIONS, ["feature", "explainer", "text", "outcome"]).rows()
    names = ["feature", "explainer", "scorer", "kind", "n", "n_parsed", "score"]
    scores = run.columns(INTERPRETATION_SCORES, names).rows(named=True)
    outcomes: dict[str, dict[str, int]] = {}
    for _, explainer, _, outcome in sorted(said, key=lambda line: (line[1], line[3])):
        counted = outcomes.setdefault(explainer, {})
        counted[outcome] = counted.get(outcome, 0) + 1
    ranked = _ranked(said, scores)
    best = ranked[:EXAMPLES]
    return InterpretationPage(
        manifest=manifest,
        outcomes=outcomes,
        judged=tuple(_judged(scores)),
        best=tuple(best),
        worst=tuple(reversed(ranked[len(best) :][-EXAMPLES:])),
    )


def _judged(scores: Sequence[Mapping[str, Any]]) -> list[Judged]:
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for line in scores:
        groups.setdefault((line["explainer"], line["scorer"]), []).append(line)
    found = []
    for (explainer, scorer), lines in sorted(groups.items()):
        kind = lines[0]["kind"]
        known = np.array([line["score"] for line in lines if line["score"] is not None], np.float64)
        low, high = interval(known)
        asked = sum(line["n"] for line in lines)
        unread = asked - sum(line["n_parsed"] for line in lines)
        lowest = -1.0 if kind == "simulation" else 0.0
        counts, _ = np.histogram(known, BINS, (lowest, 1.0))
        found.append(
            Judged(
                explainer=explainer,
                scorer=scorer,
                kind=kind,
                n=len(lines),
                n_scored=len(known),
                mean=float(known.mean()) if len(known) else None,
                ci_low=low,
                ci_high=high,
                unparsed=unread / asked if asked else None,
                distribution=Histogram("score", lowest, 1.0, tuple(counts.tolist())),
            )
        )
    return found


def interval(values: Float64[np.ndarray, " _"]) -> tuple[float | None, float | None]:
    """Return the 95 % bootstrap interval of a mean, the same each time; none of fewer than two values."""
    if len(values) < 2:  # noqa: PLR2004 - one value says nothing about how far others lie
        return None, None
    rng = np.random.default_rng(0)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLED)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _ranked(
    said: Sequence[tuple[Any, ...]], scores: Sequence[Mapping[str, Any]]
) -> list[ExplainedFeature]:
    """Return the explanations that have scores, the best first; equal ones by feature and explainer."""
    known: dict[tuple[int, str], list[float]] = {}
    for line in scores:
        if line["score"] is not None:
            known.setdefault((line["feature"], line["explainer"]), []).append(line["score"])
    found = [
        ExplainedFeature(feature, explainer, text, sum(mine) / len(mine))
        for feature, explainer, text, _ in said
        if text is not None and (mine := known.get((feature, explainer)))
    ]
    return sorted(found, key=lambda each: (-(each.score or 0.0), each.feature, each.explainer))
