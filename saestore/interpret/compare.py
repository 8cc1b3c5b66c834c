"""Runs and explainers side by side: how well their explanations hold, and on which features one beats another.

Means are over features. What differs between two of them is told on the features that both explained,
pair by pair: features differ much more from each other than explainers do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from saestore.errors import ArtefactNotFoundError
from saestore.features import Analysis
from saestore.features.interpretation import Interpretation, Mean, Scored
from saestore.lake import Lake, Ref, layout


@dataclass(frozen=True)
class Standing:
    """One explainer of one run, by one scorer.

    Attributes:
        run: The run, `series/name/analysis/run`.
        explainer: Its explainer.
        model: Which model explained and judged.
        scorer: The scorer.
        kind: Its kind.
        score: Mean over features of what this kind is known by.
        undefined: Explanations whose score is undefined.
        unparsed: Share of examples whose answers could not be read; None without examples.
    """

    run: str
    explainer: str
    model: str
    scorer: str
    kind: str
    score: Mean
    undefined: int
    unparsed: float | None


@dataclass(frozen=True)
class Duel:
    """Two explainers on the features of one analysis that both were scored on.

    Attributes:
        first: Run and explainer.
        second: The other's.
        scorer: The scorer, of the same name and kind in both runs.
        difference: Mean of the first's score less the second's.
        wins: Share of features on which the first's is larger, equal ones half; None without features.
    """

    first: tuple[str, str]
    second: tuple[str, str]
    scorer: str
    difference: Mean
    wins: float | None


@dataclass(frozen=True)
class Outlay:
    """What a run took.

    Attributes:
        run: The run.
        features: Features it is about.
        explanations: Explanations that have a text.
        asked: Explanations that were asked for.
        tokens: Tokens sent and received.
        cost: Their price; None where it is not known.
    """

    run: str
    features: int
    explanations: int
    asked: int
    tokens: int
    cost: float | None


@dataclass(frozen=True)
class Compared:
    """Runs side by side.

    Attributes:
        outlays: What each took, in the order asked for.
        standings: Each explainer by each scorer, best first of each scorer.
        duels: Every two explainers of one analysis by each scorer that both have.
    """

    outlays: tuple[Outlay, ...]
    standings: tuple[Standing, ...]
    duels: tuple[Duel, ...]


def compare(lake: Lake, names: Sequence[str]) -> Compared:
    """Compare finished runs.

    Args:
        lake: The lake.
        names: Runs, `series/name/analysis/run`; or analyses, which stand for all their runs.

    Raises:
        ArtefactNotFoundError: There is no such run, or an analysis has none.
        DamagedArtefactError: A table does not match its manifest.
    """
    refs = dict.fromkeys(ref for name in names for ref in _refs(lake, name))
    runs = [Interpretation.open(lake, ref) for ref in refs]
    entries = [_Entry(run, scored) for run in runs for scored in run.scored]
    entries.sort(
        key=lambda entry: entry.scored.scorer
    )  # stable: of one scorer in the order of runs
    return Compared(
        tuple(_outlay(run) for run in runs),
        tuple(sorted((each.standing for each in entries), key=_place)),
        tuple(_duel(a, b) for a, b in combinations(entries, 2) if a.rival == b.rival),
    )


def _place(standing: Standing) -> tuple[str, bool, float, str, str]:
    score = standing.score.value
    return standing.scorer, score is None, -(score or 0.0), standing.run, standing.explainer


def _refs(lake: Lake, name: str) -> list[Ref]:
    """Return the runs that a name stands for."""
    spelled = name.strip("/").removeprefix("features/").replace(f"/{layout.INTERPRETATIONS}/", "/")
    if spelled.count("/") == layout.DEPTH["interpretation"] - 1:
        return [Ref("interpretation", spelled)]
    analysis = Analysis.open(lake, spelled).ref.name
    found = [ref for ref in lake.refs("interpretation") if ref.name.rpartition("/")[0] == analysis]
    if not found:
        raise ArtefactNotFoundError(
            kind="interpretation",
            name=f"{analysis}/RUN",
            looked=lake.storage.url,
            hint=f"make one: saestore interpret CONFIG.toml {analysis}",
        )
    return found


@dataclass(frozen=True)
class _Entry:
    """One explainer of one run, by one scorer."""

    run: Interpretation
    scored: Scored

    @property
    def rival(self) -> tuple[str, str, str]:
        """What two entries must share to be told apart feature by feature."""
        return self.run.ref.name.rpartition("/")[0], self.scored.scorer, self.scored.kind

    @property
    def who(self) -> tuple[str, str]:
        return self.run.ref.name, self.scored.explainer

    @property
    def standing(self) -> Standing:
        own = self.scored
        return Standing(
            run=self.run.ref.name,
            explainer=own.explainer,
            model=str(self.run.manifest.facts["model"]),
            scorer=own.scorer,
            kind=own.kind,
            score=Mean.of(list(own.scores.values())),
            undefined=own.undefined,
            unparsed=1 - own.n_parsed / own.n if own.n else None,
        )


def _outlay(run: Interpretation) -> Outlay:
    facts, counts = run.manifest.facts, run.manifest.counts
    cost = facts["cost"]
    return Outlay(
        run=run.ref.name,
        features=counts["features"],
        explanations=counts["explanations"],
        asked=run.explanations.num_rows,
        tokens=int(str(facts["prompt_tokens"])) + int(str(facts["completion_tokens"])),
        cost=None if cost is None else float(str(cost)),
    )


def _duel(first: _Entry, second: _Entry) -> Duel:
    one, other = first.scored.scores, second.scored.scores
    differences = [one[each] - other[each] for each in sorted(one.keys() & other.keys())]
    wins = [1.0 if d > 0 else 0.5 if d == 0 else 0.0 for d in differences]
    return Duel(
        first=first.who,
        second=second.who,
        scorer=first.scored.scorer,
        difference=Mean.of(differences),
        wins=sum(wins) / len(wins) if wins else None,
    )
