"""Answers as JSON, one document per command, for programs."""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saestore.plain import plain
from saestore_cli.report import Report


if TYPE_CHECKING:
    import pyarrow as pa
    from pydantic import BaseModel

    from saestore.activations.same_tokens import SameTokens
    from saestore.analyze.between import Difference, Match
    from saestore.api.demo import DemoResult
    from saestore.api.indexing import FoundPage
    from saestore.api.lake import Remark
    from saestore.api.pages import Page
    from saestore.evaluate import Comparison
    from saestore.exchange import ActivationsExport
    from saestore.exchange.annotations import AnnotationsExport, AnnotationsImport
    from saestore.exchange.dictionaries import ExportReport, ImportReport
    from saestore.exchange.features import FeaturesExport
    from saestore.features import Compacted, Explained, Highlight, NamedQuery
    from saestore.generate import ModelCheck
    from saestore.index import Dropped, Status, Synced
    from saestore.interpret import Compared, Estimate, Interpretation
    from saestore.lake import Ref
    from saestore.lake.lineage import Node
    from saestore.lake.parts import State
    from saestore.lm import HookpointInfo
    from saestore_schemas.annotations import AnnotationEvent
    from saestore_schemas.interpret import InterpretSettings
    from saestore_schemas.manifest import Manifest


