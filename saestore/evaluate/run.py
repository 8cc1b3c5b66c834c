"""The verb: a dictionary and a store in, scores out.

An evaluation is two small tables and is written at its end; interrupted before, it starts anew.
"""

from functools import cache, partial
from typing import Protocol, runtime_checkable

import pyarrow as pa
from pydantic import JsonValue

from saestore import devices
from saestore.evaluate import cross_entropy, jacobian, rows
from saestore.evaluate.evaluation import Evaluation
from saestore.evaluate.metrics import Score
from saestore.evaluate.subject import Subject, open_subject
from saestore.lake import Lake, Ref, checkpoint, layout, manifest as manifests, table_file
from saestore.lake.checkpoint import Made
from saestore.lake.lock import writing
from saestore.lake.manifest import Run
from saestore.lm import LanguageModel
from saestore.progress import Progress, Silent
from saestore_schemas import tables
from saestore_schemas.evaluate import EvaluateSettings
from saestore_schemas.lm import LmSettings
from saestore_schemas.manifest import ArrayInfo
from saestore_schemas.metrics import unit_of


_SILENT = Silent()


@runtime_checkable
class LoadModel(Protocol):
    """Loads a language model."""

    def __call__(self, settings: LmSettings, *, device: str) -> LanguageModel:
        """Return the model of the settings, on a device."""
        ...


def run(
    settings: EvaluateSettings,
    lake: Lake,
    *,
    device: str = "auto",
    progress: Progress = _SILENT,
    load_model: LoadModel = LanguageModel.load,
) -> Evaluation:
    """Measure a dictionary and write the scores; a finished evaluation is returned as it is.

    Args:
        settings: What to measure on which rows.
        lake: Where dictionary and store lie and scores are written.
        device: Torch device; `auto` takes the best there is.
        progress: Where to report.
        load_model: How the language model is loaded, for those who keep it.

    Raises:
        ArtefactNotFoundError: No such dictionary or store.
        ArtefactExistsError: The name is taken by an evaluation with other settings.
        ConfigError: The split is empty, or unknown for this dictionary; or there is no such language
            model.
        HookpointNotFoundError: The store lacks a hookpoint of the dictionary.
    """
    named = checkpoint.numbered(lake, settings.dictionary)
    settings = settings.model_copy(update={"dictionary": named})
    subject = open_subject(settings, lake)
    ref = ref_of(settings)
    parents = [Made.of(named, lake).parent, *subject.store.parents]
    work = Run.of(ref, settings, parents)
    artefact = lake.artefact(ref)
    if artefact.exists(layout.MANIFEST):
        manifests.begin(artefact, work)  # same settings, or an error
        progress.note(f"evaluation {ref.name}: finished already")
        return Evaluation.open(lake, ref.name)
    for field, lm in _models(settings, subject):  # before the rows, which may take long
        LanguageModel.check(lm, field=field)
    with writing(artefact, name=ref.name):
        if manifests.begin(artefact, work) is None:
            table, features, facts = _measure(
                settings, subject, device=device, progress=progress, load_model=load_model
            )
            artefact.write(layout.SCORES, table_file.to_bytes(table))
            artefact.write(layout.FEATURE_SCORES, table_file.to_bytes(features))
            manifests.finish(
                artefact,
                work,
                arrays={
                    "scores": ArrayInfo(shape=table.shape, dtype="table"),
                    "features": ArrayInfo(shape=features.shape, dtype="table"),
                },
                counts={"rows": _evaluated(table), "metrics": table.num_rows},
                facts=facts,
            )
    return Evaluation.open(lake, ref.name)


def ref_of(settings: EvaluateSettings) -> Ref:
    """Return where an evaluation lies: that of a checkpoint beside its dictionary's, with the step."""
    return checkpoint.beside("evaluation", settings.dictionary, settings.name)


def _models(settings: EvaluateSettings, subject: Subject) -> list[tuple[str, LmSettings]]:
    """Return the language models that are asked, with the settings that name them, or could.

    Raises:
        ConfigError: The store does not say which one it is of; or there is no Jacobian to compare.
    """
    found = []
    if settings.splice is not None:
        found += [(h.field, h.lm) for h in cross_entropy.hosts(subject, settings.splice)]
    if settings.jacobian is not None:
        jacobian.refuse(subject.dictionary)
        found.append((jacobian.FIELD, jacobian.model_of(subject, settings.jacobian)))
    return found


def _measure(
    settings: EvaluateSettings,
    subject: Subject,
    *,
    device: str,
    progress: Progress,
    load_model: LoadModel,
) -> tuple[pa.Table, pa.Table, dict[str, JsonValue]]:
    where = devices.resolve(device)
    found = rows.measure(
        subject, settings.rows, cosines_too=settings.cosines, device=where, progress=progress
    )
    scores = list(found.scores)
    facts: dict[str, JsonValue] = {
        "split": settings.split,
        "held_out": subject.held_out,
        "store": " + ".join(each.name for each in subject.store.parents),
        "hookpoints": list(subject.dictionary.hookpoints_out),
        **found.facts,
        "splice": None,
        "jacobian": None,
    }
    loaded = cache(partial(load_model, device=device))  # once, where both ask the same one
    if settings.splice is not None:
        spliced = cross_entropy.measure(
            subject,
            settings.splice,
            means=found.means,
            load_model=loaded,
            progress=progress,
        )
        scores += spliced.scores
        facts["splice"] = spliced.facts
    if settings.jacobian is not None:
        compared = jacobian.measure(
            subject, settings.jacobian, load_model=loaded, progress=progress
        )
        scores += compared.scores
        facts["jacobian"] = compared.facts
    return table_of(scores), found.features, facts


def _evaluated(table: pa.Table) -> int:
    """Return the rows that L0, and every score without a language model, was measured on."""
    return next(int(row["n"]) for row in table.to_pylist() if row["metric"] == "l0")


def table_of(scores: list[Score]) -> pa.Table:
    """Return scores as `tables.SCORES`, sorted by metric."""
    ordered = sorted(scores, key=lambda score: score.metric)
    columns = {
        "metric": [score.metric for score in ordered],
        "value": [score.value for score in ordered],
        "unit": [unit_of(score.metric) for score in ordered],
        "n": [score.n for score in ordered],
    }
    return pa.table(columns, schema=tables.SCORES.schema())
