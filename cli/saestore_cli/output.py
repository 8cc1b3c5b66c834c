"""What commands hand over: one method per kind of thing, two implementations, errors included."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from saestore_cli.options import Format
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


class Output(Protocol):
    """Where a command's answer goes. Answers go to stdout, warnings and text errors to stderr."""

    def error(self, report: Report) -> None:
        """Say what went wrong and what to do."""
        ...

    def warning(self, message: str) -> None:
        """Say something that does not stop the command."""
        ...

    def finished(
        self, ref: "Ref", manifest: "Manifest", scores: Mapping[str, float | None]
    ) -> None:
        """Say that a verb made an artefact, or found it made; an evaluation has scores."""
        ...

    def compared(self, found: "Comparison") -> None:
        """Show the scores of several dictionaries side by side."""
        ...

    def matched(self, found: "Match", *, features: Sequence[int] | None, n: int) -> None:
        """Show the partners of features: of those named, or of the n that match best."""
        ...

    def differs(self, found: "Difference", *, n: int) -> None:
        """Show what changed between two analyses: the n features that changed most."""
        ...

    def part(self, ref: "Ref", states: "Sequence[State]") -> None:
        """Say how far the parts of an artefact are, and how to go on."""
        ...

    def listing(self, lake: str, remarks: "Sequence[Remark]") -> None:
        """List artefacts."""
        ...

    def page(self, page: "Page") -> None:
        """Show one artefact."""
        ...

    def feature(self, found: "FoundPage", *, n: int, around: int) -> None:
        """Show one feature, and where it was read: `n` examples a group, `around` tokens beside the peak."""
        ...

    def strongest(self, table: "pa.Table", names: Sequence[str], *, dictionary: str) -> None:
        """Show the features of texts, or of their tokens."""
        ...

    def highlights(self, found: "Sequence[Highlight]") -> None:
        """Show texts under features."""
        ...

    def overlaps(self, table: "pa.Table", names: Sequence[str]) -> None:
        """Show which features every two texts share."""
        ...

    def lineage(self, node: "Node", children: "Sequence[Ref]") -> None:
        """Show what an artefact was made from and what from it."""
        ...

    def verified(self, found: "Mapping[str, Sequence[str]]", *, quick: bool) -> None:
        """Say of each artefact that it is whole, or everything that is wrong with it."""
        ...

    def same_tokens(self, found: "SameTokens") -> None:
        """Say which stores hold the same tokens."""
        ...

    def against_model(self, name: str, found: "ModelCheck") -> None:
        """Say how far a store is from what its language model computes."""
        ...

    def table(self, table: "pa.Table", *, total: int) -> None:
        """Show rows of an answer that has `total` rows."""
        ...

    def explained(self, found: "Explained") -> None:
        """Show how a question was answered."""
        ...

    def wrote(self, file: Path, *, rows: int) -> None:
        """Say that an answer was written to a file."""
        ...

    def reported(self, file: Path) -> None:
        """Say where a report was written."""
        ...

    def queries(self, queries: "Mapping[str, NamedQuery]") -> None:
        """List the queries that are ready."""
        ...

    def document(self, text: str, *, kind: str) -> None:
        """Print a generated file, `toml` or `json`, as it is."""
        ...

    def checked(self, file: str, verb: str, settings: "BaseModel") -> None:
        """Say that a settings file is right."""
        ...

    def hookpoints(self, model: str, hookpoints: "Sequence[HookpointInfo]") -> None:
        """List a model's hookpoints."""
        ...

    def exported(self, report: "ExportReport") -> None:
        """Say what an export wrote and how exact it is."""
        ...

    def imported(self, report: "ImportReport") -> None:
        """Say what an import made and how exact it is."""
        ...

    def exported_activations(self, report: "ActivationsExport") -> None:
        """Say what an export of activations wrote."""
        ...

    def exported_features(self, report: "FeaturesExport") -> None:
        """Say what an export of features wrote."""
        ...

    def annotations(self, events: "Sequence[AnnotationEvent]", *, history: bool) -> None:
        """Show what people say, or with history said, about features."""
        ...

    def exported_annotations(self, report: "AnnotationsExport") -> None:
        """Say what an export of annotations wrote."""
        ...

    def imported_annotations(self, report: "AnnotationsImport") -> None:
        """Say what an import of annotations added."""
        ...

    def compacted(self, found: "Compacted") -> None:
        """Say what a compaction of annotations did."""
        ...

    def synced(self, found: "Synced") -> None:
        """Say what a sync of the index did."""
        ...

    def index_status(self, found: "Status") -> None:
        """Show how the index stands to the lake."""
        ...

    def index_verified(self, place: str, found: Sequence[str]) -> None:
        """List the differences between the index and the lake."""
        ...

    def index_dropped(self, found: "Dropped") -> None:
        """Say that the index is gone."""
        ...

    def interpreted(self, made: "Interpretation") -> None:
        """Say what a run of `interpret` found out, and what it took."""
        ...

    def estimated_interpretation(self, found: "Estimate", settings: "InterpretSettings") -> None:
        """Say what a run of `interpret` would take."""
        ...

    def compared_interpretations(self, found: "Compared") -> None:
        """Show runs of `interpret` side by side."""
        ...

    def removed(self, ref: "Ref") -> None:
        """Say that an artefact is gone."""
        ...

    def serving(self, url: str, *, lake: str, live: str | None, annotate: bool) -> None:
        """Say where a lake is served, as soon as it is."""
        ...

    def demo(self, result: "DemoResult") -> None:
        """Show what the demo found, and how to go on."""
        ...


def output_for(form: Format) -> Output:
    """Return the implementation for a format."""
    if form is Format.JSON:
        from saestore_cli.json_output import JsonOutput

        return JsonOutput()
    from saestore_cli.console import ConsoleOutput

    return ConsoleOutput()
