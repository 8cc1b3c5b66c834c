"""Neuronpedia's import files: one folder of JSON lines for a source.

    <model>/<layer>-<set>[__suffix]/
        release.jsonl  model.jsonl  sourceset.jsonl  source.jsonl     a line each
        features/batch-{n}.jsonl.gz                                   a line for each feature
        activations/batch-{n}.jsonl.gz                                a line for each example
        explanations/batch-{n}.jsonl.gz                               a line for each explanation, if any

Records have the fields of Neuronpedia's database as of its repository at ebb8426, in that order. `index` is
a string, as the database has it. Similar features, which its converters leave out, are those of
`neighbours`; what a Lorsa attends to comes from `attention`, as query and key positions among the tokens
shown. An example's id is a digest of what it is of, and every time that of the analysis, so that exporting
again gives the same bytes. A cross-layer transcoder is a source for each layer. Explanations are
those of all runs of `interpret`, of the features that are written; their scores, for which a record has no
place, stand in their notes.
"""

import gzip
import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from typing_extensions import override

from saestore.errors import ConfigError
from saestore.exchange.features.dashboards import DECIMALS, Dashboard, Dashboards, Shown
from saestore.exchange.features.format import FeatureFormat
from saestore.exchange.features.sources import Source, sources
from saestore.features import Analysis
from saestore.lake import Storage
from saestore.progress import Progress, Task
from saestore.words import score
from saestore_schemas.dashboards import NeuronpediaSettings
from saestore_schemas.tables import REMAINDER


LEVEL = 5
"""Of gzip."""
_DIGITS = 24
"""Of an id, after its `c`."""


class Neuronpedia(FeatureFormat):
    """Writes Neuronpedia's import files.

    Attributes:
        settings: Whose they are, names, and what stands in the files.
    """

    name = "neuronpedia"

    def __init__(self, settings: NeuronpediaSettings | None = None) -> None:
        self.settings = settings or NeuronpediaSettings()

    @override
    def write(self, analysis: Analysis, target: Storage, progress: Progress) -> None:
        """Write the files.

        Raises:
            ConfigError: A setting is missing that nobody can guess, such as which of several
                hookpoints, or the analysis has no subsample of kind `top`.
            HookpointNotFoundError: The features do not write to the hookpoint that is named.
        """
        _given(self.settings)
        found = [
            Dashboards(analysis, self.settings, source)
            for source in sources(analysis, self.settings)
        ]
        for what in found[0].missing():
            progress.note(f"without {what}")
        total = sum(len(each.source.features) for each in found)
        with progress.task("export", total=total, unit="features") as task:
            for each in found:
                self._write(each, target, task)

    def _write(self, dashboards: Dashboards, target: Storage, task: Task) -> None:
        """Write the folder of one source."""
        source = dashboards.source
        lines = _Lines(dashboards.analysis, self.settings, source)
        folder = f"{source.identity.model}/{source.identity.source}"
        for name, record in lines.heads().items():
            target.write(f"{folder}/{name}.jsonl", _jsonl([record]))
        features, size = source.features, self.settings.file_features
        for number, start in enumerate(range(0, len(features), size)):
            made = list(dashboards.made(features[start : start + size]))
            batches = {
                "features": [lines.feature(each) for each in made],
                "activations": [line for each in made for line in lines.activations(each)],
            }
            if explanations := [line for each in made for line in lines.explanations(each)]:
                batches["explanations"] = explanations
            for kind, records in batches.items():
                data = gzip.compress(_jsonl(records), LEVEL, mtime=0)
                target.write(f"{folder}/{kind}/batch-{number}.jsonl.gz", data)
            task.advance(len(made))


def _given(settings: NeuronpediaSettings) -> None:
    """Refuse to write for nobody.

    Raises:
        ConfigError: A setting is missing.
    """
    for name, what in (
        ("creator_id", "your id at Neuronpedia"),
        ("creator_name", "who made the dictionary"),
        ("release", "the id of the release it belongs to"),
    ):
        if not getattr(settings, name):
            raise ConfigError(
                field=name,
                expected=what,
                hint=f"say it: --{name.replace('_', '-')} ...",
                problem="it is not given, and nobody can guess it",
            )


