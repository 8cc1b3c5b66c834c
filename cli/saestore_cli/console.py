"""Answers for people: plain text on any width, colour and bars where a terminal has them."""

import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from saestore.numbers import count, share, value
from saestore.words import visible
from saestore_cli import plan
from saestore_cli.drawing import facts, terminal
from saestore_cli.numbers import many, of_heads, size
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
    from saestore.exchange.dictionaries import Conversion, ExportReport, ImportReport
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

_UNLIMITED = 10_000
"""Columns of a table that goes to a file: nothing is cut."""

QUALITY = {
    "explained_variance": "of the activations' variance is reconstructed (explained variance)",
    "l0": "features fire on a token on average (L0)",
    "ce_recovered[zero]": "of the language model's loss is recovered, against zero ablation",
    "ce_recovered[mean]": "of the language model's loss is recovered, against mean ablation",
    "dead[all]": "of the features do not fire on any of the {rows} rows (dead there)",
}
"""Score to what it says, after evaluate and at the end of the demo."""


class ConsoleOutput:
    """Prints answers on stdout, warnings and errors on stderr."""

    def __init__(self) -> None:
        self._out = terminal()

    def error(self, report: Report) -> None:
        """Print the message and, on a line of its own, the hint."""
        console = terminal(sys.stderr)
        console.print(
            Text("error: ", style="bold red").append(report.message, style="not bold default"),
            soft_wrap=True,
        )
        if report.hint:
            console.print(
                Text("hint: ", style="bold").append(report.hint, style="not bold"), soft_wrap=True
            )

    def warning(self, message: str) -> None:
        """Print a warning on stderr."""
        terminal(sys.stderr).print(Text("warning: ", style="bold").append(message), soft_wrap=True)

    def finished(
        self, ref: "Ref", manifest: "Manifest", scores: Mapping[str, float | None]
    ) -> None:
        """Print what was made, how good it is if that was measured, and how to look at it."""
        from saestore_cli.artefact_pages import summary

        self._out.print(
            f"{ref.path}: {summary(manifest)}; {size(manifest.payload.bytes)}", soft_wrap=True
        )
        self._quality(scores, manifest.counts.get("rows", 0))
        self._out.print(f"look at it: saestore show {ref.path}", soft_wrap=True)

    def compared(self, found: "Comparison") -> None:
        """Print the scores that tell dictionaries apart, and where the others stand."""
        from saestore_cli import comparison_page

        comparison_page.draw(found, self._out)

    def matched(self, found: "Match", *, features: Sequence[int] | None, n: int) -> None:
        """Print how well features match, and some with their partners."""
        from saestore_cli import between_pages

        between_pages.matched(found, self._out, features=features, n=n)

    def differs(self, found: "Difference", *, n: int) -> None:
        """Print what changed, and the features that changed most."""
        from saestore_cli import between_pages

        between_pages.differs(found, self._out, n=n)

    def part(self, ref: "Ref", states: "Sequence[State]") -> None:
        """Print how far the parts are, and the commands that finish the artefact."""
        from saestore.lake import parts

        self._out.print(f"{ref.path}, {parts.described(list(states))}", soft_wrap=True)
        for command in parts.commands(list(states), ref):
            self._out.print(f"go on: {command}", soft_wrap=True)

    def listing(self, lake: str, remarks: "Sequence[Remark]") -> None:
        """Print a table of artefacts."""
        if not remarks:
            self._out.print(f"the lake at {lake} is empty", soft_wrap=True)
            self._out.print("fill it: saestore demo, or saestore generate CONFIG.toml")
            return
        from saestore_cli.artefact_pages import summary

        table = _table("artefact", ">size", "holds", "written (UTC)")
        for each in remarks:
            # a run's path is too long for a narrow terminal, and its name means nothing else
            name = each.ref.name if each.ref.kind == "interpretation" else each.ref.path
            if each.manifest is None:
                table.add_row(name, "", _unfinished(each), "")
            else:
                table.add_row(
                    name,
                    size(each.manifest.payload.bytes),
                    summary(each.manifest),
                    f"{each.manifest.created:%Y-%m-%d %H:%M}",
                )
        self._out.print(table)

    def page(self, page: "Page") -> None:
        """Print one artefact's page."""
        from saestore_cli import artefact_pages

        artefact_pages.draw(page, self._out)

    def feature(self, found: "FoundPage", *, n: int, around: int) -> None:
        """Print one feature's page, and on stderr where it was read, if there is a choice."""
        from saestore_cli import feature_panel, index_page

        feature_panel.draw(self._out, found.page, n=n, around=around)
        index_page.source(found)

    def strongest(self, table: "pa.Table", names: Sequence[str], *, dictionary: str) -> None:
        """Print the features of each text, or of each of its tokens."""
        from saestore_cli import lookup_pages

        lookup_pages.strongest(self._out, table, names, dictionary=dictionary)

    def highlights(self, found: "Sequence[Highlight]") -> None:
        """Print the passages, tokens marked."""
        from saestore_cli import lookup_pages

        lookup_pages.highlights(self._out, found)

    def overlaps(self, table: "pa.Table", names: Sequence[str]) -> None:
        """Print a line of every two texts."""
        from saestore_cli import lookup_pages

        lookup_pages.overlaps(self._out, table, names)

    def lineage(self, node: "Node", children: "Sequence[Ref]") -> None:
        """Print the tree of what it was made from, then what was made from it."""
        self._out.print(_tree(node))
        if children:
            self._out.print()
            self._out.print(Text("made from it", style="bold"))
            for child in children:
                self._out.print(f"  {child.path}", soft_wrap=True)

    def verified(self, found: "Mapping[str, Sequence[str]]", *, quick: bool) -> None:
        """Print each artefact with all that is wrong with it, then what to do."""
        from saestore_cli import trust_pages

        trust_pages.verified(self._out, found, quick=quick)
        if any(found.values()):
            hint = "restore these files from a copy, or remove the artefact and make it again"
            terminal(sys.stderr).print(Text("hint: ", style="bold").append(hint, "not bold"))

    def same_tokens(self, found: "SameTokens") -> None:
        """Print which stores can be used together."""
        from saestore_cli import trust_pages

        trust_pages.same_tokens(self._out, found)

    def against_model(self, name: str, found: "ModelCheck") -> None:
        """Print how far a store is from what its model computes."""
        from saestore_cli import trust_pages

        trust_pages.against_model(self._out, name, found)

    def table(self, table: "pa.Table", *, total: int) -> None:
        """Print rows; on a terminal within its width, else as wide as they are."""
        if self._out.is_terminal:
            self._out.print(_rows(table))
        else:
            self._out.file.write(table_text(table))
        if table.num_rows < total:
            more = f"{count(total - table.num_rows)} more rows: --limit 0 shows all"
            terminal(sys.stderr).print(more)

    def explained(self, found: "Explained") -> None:
        """Print the plan, and what was read of each table."""
        for line in plan.lines(found.plan):
            self._out.print(line, soft_wrap=True)
        if found.scans:
            table = _table("table", ">row groups", ">rows", "conditions")
            for scan in found.scans:
                read = f"{count(scan.row_groups_read)} of {count(scan.row_groups)}"
                name = f"{scan.of}/{scan.table}" if scan.of else scan.table
                table.add_row(visible(name), read, count(scan.rows), plan.cut(scan.filters))
            self._out.print()
            self._out.print(table)
            self._out.print(f"read from files: {size(found.bytes_read)}")

    def wrote(self, file: Path, *, rows: int) -> None:
        """Print where the answer is."""
        self._out.print(f"{file}: {count(rows)} rows", soft_wrap=True)

    def reported(self, file: Path) -> None:
        """Print where the report is, and how large."""
        self._out.print(f"{file}: {size(file.stat().st_size)}", soft_wrap=True)

    def queries(self, queries: "Mapping[str, NamedQuery]") -> None:
        """Print each query, what it answers, and its parameters."""
        for query in queries.values():
            self._out.print(Text(query.name, style="bold"))
            self._out.print(Padding(Text(query.doc), (0, 0, 0, 4)))
            for param in query.params:
                given = f"{param.name}={param.written or '...'}"
                self._out.print(Padding(Text(f"{given}  {param.doc}", style="dim"), (0, 0, 0, 6)))
        self._out.print()
        self._out.print("ask one: saestore query NAME --param name=value --in SERIES/NAME")

    def document(self, text: str, *, kind: str) -> None:
        """Print it as it is."""
        del kind
        sys.stdout.write(text)

    def checked(self, file: str, verb: str, settings: "BaseModel") -> None:
        """Print that the file is right."""
        del settings
        self._out.print(f"{file}: valid settings of saestore {verb}", soft_wrap=True)

    def hookpoints(self, model: str, hookpoints: "Sequence[HookpointInfo]") -> None:
        """Print a table of hookpoints."""
        table = _table("hookpoint", ">layer", ">width")
        for each in hookpoints:
            layer = "" if each.layer is None else str(each.layer)
            table.add_row(each.name, layer, count(each.width))
        self._out.print(table)
        self._out.print(f"\n{count(len(hookpoints))} hookpoints of {model}", soft_wrap=True)

    def exported(self, report: "ExportReport") -> None:
        """Print what was written and the measured differences."""
        written = ("written", f"{report.folder} ({', '.join(report.files)})")
        self._out.print(facts([written, *_conversion(report.conversion, "rewritten")]))

    def imported(self, report: "ImportReport") -> None:
        """Print what was made and the measured differences."""
        if report.conversion is None:
            self._out.print(
                f"dictionaries/{report.dictionary} was imported already", soft_wrap=True
            )
            return
        made = ("imported", f"dictionaries/{report.dictionary} from {report.source}")
        self._out.print(facts([made, *_conversion(report.conversion, "read")]))

    def exported_activations(self, report: "ActivationsExport") -> None:
        """Print how much was written, and where."""
        self._out.print(
            f"{report.folder}: {many(report.rows, 'rows')} of {report.store} in "
            f"{many(report.contexts, 'contexts')}; {', '.join(report.hookpoints)} as "
            f"{report.dtype}; {many(report.files, f'{report.format} files')}, "
            f"{size(report.bytes)}",
            soft_wrap=True,
        )

    def exported_features(self, report: "FeaturesExport") -> None:
        """Print how much was written, and where."""
        self._out.print(
            f"{report.folder}: {many(report.firings, 'firings')} of {many(report.features, 'features')} "
            f"of {report.analysis}; {many(report.files, f'{report.format} files')}, "
            f"{size(report.bytes)}",
            soft_wrap=True,
        )

    def annotations(self, events: "Sequence[AnnotationEvent]", *, history: bool) -> None:
        """Print a table of them."""
        from saestore_cli import annotation_pages

        self._out.print(annotation_pages.listed(events, history=history))

    def exported_annotations(self, report: "AnnotationsExport") -> None:
        """Print what was written."""
        from saestore_cli import annotation_pages

        annotation_pages.exported(self._out, report)

    def imported_annotations(self, report: "AnnotationsImport") -> None:
        """Print what was added and passed over."""
        from saestore_cli import annotation_pages

        annotation_pages.imported(self._out, report)

    def compacted(self, found: "Compacted") -> None:
        """Print how many files there were and are."""
        from saestore_cli import annotation_pages

        annotation_pages.compacted(self._out, found)

    def synced(self, found: "Synced") -> None:
        """Print what a sync did."""
        from saestore_cli import index_page

        index_page.synced(self._out, found)

    def index_status(self, found: "Status") -> None:
        """Print how the index stands to each artefact."""
        from saestore_cli import index_page

        index_page.status(self._out, found)

    def index_verified(self, place: str, found: Sequence[str]) -> None:
        """Print each difference."""
        from saestore_cli import index_page

        index_page.verified(self._out, place, found)

    def index_dropped(self, found: "Dropped") -> None:
        """Print what was dropped."""
        from saestore_cli import index_page

        index_page.dropped(self._out, found)

    def interpreted(self, made: "Interpretation") -> None:
        """Print its best explanations, mean scores, and what it took."""
        from saestore_cli import interpretation_pages

        interpretation_pages.interpreted(self._out, made)

    def estimated_interpretation(self, found: "Estimate", settings: "InterpretSettings") -> None:
        """Print how many requests and tokens."""
        from saestore_cli import interpretation_pages

        interpretation_pages.estimated(self._out, found, settings)

    def compared_interpretations(self, found: "Compared") -> None:
        """Print what each took, how explainers stand, and where they differ."""
        from saestore_cli import interpretation_pages

        interpretation_pages.compared(self._out, found)

    def removed(self, ref: "Ref") -> None:
        """Print what is gone."""
        self._out.print(f"removed {ref.path}", soft_wrap=True)

    def serving(self, url: str, *, lake: str, live: str | None, annotate: bool) -> None:
        """Print where to look, at once."""
        also = [f"texts run through {live}"] if live else []
        also += ["annotations can be written"] if annotate else []
        told = f" ({', '.join(also)})" if also else ""
        self._out.print(f"serving {lake} at {url}{told}; stop it with Ctrl-C", soft_wrap=True)
        sys.stdout.flush()

    def demo(self, result: "DemoResult") -> None:
        """Print quality, features, an answer, and commands to go on with."""
        out = self._out
        _heading(out, f"The dictionary {result.plan.train.series}/{result.plan.train.name}")
        self._quality(result.scores, result.rows)
        from saestore_cli import feature_panel

        _heading(out, "Features it found")
        shown = "Of each, three of its strongest contexts, another word in each where it has them."
        if not result.features:
            shown = "No feature fits it yet: with more text (--tokens) features take shape."
        for text in (f"Chosen by a rule: {result.rule}.", shown):
            out.print(Padding(Text(text), (0, 0, 0, 2), expand=False))
        for page in result.features:
            out.print()
            feature_panel.brief(out, page, n=3)
        _heading(out, result.question)
        for line in result.sql.splitlines():
            out.print(f"  {line}", style="dim", soft_wrap=True)
        out.print()
        out.print(Padding(_rows(result.answer), (0, 0, 0, 2)))
        _heading(out, "Go on")
        for does, line in result.commands:
            out.print(f"  {does}:", style="dim")
            out.print(f"    {line}", soft_wrap=True)

    def _quality(self, scores: Mapping[str, float | None], rows: int) -> None:
        for name, says in QUALITY.items():
            for full in of_heads(name, scores):
                if (x := scores[full]) is not None:
                    shown = value(x) if name == "l0" else share(x)
                    where = f": {head}" if (head := full.partition("@")[2]) else ""
                    said = f"  {shown:>7}  {says.format(rows=count(rows))}{where}"
                    self._out.print(said, soft_wrap=True)


