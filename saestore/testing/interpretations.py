"""Finished runs of `interpret` with known explanations and scores: no model is asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from saestore.features import arrow
from saestore.features.parquet import write_whole
from saestore.lake import Lake, Ref, layout, manifest as manifests
from saestore.lake.lock import writing
from saestore_schemas.interpret import (
    EndpointSettings,
    InterpretSettings,
    ListSelection,
    QuantileExplainer,
)
from saestore_schemas.interpretation_tables import (
    INTERPRETATION_ANSWERS,
    INTERPRETATION_SCORES,
    INTERPRETATIONS,
)
from saestore_schemas.manifest import ArrayInfo


EACH = 20
"""Positives and negatives that each explanation is scored on: scores are multiples of a twentieth."""
MODEL = "test-model"
WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
"""When everything was answered."""

_PROMPT, _COMPLETION, _COST = 100, 10, 0.001


@dataclass(frozen=True)
class Explained:
    """One explanation of a feature, and how well it is to hold.

    Attributes:
        feature: Which feature.
        text: The explanation; None: the model said none that could be read.
        explainer: Name of the explainer.
        scores: Balanced accuracy by scorer, a multiple of `1 / EACH`; None: no answer could be read.
        consistency: What the model says of it.
        complexity: Likewise.
    """

    feature: int
    text: str | None
    explainer: str = "quantile"
    scores: Mapping[str, float | None] = field(default_factory=dict)
    consistency: int | None = 4
    complexity: int | None = 2


def interpretation_run(
    lake: Lake, analysis: str, name: str, explained: Sequence[Explained], *, priced: bool = True
) -> Ref:
    """Write a finished run about an analysis, with answers that its scores follow from.

    Args:
        lake: Where.
        analysis: `series/name/analysis`.
        name: Name of the run.
        explained: Its explanations.
        priced: Whether the model's price is known.
    """
    dictionary, _, own = analysis.rpartition("/")
    scorers = sorted({scorer for each in explained for scorer in each.scores})
    features = sorted({each.feature for each in explained})
    settings = InterpretSettings.model_validate(
        {
            "name": name,
            "features": dictionary,
            "analysis": own,
            "select": ListSelection(features=tuple(features)),
            "endpoint": EndpointSettings(model=MODEL),
            "explainers": {each.explainer: QuantileExplainer() for each in explained},
            "scorers": {each: {"kind": "detection"} for each in scorers},
            "bootstrap": 0,
        }
    )
    ref = Ref("interpretation", f"{analysis}/{name}")
    parent = manifests.parent_of(lake.manifest(Ref("features", analysis)))
    run = manifests.Run.of(ref, settings, [parent])
    artefact = lake.artefact(ref)
    ordered = sorted(explained, key=lambda each: (each.feature, each.explainer))
    judged = [(each, scorer) for each in ordered for scorer in sorted(each.scores)]
    answers = [answer for each, scorer in judged for answer in _answers(each, scorer)]
    cost = _COST if priced else None
    lines = {
        INTERPRETATIONS: [_interpretation(each, cost) for each in ordered],
        INTERPRETATION_SCORES: [_score(each, scorer, cost) for each, scorer in judged],
        INTERPRETATION_ANSWERS: answers,
    }
    requests = len(ordered) + len(judged)
    with writing(artefact, name=ref.name):
        if manifests.begin(artefact, run) is None:
            arrays = {}
            for table, found in lines.items():
                columns = {c.name: [line[c.name] for line in found] for c in table.columns}
                content = arrow.rows(table.schema(), columns)
                shape = write_whole(artefact, table, content, fingerprint=run.fingerprint)
                arrays[table.name] = ArrayInfo(shape=shape, dtype="table")
            selection = pa.table({"feature": pa.array(features, pa.uint32())})
            with artefact.replacing(layout.SELECTION) as temporary:
                pa.parquet.write_table(selection, temporary)
            artefact.write(layout.CASSETTE, b"")
            manifests.finish(
                artefact,
                run,
                arrays=arrays,
                counts={
                    "features": len(features),
                    "explanations": sum(each.text is not None for each in ordered),
                    "scores": sum(each.scores[scorer] is not None for each, scorer in judged),
                    "requests": requests,
                },
                facts={
                    "model": MODEL,
                    "base_url": settings.endpoint.base_url,
                    "prompt_tokens": requests * _PROMPT,
                    "completion_tokens": requests * _COMPLETION,
                    "cost": None if cost is None else requests * cost,
                },
            )
    return ref


def _asked(each: Explained, cost: float | None) -> dict[str, Any]:
    return {
        "interpretation_id": f"{each.explainer}/{each.feature}",
        "feature": each.feature,
        "explainer": each.explainer,
        "prompt_tokens": _PROMPT,
        "completion_tokens": _COMPLETION,
        "cost": cost,
    }


def _interpretation(each: Explained, cost: float | None) -> dict[str, Any]:
    return {
        **_asked(each, cost),
        "kind": "quantile",
        "endpoint_model": MODEL,
        "prompt_version": "quantile-1",
        "prompt_hash": "0" * 64,
        "request_hash": f"{each.feature:064x}",
        "seed": each.feature,
        "text": each.text,
        "outcome": "unparsed" if each.text is None else "answered",
        "consistency": each.consistency,
        "complexity": each.complexity,
        "reasoning": None,
        "explain_examples": [{"context": 0, "position": 0}],
        "created": WHEN,
    }


def _score(each: Explained, scorer: str, cost: float | None) -> dict[str, Any]:
    """Return a line of scores: as many of each kind are told right as the score says."""
    score = each.scores[scorer]
    right = 0 if score is None else round(score * EACH)
    read = 0 if score is None else EACH
    told = 2 * right + read - right
    return {
        **_asked(each, cost),
        "scorer": scorer,
        "kind": "detection",
        "n": 2 * EACH,
        "n_parsed": 2 * read,
        "tp": right,
        "fp": read - right,
        "tn": right,
        "fn": read - right,
        "balanced_accuracy": score,
        "balanced_accuracy_all": 0.0 if score is None else score,
        "precision": right / read if read else None,
        "recall": right / read if read else None,
        "f1": 2 * right / (told + read - right) if read else None,
        "auroc": score,
        "brier": None if score is None else 1 - score,
        "correlation": None,
        "score": score,
        "ci_low": None if score is None else max(0.0, score - 0.1),
        "ci_high": None if score is None else min(1.0, score + 0.1),
        "by_decile": [None if score is None else score] * 10,
        "why_null": "no answer could be read" if score is None else None,
    }


def _answers(each: Explained, scorer: str) -> list[dict[str, Any]]:
    score = each.scores[scorer]
    right = 0 if score is None else round(score * EACH)
    return [
        {
            "interpretation_id": f"{each.explainer}/{each.feature}",
            "feature": each.feature,
            "explainer": each.explainer,
            "scorer": scorer,
            "example": place,
            "context": place,
            "position": 0,
            "decile": place * 10 // EACH if label else None,
            "negative_kind": None if label else "silent",
            "label": label,
            "outcome": "unparsed" if score is None else "right" if correct else "wrong",
            "answer": None if score is None else label == correct,
            "probability": None if score is None else float(label == correct),
            "values": [],
            "request_hash": f"{each.feature:064x}",
        }
        for place in range(2 * EACH)
        for label in (place < EACH,)
        for correct in (place % EACH < right,)
    ]
