"""What there is to tell of a dictionary, its evaluations, a sweep, an analysis: read without torch."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saestore.errors import DamagedArtefactError
from saestore.features import Analysis, Overview, overview
from saestore.lake import Lake, Ref, checkpoint, layout, lineage, manifest as manifests, table_file
from saestore_schemas.dictionary import DictionaryConfig
from saestore_schemas.manifest import Manifest
from saestore_schemas.metrics import METRICS


@dataclass(frozen=True)
class Curve:
    """One metric over a training run; values are None where it was undefined."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Score:
    """One line of an evaluation.

    Attributes:
        metric: Its name.
        value: Its value, None where undefined.
        unit: Its unit, empty for ratios.
        n: Rows, tokens or features it was computed from.
        meaning: Its definition; empty for a metric this release does not know.
    """

    metric: str
    value: float | None
    unit: str
    n: int
    meaning: str


@dataclass(frozen=True)
class EvaluationPage:
    """An evaluation: its scores, each with unit and definition."""

    manifest: Manifest
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class Densities:
    """How often features fired at each log of a training run.

    Attributes:
        steps: Steps.
        counts: Of each step, features in each bin: bin i counts densities in (10^-(i+1), 10^-i],
            the last but one everything below, the last what never fired.
    """

    steps: tuple[int, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class CheckpointPage:
    """A dictionary as it was on its way.

    Attributes:
        name: `series/name@step`.
        steps: Steps of all checkpoints there are.
        config: What its weights mean.
        curves: Scalar training metrics by name, until then.
        densities: How often features fired, until then.
    """

    name: str
    steps: tuple[int, ...]
    config: DictionaryConfig
    curves: Mapping[str, Curve]
    densities: Densities


@dataclass(frozen=True)
class DictionaryPage:
    """A dictionary.

    Attributes:
        manifest: Its manifest.
        config: What its weights mean.
        curves: Scalar training metrics by name.
        densities: How often features fired over the run.
        timings: Rates and memory of the run by name.
        evaluations: Its evaluations.
        children: What was made from it.
    """

    manifest: Manifest
    config: DictionaryConfig
    curves: Mapping[str, Curve]
    densities: Densities
    timings: Mapping[str, Curve]
    evaluations: tuple[EvaluationPage, ...]
    children: tuple[Ref, ...]


@dataclass(frozen=True)
class AnalysisPage:
    """An analysis.

    Attributes:
        manifest: Its manifest.
        overview: What its features are like.
        interpretations: Runs of `interpret` about it, by name.
    """

    manifest: Manifest
    overview: Overview
    interpretations: tuple[Ref, ...] = ()


@dataclass(frozen=True)
class SweepItem:
    """One dictionary of a sweep.

    Attributes:
        name: `series/name`.
        change: What is its own, by dotted setting.
        status: `trained`, `stopped_early` or `diverged`.
        message: Why it diverged.
        scores: Numbers by name, None where undefined: those of its newest evaluation; or the last of
            `evaluate_every`, on held-out rows; or those of its last training batch.
        evaluation: Which evaluation, `evaluate_every` for that; None, the last training batch.
    """

    name: str
    change: Mapping[str, Any]
    status: str
    message: str
    scores: Mapping[str, float | None]
    evaluation: str | None

    @property
    def diverged(self) -> bool:
        """Whether it is no dictionary: its numbers are the last ones before its loss was none."""
        return self.status == "diverged"


@dataclass(frozen=True)
class SweepPage:
    """A sweep.

    Attributes:
        manifest: Its manifest.
        items: Its dictionaries, by L0, and those that diverged.
        fronts: Score to the items no other one beats: neither sparser nor better.
    """

    manifest: Manifest
    items: tuple[SweepItem, ...]
    fronts: Mapping[str, tuple[str, ...]]

    def points(self, score: str) -> dict[str, tuple[float, float]]:
        """Return L0 and a score of each item that can be compared: diverged ones cannot."""
        return points(self.items, score)

    @property
    def diverged(self) -> tuple[str, ...]:
        """Names of the items that are in no plot."""
        return tuple(item.name for item in self.items if item.diverged)


def evaluation(lake: Lake, ref: Ref) -> EvaluationPage:
    """Return the page of one evaluation.

    Raises:
        DamagedArtefactError: Its scores do not match the manifest.
    """
    manifest = lake.manifest(ref)
    columns = _parquet(lake, ref, manifest, layout.SCORES)
    order = {name: place for place, name in enumerate(METRICS)}
    lines = [
        Score(metric, value, unit, n, _meaning(metric))
        for metric, value, unit, n in zip(
            columns["metric"], columns["value"], columns["unit"], columns["n"], strict=True
        )
    ]
    lines.sort(key=lambda line: order.get(line.metric.split("@")[0], len(order)))
    return EvaluationPage(manifest, tuple(lines))


SCORES = ("l0", "explained_variance", "ce_recovered[zero]", "ce_recovered[mean]", "dead[all]")
"""Scores of a sweep's dictionaries, where they are evaluated."""

EVALUATE_EVERY = "evaluate_every"
"""Where the scores of a dictionary come from that was evaluated while it was trained, and not since."""

_OF_TRAINING = {"l0_mean": "l0", "ev_batch": "explained_variance"}
"""What the last training batch says, and the score it stands for."""


def sweep(lake: Lake, ref: Ref) -> SweepPage:
    """Return the page of a sweep, with the newest evaluation of each dictionary.

    Raises:
        DamagedArtefactError: Its results do not match the manifest.
    """
    manifest = lake.manifest(ref)
    columns = _parquet(lake, ref, manifest, layout.RESULTS)
    lines = [dict(zip(columns, line, strict=True)) for line in zip(*columns.values(), strict=True)]
    evaluations = lake.refs("evaluation")
    items = []
    for line in lines:
        name = f"{line['series']}/{line['dictionary']}"
        scores, source = _scores_of(lake, name, line, evaluations)
        change = json.loads(line["change"])
        items.append(SweepItem(name, change, line["status"], line["message"], scores, source))
    items.sort(
        key=lambda item: (
            item.diverged, item.scores.get("l0") is None, item.scores.get("l0"), item.name
        )
    )  # fmt: skip
    better = [name for name in SCORES if name != "l0" and not name.startswith("dead")]
    fronts = {name: front(items, name) for name in better}
    return SweepPage(
        manifest, tuple(items), {name: found for name, found in fronts.items() if found}
    )


def _scores_of(
    lake: Lake, name: str, line: Mapping[str, Any], evaluations: Sequence[Ref]
) -> tuple[dict[str, float | None], str | None]:
    """Return the scores of one dictionary of a sweep, and where they come from."""
    mine = [each for each in evaluations if each.name.startswith(f"{name}/")]
    if mine:
        chosen = max(mine, key=lambda each: lake.manifest(each).created)
        found = {score.metric: score.value for score in evaluation(lake, chosen).scores}
        scores = {metric: found[metric] for metric in SCORES if metric in found}
        return scores, chosen.name.rsplit("/", 1)[-1]
    if line["status"] != "diverged" and (held := _held_out(lake, name)):
        return held, EVALUATE_EVERY
    return {short: _finite(line[long]) for long, short in _OF_TRAINING.items()}, None


def _held_out(lake: Lake, name: str) -> dict[str, float | None]:
    """Return the last scores that `evaluate_every` gave a dictionary; none without it."""
    ref = Ref("dictionary", name)
    if not lake.artefact(ref).exists(layout.MANIFEST):
        return {}  # removed since
    curves = _curves(_optional(lake, ref, lake.manifest(ref), layout.METRICS))
    return {
        score: _finite(curve.values[-1])
        for score in SCORES
        if (curve := curves.get(f"evaluate/{score}")) is not None
    }


def front(items: Sequence[SweepItem], score: str) -> tuple[str, ...]:
    """Return the items, in their order, that no other one beats: as few firings, a score as good.

    Args:
        items: Which; those that are no `points` are left out.
        score: A score of which more is better.
    """
    found = points(items, score)
    return tuple(
        name
        for name, (l0, value) in found.items()
        if not any(a <= l0 and b >= value and (a, b) != (l0, value) for a, b in found.values())
    )


def points(items: Sequence[SweepItem], score: str) -> dict[str, tuple[float, float]]:
    """Return L0 and a score by item, of those that have both and did not diverge."""
    return {
        item.name: (l0, value)
        for item in items
        if not item.diverged
        and (l0 := item.scores.get("l0")) is not None
        and (value := item.scores.get(score)) is not None
    }


def _finite(x: float | None) -> float | None:
    return x if x is not None and math.isfinite(x) else None


def dictionary(lake: Lake, ref: Ref) -> DictionaryPage:
    """Return the page of a dictionary.

    Raises:
        DamagedArtefactError: A file that the page needs does not match the manifest.
    """
    manifest = lake.manifest(ref)
    artefact = lake.artefact(ref)
    files = manifests.read(artefact, manifest, [layout.CONFIG])
    config = DictionaryConfig.model_validate_json(files[layout.CONFIG])
    metrics = _optional(lake, ref, manifest, layout.METRICS)
    return DictionaryPage(
        manifest,
        config,
        _curves(metrics),
        _densities(metrics),
        _curves(_optional(lake, ref, manifest, layout.TIMINGS)),
        tuple(
            evaluation(lake, each)
            for each in lake.refs("evaluation")
            if each.name.startswith(f"{ref.name}/")
        ),
        tuple(lineage.children(lake, ref)),
    )


def checkpoint_page(lake: Lake, name: str) -> CheckpointPage:
    """Return the page of a dictionary's checkpoint, `series/name@step`.

    Raises:
        ArtefactNotFoundError: There is none of that name.
    """
    folder = checkpoint.find(lake, name, (layout.CONFIG, layout.METRICS))
    step = layout.checkpoint_step(folder.url)
    dictionary = name.partition(checkpoint.AT)[0].removeprefix(f"{layout.FOLDERS['dictionary']}/")
    ref = Ref("dictionary", dictionary)
    metrics: dict[str, list[Any]] = table_file.from_bytes(folder.read(layout.METRICS)).to_pydict()
    return CheckpointPage(
        f"{dictionary}{checkpoint.AT}{step}",
        tuple(checkpoint.steps(lake.artefact(ref))),
        DictionaryConfig.model_validate_json(folder.read(layout.CONFIG)),
        _curves(metrics),
        _densities(metrics),
    )


_Long = Mapping[str, Sequence[Any]]
"""Columns of a table in long form."""


def _curves(columns: _Long) -> dict[str, Curve]:
    vectors = {name for name, index in zip(columns["name"], columns["index"], strict=True) if index}
    found: dict[str, list[tuple[int, float | None]]] = {}
    for step, name, value in zip(columns["step"], columns["name"], columns["value"], strict=True):
        if name not in vectors:
            found.setdefault(name, []).append((step, value))
    return {
        name: Curve(name, tuple(s for s, _ in points), tuple(v for _, v in points))
        for name, points in found.items()
    }


def _densities(columns: _Long) -> Densities:
    counts: dict[int, list[int]] = {}
    for step, name, value in zip(columns["step"], columns["name"], columns["value"], strict=True):
        if name == _HISTOGRAM:
            counts.setdefault(step, []).append(int(value))
    return Densities(tuple(counts), tuple(map(tuple, counts.values())))


_HISTOGRAM = "density_histogram"
"""The vector among a run's metrics, its elements in order."""


def _optional(lake: Lake, ref: Ref, manifest: Manifest, file: str) -> _Long:
    """Return a table in long form; an imported dictionary has none."""
    if manifests.payload(lake.artefact(ref), manifest).get(file) is None:
        return {"step": [], "name": [], "index": [], "value": []}
    return _parquet(lake, ref, manifest, file)


def analysis(lake: Lake, ref: Ref) -> AnalysisPage:
    """Return the page of an analysis.

    Raises:
        DamagedArtefactError: A file that the page needs does not match the manifest.
    """
    found = Analysis.open(lake, ref.name)
    return AnalysisPage(found.manifest, overview(found), tuple(found.interpretations.refs))


def _parquet(lake: Lake, ref: Ref, manifest: Manifest, file: str) -> dict[str, list[Any]]:
    files = manifests.read(lake.artefact(ref), manifest, [file])
    try:
        columns: dict[str, list[Any]] = table_file.from_bytes(files[file]).to_pydict()
    except (OSError, ValueError) as error:
        raise DamagedArtefactError(name=ref.name, damage=(f"{file}: {error}",)) from error
    return columns


def _meaning(metric: str) -> str:
    known = METRICS.get(metric.split("@", maxsplit=1)[0])
    return "" if known is None else known.doc