def table_text(table: "pa.Table") -> str:
    """Return a table as text, as wide as it needs, without control characters."""
    sink = io.StringIO()
    console = terminal(sink, width=_UNLIMITED)
    console.print(_rows(table))
    return sink.getvalue()


def _rows(table: "pa.Table") -> Table:
    import pyarrow.types as kinds

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for field in table.schema:
        right = kinds.is_integer(field.type) or kinds.is_floating(field.type)
        shown.add_column(visible(field.name), justify="right" if right else "left", overflow="fold")
    for row in table.to_pylist():
        shown.add_row(*(_cell(each) for each in row.values()))
    return shown


def _cell(x: Any) -> str:
    if x is None:
        return "null"
    if isinstance(x, float):
        return f"{x:.6g}"
    return visible(str(x))


def _heading(out: Console, text: str) -> None:
    out.print()
    out.print(Rule(Text(text, style="bold"), align="left", characters="─", style="dim"))


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        right = name.startswith(">")
        table.add_column(
            name.lstrip(">"),
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=name == columns[0],  # a name that is broken cannot be copied
        )
    return table


def _tree(node: "Node") -> Tree:
    label = Text(node.ref.path).append(f"  {node.fingerprint[:12]}", style="dim")
    if node.state != "present":
        label.append(f"  {node.state}", style="bold red")
    tree = Tree(label)
    for parent in node.parents:
        tree.add(_tree(parent))
    return tree


