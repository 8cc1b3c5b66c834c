"""A finished run of `interpret` as a whole: its tables, mean scores, best explanations."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from jaxtyping import Float64

from saestore.lake import Lake, Ref, layout, manifest as manifests, table_file
from saestore_schemas.interpretation_tables import (
    INTERPRETATION_ANSWERS,
    INTERPRETATION_SCORES,
    INTERPRETATIONS,
)
from saestore_schemas.manifest import Manifest
from saestore_schemas.table import Table


_RESAMPLINGS = 2000
_ENDS = (2.5, 97.5)
"""Percentiles between which 95 % of resampled means lie."""
_MOST = 1 << 22
"""Numbers drawn at once for resampling."""


@dataclass(frozen=True)
class Mean:
    """A mean over features.

    Attributes:
        n: Features.
        value: The mean; None without any.
        ci_low: Lower end of its 95 % bootstrap interval, features drawn with replacement; None of fewer
            than two features.
        ci_high: Its upper end.
    """

    n: int
    value: float | None
    ci_low: float | None
    ci_high: float | None

    @classmethod
    def of(cls, values: list[float]) -> "Mean":
        """Return that of some numbers."""
        if not values:
            return cls(0, None, None, None)
        if len(values) == 1:  # says nothing of how much features differ
            return cls(1, values[0], None, None)
        low, high = np.percentile(_resampled(np.asarray(values, dtype=np.float64)), _ENDS)
        return cls(len(values), float(np.mean(values)), float(low), float(high))


@dataclass(frozen=True)
class Said:
    """What a feature stands for, going by one explainer.

    Attributes:
        feature: Which.
        explainer: The explainer.
        text: What it says.
        score: Mean of its defined scores; None without any.
    """

    feature: int
    explainer: str
    text: str
    score: float | None


@dataclass(frozen=True)
class Scored:
    """The scores of one explainer by one scorer.

    Attributes:
        explainer: The explainer.
        scorer: The scorer.
        kind: The scorer's kind.
        scores: Score of each feature, where it is defined.
        undefined: Features whose score is not.
        n: Examples asked about.
        n_parsed: Of these, answers that could be read.
    """

    explainer: str
    scorer: str
    kind: str
    scores: Mapping[int, float]
    undefined: int
    n: int
    n_parsed: int


@dataclass(frozen=True)
class Interpretation:
    """A finished run of `interpret`.

    Attributes:
        lake: The lake.
        ref: Its kind and name, `series/name/analysis/run`.
        manifest: Its manifest.
    """

    lake: Lake
    ref: Ref
    manifest: Manifest

    @classmethod
    def open(cls, lake: Lake, ref: Ref) -> "Interpretation":
        """Return a finished run.

        Raises:
            ArtefactNotFoundError: There is none of that name.
            IncompleteArtefactError: It was started and not finished.
        """
        return cls(lake, ref, lake.manifest(ref))

    @cached_property
    def explanations(self) -> pa.Table:
        """The table `interpretations`: what each feature stands for, by feature and explainer.

        Raises:
            DamagedArtefactError: It does not match the manifest.
        """
        return self._table(INTERPRETATIONS)

    @cached_property
    def scores(self) -> pa.Table:
        """The table `interpretation_scores`: how well that holds.

        Raises:
            DamagedArtefactError: It does not match the manifest.
        """
        return self._table(INTERPRETATION_SCORES)

    @cached_property
    def answers(self) -> pa.Table:
        """The table `interpretation_answers`: what was told of each example.

        Raises:
            DamagedArtefactError: It does not match the manifest.
        """
        return self._table(INTERPRETATION_ANSWERS)

    def _table(self, table: Table) -> pa.Table:
        path = layout.part_file(table.name, 0)
        artefact = self.lake.artefact(self.ref)
        return table_file.from_bytes(manifests.read(artefact, self.manifest, [path])[path])

    @cached_property
    def scored(self) -> tuple[Scored, ...]:
        """The scores of each explainer by each scorer, in the order of their names."""
        lines: dict[tuple[str, str, str], list[Mapping[str, float | None]]] = {}
        columns = ["explainer", "scorer", "kind", "feature", "score", "n", "n_parsed"]
        for line in self.scores.select(columns).to_pylist():
            key = (line["explainer"], line["scorer"], line["kind"])
            lines.setdefault(key, []).append(line)
        found = []
        for (explainer, scorer, kind), some in sorted(lines.items()):
            scores = {int(x["feature"] or 0): x["score"] for x in some}
            defined = {feature: score for feature, score in scores.items() if score is not None}
            n, parsed = (sum(int(x[name] or 0) for x in some) for name in ("n", "n_parsed"))
            undefined = len(some) - len(defined)
            found.append(Scored(explainer, scorer, kind, defined, undefined, n, parsed))
        return tuple(found)

    def best(self, n: int) -> list[Said]:
        """Return the best explanations, of each feature one.

        Args:
            n: At most so many.
        """
        first: dict[int, Said] = {}
        for each in self.ranked:
            first.setdefault(each.feature, each)
        return list(first.values())[:n]

    @cached_property
    def ranked(self) -> list[Said]:
        """All explanations, those with the best mean scores first, those without any last."""
        of: dict[tuple[int, str], list[float]] = {}
        for each in self.scored:
            for feature, score in each.scores.items():
                of.setdefault((feature, each.explainer), []).append(score)
        found = []
        for line in self.explanations.select(["feature", "explainer", "text"]).to_pylist():
            if line["text"] is not None:
                own = of.get((line["feature"], line["explainer"]))
                mean = float(np.mean(own)) if own else None
                found.append(Said(line["feature"], line["explainer"], line["text"], mean))
        found.sort(key=lambda said: (said.score is None, -(said.score or 0.0), said.feature))
        return found

    def means(self) -> list[tuple[str, str, Mean]]:
        """Return the mean score of each explainer by each scorer."""
        return [
            (each.explainer, each.scorer, Mean.of(list(each.scores.values())))
            for each in self.scored
        ]

    @property
    def failed(self) -> dict[str, int]:
        """How many explanations there are not, by what became of the question."""
        outcomes = Counter(self.explanations["outcome"].to_pylist())
        return {str(name): n for name, n in sorted(outcomes.items()) if name != "answered"}


def _resampled(values: Float64[np.ndarray, " feature"]) -> Float64[np.ndarray, " resample"]:
    """Return means of the numbers drawn with replacement; the same for the same numbers."""
    rng = np.random.default_rng(0)
    some = max(1, _MOST // len(values))
    drawn = [
        values[rng.integers(0, len(values), (min(some, _RESAMPLINGS - done), len(values)))].mean(1)
        for done in range(0, _RESAMPLINGS, some)
    ]
    return np.concatenate(drawn)