class JsonOutput:
    """Every answer is one JSON document on stdout; errors are `{"error": {...}}`."""

    def error(self, report: Report) -> None:
        """Print the error with its parts."""
        _print(
            {
                "error": {
                    "kind": report.kind,
                    "message": report.message,
                    "found": report.found,
                    "expected": report.expected,
                    "hint": report.hint,
                }
            }
        )

    def warning(self, message: str) -> None:
        """Write a warning to stderr, so that stdout stays one document."""
        sys.stderr.write(f"warning: {message}\n")

    def finished(
        self, ref: "Ref", manifest: "Manifest", scores: Mapping[str, float | None]
    ) -> None:
        """Print the manifest, and the scores of an evaluation."""
        _print({"path": ref.path, "manifest": manifest, "scores": scores})

    def compared(self, found: "Comparison") -> None:
        """Print every score of each dictionary, and the evaluations they stand in."""
        _print(
            {
                "dictionaries": found.dictionaries,
                "evaluations": [each.ref.path for each in found.evaluations],
                "facts": found.facts,
                "scores": found.values,
            }
        )

    def matched(self, found: "Match", *, features: Sequence[int] | None, n: int) -> None:
        """Print every line, or those of the features named, and what each method finds in all."""
        del n  # a program can choose
        rows = found.table.to_pylist()
        _print(
            {
                "dictionaries": [found.one, found.other],
                "features": list(found.features),
                "facts": found.facts,
                "methods": {each.method: each.summary() for each in found.methods},
                "agreeing": found.agreeing,
                "rows": [row for row in rows if not features or row["feature"] in features],
            }
        )

    def differs(self, found: "Difference", *, n: int) -> None:
        """Print every line, and how many features changed."""
        del n  # a program can choose
        _print(
            {
                "analyses": [found.one, found.other],
                "facts": found.facts,
                "changes": found.changes,
                "limit": found.limit,
                "significant": found.significant,
                "rows": found.table.to_pylist(),
            }
        )

    def part(self, ref: "Ref", states: "Sequence[State]") -> None:
        """Print the state of each part, and the commands that finish the artefact."""
        from saestore.lake import parts

        _print(
            {
                "path": ref.path,
                "parts": [_part(state) for state in states],
                "commands": parts.commands(list(states), ref),
            }
        )

    def listing(self, lake: str, remarks: "Sequence[Remark]") -> None:
        """Print kind, name, state, counts and size of each artefact."""
        _print(
            {
                "lake": lake,
                "artefacts": [
                    {
                        "kind": each.ref.kind,
                        "name": each.ref.name,
                        "path": each.ref.path,
                        "finished": each.manifest is not None,
                        "damage": each.damage or None,
                        "parts": [_part(state) for state in each.parts],
                        "created": each.manifest.created if each.manifest else None,
                        "bytes": each.manifest.payload.bytes if each.manifest else None,
                        "counts": each.manifest.counts if each.manifest else {},
                    }
                    for each in remarks
                ],
            }
        )

    def page(self, page: "Page") -> None:
        """Print the page, field by field."""
        _print(page)

    def feature(self, found: "FoundPage", *, n: int, around: int) -> None:
        """Print the page with `n` examples a group, each cut to `around` tokens beside its peak."""
        _print({**found.page.cut(n=n, around=around).to_dict(), "source": found.source})
        if found.why_not:
            self.warning(f"{found.why_not}; read from the lake, which says the same")

    def strongest(self, table: "pa.Table", names: Sequence[str], *, dictionary: str) -> None:
        """Print a line of each feature and text, or feature and token."""
        _print({"dictionary": dictionary, "texts": list(names), "rows": table.to_pylist()})

    def highlights(self, found: "Sequence[Highlight]") -> None:
        """Print a line of each text under each feature, with the value of every token."""
        _print({"features": [_highlight(each) for each in found]})

    def overlaps(self, table: "pa.Table", names: Sequence[str]) -> None:
        """Print a line of every two texts."""
        _print({"texts": list(names), "rows": table.to_pylist()})

    def lineage(self, node: "Node", children: "Sequence[Ref]") -> None:
        """Print the family tree."""
        _print({**_node(node), "children": [child.path for child in children]})

    def verified(self, found: "Mapping[str, Sequence[str]]", *, quick: bool) -> None:
        """Print each artefact with its damage: file and problem of every finding."""
        artefacts = []
        for path, damage in found.items():
            parts = [line.partition(": ") for line in damage]
            shown = [{"file": file, "problem": problem} for file, _, problem in parts]
            artefacts.append({"path": path, "damage": shown})
        _print({"quick": quick, "whole": not any(found.values()), "artefacts": artefacts})

    def same_tokens(self, found: "SameTokens") -> None:
        """Print the groups and every difference."""
        _print({"same": found.same, **_simple(found)})

    def against_model(self, name: str, found: "ModelCheck") -> None:
        """Print every measurement."""
        _print({"path": name, "agrees": found.agrees, **_simple(found)})

    def table(self, table: "pa.Table", *, total: int) -> None:
        """Print the rows and how many there are."""
        _print({"total": total, "rows": table.to_pylist()})

    def explained(self, found: "Explained") -> None:
        """Print the plan and the scans."""
        _print(found)

    def wrote(self, file: Path, *, rows: int) -> None:
        """Print the file's name and rows."""
        _print({"file": str(file), "rows": rows})

    def reported(self, file: Path) -> None:
        """Print the file's name and size."""
        _print({"file": str(file), "bytes": file.stat().st_size})

    def queries(self, queries: "Mapping[str, NamedQuery]") -> None:
        """Print each query with parameters and SQL."""
        _print(list(queries.values()))

    def document(self, text: str, *, kind: str) -> None:
        """Print JSON as it is, anything else as one string."""
        if kind == "json":
            sys.stdout.write(text)
        else:
            _print({kind: text})

    def checked(self, file: str, verb: str, settings: "BaseModel") -> None:
        """Print the settings, defaults filled in."""
        _print({"file": file, "verb": verb, "settings": settings})

    def hookpoints(self, model: str, hookpoints: "Sequence[HookpointInfo]") -> None:
        """Print each hookpoint."""
        _print({"model": model, "hookpoints": list(hookpoints)})

    def exported(self, report: "ExportReport") -> None:
        """Print the report."""
        _print({**_simple(report), "max_error": report.conversion.max_error})

    def imported(self, report: "ImportReport") -> None:
        """Print the report; without a conversion where it was there already."""
        known = report.conversion
        _print({**_simple(report), "max_error": None if known is None else known.max_error})

    def exported_activations(self, report: "ActivationsExport") -> None:
        """Print the report."""
        _print(report)

    def exported_features(self, report: "FeaturesExport") -> None:
        """Print the report."""
        _print(report)

    def annotations(self, events: "Sequence[AnnotationEvent]", *, history: bool) -> None:
        """Print the events."""
        del history
        _print({"annotations": list(events)})

    def exported_annotations(self, report: "AnnotationsExport") -> None:
        """Print the report."""
        _print(report)

    def imported_annotations(self, report: "AnnotationsImport") -> None:
        """Print the report."""
        _print(report)

    def compacted(self, found: "Compacted") -> None:
        """Print the report."""
        _print(found)

    def synced(self, found: "Synced") -> None:
        """Print what a sync did."""
        _print(found)

    def index_status(self, found: "Status") -> None:
        """Print how the index stands to each artefact."""
        _print({"current": found.current, **_simple(found)})

    def index_verified(self, place: str, found: Sequence[str]) -> None:
        """Print each difference."""
        _print({"place": place, "same": not found, "differences": list(found)})

    def index_dropped(self, found: "Dropped") -> None:
        """Print what was dropped."""
        _print(found)

    def interpreted(self, made: "Interpretation") -> None:
        """Print the manifest, mean scores, and every explanation."""
        _print(
            {
                "path": made.ref.path,
                "manifest": made.manifest,
                "scores": [
                    {"explainer": explainer, "scorer": scorer, **dataclasses.asdict(mean)}
                    for explainer, scorer, mean in made.means()
                ],
                "failed": made.failed,
                "explanations": made.ranked,
            }
        )

    def estimated_interpretation(self, found: "Estimate", settings: "InterpretSettings") -> None:
        """Print the estimate, and who would be asked."""
        asked = {"model": settings.endpoint.model, "base_url": settings.endpoint.base_url}
        _print({**asked, **_simple(found)})

    def compared_interpretations(self, found: "Compared") -> None:
        """Print all of it."""
        _print(found)

    def removed(self, ref: "Ref") -> None:
        """Print what was removed."""
        _print({"removed": ref.path})

    def serving(self, url: str, *, lake: str, live: str | None, annotate: bool) -> None:
        """Print one line, at once: whoever started the server waits for it."""
        line = json.dumps({"url": url, "lake": lake, "live": live, "annotate": annotate})
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def demo(self, result: "DemoResult") -> None:
        """Print everything the demo found."""
        _print(
            {
                "plan": result.plan.stages(),
                "scores": dict(result.scores),
                "rows": result.rows,
                "rule": result.rule,
                "features": [page.to_dict() for page in result.features],
                "question": result.question,
                "sql": result.sql,
                "answer": result.answer.to_pylist(),
                "commands": [{"does": does, "command": line} for does, line in result.commands],
            }
        )


def _highlight(found: "Highlight") -> dict[str, Any]:
    facts = {name: getattr(found, name) for name in ("dictionary", "feature", "max", "density")}
    rows = found.table().to_pylist()
    for row, example in zip(rows, found.examples, strict=True):
        row["tokens"] = [{"text": each.text, "value": each.value} for each in example.tokens]
    return {**facts, "rows": rows}


def _node(node: "Node") -> dict[str, Any]:
    return {
        "path": node.ref.path,
        "fingerprint": node.fingerprint,
        "state": node.state,
        "parents": [_node(parent) for parent in node.parents],
    }


def _simple(value: Any) -> Any:
    """Return models, dataclasses and paths as JSON can say them."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _simple(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _simple(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return [_simple(item) for item in value]
    if hasattr(value, "_asdict"):
        return _simple(value._asdict())
    return plain(value)


def _print(value: Any) -> None:
    text = json.dumps(_simple(value), ensure_ascii=False, indent=1, default=str)
    sys.stdout.write(text + "\n")


def _part(state: "State") -> dict[str, Any]:
    return {"part": str(state.part), "finished": state.finished, "rows": state.rows}