def _unfinished(remark: "Remark") -> str:
    """Return what is left to do for an unfinished artefact, or what is wrong with a damaged one."""
    if remark.damage:
        return f"damaged: {remark.damage}"
    done = [state for state in remark.parts if state.finished]
    if not remark.parts:
        return "unfinished: run its command again"
    if len(done) == len(remark.parts):
        return f"{len(done)} parts finished: saestore merge {remark.ref.name}"
    missing = ", ".join(str(state.part) for state in remark.parts if not state.finished)
    return f"{len(done)} of {len(remark.parts)} parts finished; missing {missing}"


def _conversion(found: "Conversion", step: str) -> list[tuple[str, str]]:
    """Return the lines of what was done and measured."""
    lines = [
        ("format", f"{found.format}, {found.architecture}"),
        ("reads", f"{found.hookpoint}, {count(found.d_in)} wide, {count(found.d_sae)} features"),
        *((step, each) for each in found.steps),
        *(("not exact", each) for each in found.inexact),
        (
            "compared",
            (
                f"{many(found.rows, 'rows')}, {count(found.tied_rows)} of them tied; "
                f"{many(found.firings, 'firings')}"
            ),
        ),
        ("features", f"largest relative difference {value(found.max_error_codes)}"),
        ("reconstruction", f"largest relative difference {value(found.max_error_reconstruction)}"),
    ]
    if found.store is not None:
        explained = "-" if found.explained_variance is None else value(found.explained_variance)
        l0 = "-" if found.l0 is None else value(found.l0)
        lines.append((f"on {found.store}", f"explained variance {explained}, L0 {l0}"))
    return lines