class _Lines:
    """The records of one source."""

    def __init__(self, analysis: Analysis, settings: NeuronpediaSettings, source: Source) -> None:
        self._analysis = analysis
        self._settings = settings
        self._identity = source.identity
        self._features = source.features
        created = analysis.manifest.created.astimezone(UTC).replace(tzinfo=None)
        self._created = created.isoformat(timespec="milliseconds")

    def heads(self) -> dict[str, dict[str, Any]]:
        """Return release, model, set and source."""
        given, identity, created = self._settings, self._identity, self._created
        creator = {"creatorId": given.creator_id}
        name = given.model_name or identity.model
        title = given.release_title or given.release
        facts = self._analysis.manifest
        return {
            "release": {
                "name": given.release, "description": title, "creatorName": given.creator_name,
                **creator, "visibility": given.visibility, "isNewUi": False, "featured": False,
                "descriptionShort": title, "urls": list(given.urls), "creatorEmail": None,
                "creatorNameShort": given.creator_name, "defaultSourceSetName": identity.set_name,
                "defaultSourceId": identity.source, "defaultUmapSourceIds": [], "createdAt": created,
            },
            "model": {
                "id": identity.model, "instruct": given.instruct, **creator, "displayNameShort": name,
                "displayName": name, "tlensId": None, "dimension": None,
                "visibility": given.visibility, "defaultSourceSetName": identity.set_name,
                "defaultSourceId": identity.source, "inferenceEnabled": False, "layers": given.layers,
                "neuronsPerLayer": 0, "createdAt": created, "owner": "", "updatedAt": created,
                "website": None,
            },
            "sourceset": {
                "modelId": identity.model, "name": identity.set_name, **creator,
                "hasDashboards": True, "visibility": given.visibility,
                "description": given.set_description, "type": "", "creatorName": given.creator_name,
                "urls": list(given.urls), "creatorEmail": None, "releaseName": given.release,
                "defaultOfModelId": None, "defaultRange": 1, "defaultShowBreaks": True,
                "showDfa": False, "showCorrelated": False, "showHeadAttribution": False,
                "showUmap": False, "createdAt": created,
            },
            "source": {
                "id": identity.source, "modelId": identity.model, "setName": identity.set_name,
                **creator, "hasDashboards": True, "inferenceEnabled": False, "inferenceHosts": [],
                "saelensConfig": None, "saelensRelease": None, "saelensSaeId": None,
                "hfRepoId": given.hf_repo, "hfFolderId": given.hf_folder,
                "visibility": given.visibility, "defaultOfModelId": None, "hasUmap": False,
                "hasUmapLogSparsity": False, "hasUmapClusters": False,
                "num_prompts": facts.counts["contexts"],
                "num_tokens_in_prompt": facts.facts["context_size"],
                "dataset": identity.dataset, "notes": given.notes, "createdAt": created,
            },
        }  # fmt: skip

    def feature(self, dashboard: Dashboard) -> dict[str, Any]:
        """Return a feature's line."""
        page, most = dashboard.page, round(dashboard.page.max, DECIMALS)
        similar = self._similar_to(page.feature)
        return {
            "modelId": self._identity.model,
            "layer": self._identity.source,
            "index": str(dashboard.index),
            "creatorId": self._settings.creator_id,
            "createdAt": self._created,
            "maxActApprox": most,
            "hasVector": bool(dashboard.vector),
            "vector": dashboard.vector,
            "vectorLabel": None,
            "vectorDefaultSteerStrength": most if dashboard.vector else None,
            "hookName": self._identity.hookpoint if dashboard.vector else None,
            "topkCosSimIndices": [other for other, _ in similar],
            "topkCosSimValues": [round(score, DECIMALS) for _, score in similar],
            **dashboard.statistics,
            "sourceSetName": self._identity.set_name,
        }

    def activations(self, dashboard: Dashboard) -> Iterable[dict[str, Any]]:
        """Yield the lines of a feature's examples."""
        feature, index = dashboard.page.feature, dashboard.index
        attended = None
        if "attention" in self._analysis.tables:
            attended = self._analysis.rows("attention", [feature])
        for shown in dashboard.examples:
            most = max(shown.values)
            yield {
                "id": self._id(feature, shown),
                "tokens": shown.tokens,
                "index": str(index),
                "layer": self._identity.source,
                "modelId": self._identity.model,
                "maxValue": most,
                "maxValueTokenIndex": shown.values.index(most),
                "minValue": min(shown.values),
                "values": shown.values,
                "creatorId": self._settings.creator_id,
                "dataSource": shown.example.document_id,
                "dataIndex": str(shown.example.context),
                "dfaValues": [],
                "dfaTargetIndex": None,
                "dfaMaxValue": None,
                "createdAt": self._created,
                "lossValues": [],
                "logitContributions": None,
                "binMin": shown.bin_min,
                "binMax": shown.bin_max,
                "binContains": shown.bin_contains,
                "qualifyingTokenIndex": shown.qualifying,
                **_attention(attended, shown),
            }

    def explanations(self, dashboard: Dashboard) -> Iterable[dict[str, Any]]:
        """Yield the lines of what models say of a feature."""
        page = dashboard.page
        for each in page.explanations:
            if each.text is None:
                continue
            created = self._created
            if each.created is not None:
                moment = datetime.fromisoformat(each.created).astimezone(UTC).replace(tzinfo=None)
                created = moment.isoformat(timespec="milliseconds")
            held = [f"{one.scorer} {score(one.score)}" for one in each.scores]
            yield {
                "id": self._digest(page.feature, each.run, each.explainer, each.text),
                "modelId": self._identity.model,
                "layer": self._identity.source,
                "index": str(dashboard.index),
                "description": each.text,
                "authorId": self._settings.creator_id,
                "embedding": None,
                "triggeredById": None,
                "typeName": self._settings.explanation_type,
                "explanationModelName": each.model.rpartition("/")[2],
                "notes": "; ".join([f"run {each.run}, explainer {each.explainer}", *held]),
                "createdAt": created,
            }

    def _similar_to(self, feature: int) -> list[tuple[int, float]]:
        """Return the features with the most similar decoder vectors."""
        if "neighbours" not in self._analysis.tables:
            return []
        lines = self._analysis.rows("neighbours", [feature]).to_pylist()
        return [
            (each["neighbour"] - self._features.start, each["score"])
            for each in lines
            if each["method"] == "dec_cos" and each["neighbour"] in self._features
        ]

    def _id(self, feature: int, shown: Shown) -> str:
        return self._digest(feature, shown.subsample, shown.stratum, shown.example.rank)

    def _digest(self, *what: str | int) -> str:
        """Return an id that is the same whenever the same is written."""
        fingerprint = self._analysis.manifest.fingerprint
        of = (self._identity.model, self._identity.source, fingerprint, *what)
        return "c" + hashlib.sha256(json.dumps(of).encode()).hexdigest()[:_DIGITS]


def _attention(attended: pa.Table | None, shown: Shown) -> dict[str, Any]:
    """Return from where the firings shown are read, as positions among the tokens shown."""
    if attended is None:
        return {"zIndices": None, "zValues": None}
    context, query, key, value = (
        attended[name].combine_chunks().to_numpy() for name in ("context", "query", "key", "value")
    )
    stop = shown.first + len(shown.tokens)
    inside = (context == shown.example.context) & (key != REMAINDER)
    for place in (query, key):
        inside &= (place >= shown.first) & (place < stop)
    places = [(place[inside].astype(np.int64) - shown.first).tolist() for place in (query, key)]
    return {"zIndices": places, "zValues": [round(float(v), DECIMALS) for v in value[inside]]}


def _jsonl(records: Iterable[dict[str, Any]]) -> bytes:
    lines = (
        json.dumps(each, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        for each in records
    )
    return "".join(f"{line}\n" for line in lines).encode()
