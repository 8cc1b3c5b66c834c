"""What is known of the dictionaries of a lake: their configurations, scores, training runs and analyses."""

from collections.abc import Sequence

from saestore.errors import QueryError, nearest
from saestore.features import query
from saestore.lake import Lake, Ref, layout, manifest as manifests
from saestore_schemas.dictionary import DictionaryConfig
from saestore_schemas.manifest import Manifest
from saestore_schemas.wire import (
    AnalysisLine,
    CurveAnswer,
    CurveAnswers,
    DictionaryAnswer,
    DictionaryLine,
    ScoreLine,
)


SHOWN = ("l0", "explained_variance", "ce_recovered[zero]", "ce_recovered[mean]", "dead[all]")
"""Scores in a list of dictionaries."""

_SCORES = """
SELECT series || '/' || dictionary AS name, evaluation, metric, value, unit, n
FROM scores WHERE $name IS NULL OR series || '/' || dictionary = $name
ORDER BY name, evaluation, metric
"""
_NAMES = """
SELECT DISTINCT name FROM metrics WHERE series || '/' || dictionary = $dictionary ORDER BY name
"""
_CURVES = """
SELECT name, list(step ORDER BY step) AS steps, list(value ORDER BY step) AS values
FROM metrics WHERE series || '/' || dictionary = $dictionary AND list_contains($names, name)
GROUP BY name, index ORDER BY name, index
"""


def lines(lake: Lake) -> tuple[DictionaryLine, ...]:
    """Return a line of each dictionary of a lake, by name."""
    scores = _scores(lake, None)
    return tuple(_line(lake, ref, scores.get(ref.name, ())) for ref in lake.refs("dictionary"))


def whole(lake: Lake, name: str) -> DictionaryAnswer:
    """Return everything about one dictionary, `series/name`.

    Raises:
        ArtefactNotFoundError: There is none of that name.
    """
    ref = Ref("dictionary", name)
    manifest = lake.manifest(ref)
    scores = _scores(lake, name).get(name, ())
    return DictionaryAnswer(line=_line(lake, ref, scores), manifest=manifest, scores=scores)


def analyses(lake: Lake, name: str) -> tuple[AnalysisLine, ...]:
    """Return the analyses of a dictionary, by name.

    Raises:
        ArtefactNotFoundError: There is no dictionary of that name, and no analysis of one.
    """
    there = [ref for ref in lake.refs("features") if ref.name.startswith(f"{name}/")]
    if not there:
        lake.manifest(Ref("dictionary", name))
    return tuple(_analysis(ref, lake.manifest(ref)) for ref in there)


def curves(lake: Lake, name: str, wanted: Sequence[str]) -> CurveAnswers:
    """Return some metrics over the training run of a dictionary.

    Args:
        lake: The lake.
        name: The dictionary, `series/name`.
        wanted: Names of metrics.

    Raises:
        QueryError: Its run has no such metric.
    """
    names = query(lake, _NAMES, {"dictionary": name})["name"].to_pylist()
    known = [str(each) for each in names]
    for each in wanted:
        if each not in known:
            close = nearest(each, known)
            raise QueryError(
                f"{name} has no metric {each!r}",
                found=each,
                expected=f"one of {len(known)} metrics",
                hint=f"did you mean {', '.join(close)}?" if close else f"there are: {known}",
            )
    found = query(lake, _CURVES, {"dictionary": name, "names": list(wanted)}) if wanted else None
    return CurveAnswers(
        metrics=known,
        curves=[CurveAnswer(**line) for line in (found.to_pylist() if found is not None else ())],
    )


def _scores(lake: Lake, name: str | None) -> dict[str, tuple[ScoreLine, ...]]:
    found: dict[str, list[ScoreLine]] = {}
    for line in query(lake, _SCORES, {"name": name}).to_pylist():
        found.setdefault(line.pop("name"), []).append(ScoreLine(**line))
    return {dictionary: tuple(each) for dictionary, each in found.items()}


def _line(lake: Lake, ref: Ref, scores: Sequence[ScoreLine]) -> DictionaryLine:
    manifest = lake.manifest(ref)
    files = manifests.read(lake.artefact(ref), manifest, [layout.CONFIG])
    config = DictionaryConfig.model_validate_json(files[layout.CONFIG])
    series, name = ref.name.split("/")
    return DictionaryLine(
        series=series,
        name=name,
        created=manifest.created.isoformat(),
        fingerprint=manifest.fingerprint,
        family=config.family,
        hookpoints_in=config.hookpoints_in,
        hookpoints_out=config.hookpoints_out,
        n_features=config.features,
        analyses=tuple(
            each.name.removeprefix(f"{ref.name}/")
            for each in lake.refs("features")
            if each.name.startswith(f"{ref.name}/")
        ),
        scores=_newest(lake, ref, scores),
    )


def _newest(lake: Lake, ref: Ref, scores: Sequence[ScoreLine]) -> tuple[ScoreLine, ...]:
    """Return the scores that a list shows, of the newest evaluation that has any of them."""
    of = {score.evaluation for score in scores if score.metric in SHOWN}
    if not of:
        return ()
    made = {each: lake.manifest(Ref("evaluation", f"{ref.name}/{each}")).created for each in of}
    newest = max(of, key=lambda each: (made[each], each))
    found = {score.metric: score for score in scores if score.evaluation == newest}
    return tuple(found[metric] for metric in SHOWN if metric in found)


def _analysis(ref: Ref, manifest: Manifest) -> AnalysisLine:
    series, dictionary, analysis = ref.name.split("/")
    return AnalysisLine(
        series=series,
        dictionary=dictionary,
        analysis=analysis,
        activations=str(manifest.facts["activations"]),
        created=manifest.created.isoformat(),
        fingerprint=manifest.fingerprint,
        n_features=manifest.counts["features"],
        n_rows=manifest.counts["rows"],
        n_contexts=manifest.counts["contexts"],
        keeps_firings="firings_by_feature" in manifest.arrays,
        tables=tuple(manifest.arrays),
    )
