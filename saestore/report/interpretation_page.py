"""What there is to tell of a run of `interpret`: what was asked, what it took, how well explanations hold."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from saestore.features import Histogram
from saestore.features.interpretation import Interpretation, Mean, Said, Scored
from saestore.lake import Lake, Ref
from saestore_schemas.manifest import Manifest


BINS = 20
"""Bins of a distribution of scores."""
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
    best: tuple[Said, ...]
    worst: tuple[Said, ...]

    @property
    def analysis(self) -> str:
        """The analysis whose features it explains, `series/name/analysis`."""
        return self.manifest.name.rpartition("/")[0]


def interpretation(lake: Lake, ref: Ref) -> InterpretationPage:
    """Return the page of a run.

    Raises:
        DamagedArtefactError: A table that the page needs does not match the manifest.
    """
    run = Interpretation.open(lake, ref)
    said = zip(
        *(run.explanations[name].to_pylist() for name in ("explainer", "outcome")), strict=True
    )
    outcomes: dict[str, dict[str, int]] = {}
    for explainer, outcome in sorted((str(one), str(other)) for one, other in said):
        counted = outcomes.setdefault(explainer, {})
        counted[outcome] = counted.get(outcome, 0) + 1
    ranked = [each for each in run.ranked if each.score is not None]
    best = ranked[:EXAMPLES]
    return InterpretationPage(
        manifest=run.manifest,
        outcomes=outcomes,
        judged=tuple(map(_judged, run.scored)),
        best=tuple(best),
        worst=tuple(reversed(ranked[len(best) :][-EXAMPLES:])),
    )


def _judged(found: Scored) -> Judged:
    known = list(found.scores.values())
    mean = Mean.of(known)
    lowest = -1.0 if found.kind == "simulation" else 0.0
    counts, _ = np.histogram(known, BINS, (lowest, 1.0))
    return Judged(
        explainer=found.explainer,
        scorer=found.scorer,
        kind=found.kind,
        n=len(known) + found.undefined,
        n_scored=len(known),
        mean=mean.value,
        ci_low=mean.ci_low,
        ci_high=mean.ci_high,
        unparsed=1 - found.n_parsed / found.n if found.n else None,
        distribution=Histogram("score", lowest, 1.0, tuple(counts.tolist())),
    )
