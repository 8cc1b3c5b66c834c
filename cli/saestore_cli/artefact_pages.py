"""Artefacts in a terminal: a store, a dictionary, an evaluation, an analysis, a run of `interpret`."""

from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.text import Text

from saestore.api.store_page import ActivationsPage
from saestore.numbers import count, value
from saestore.report.artefacts import (
    AnalysisPage,
    CheckpointPage,
    DictionaryPage,
    EvaluationPage,
    Score,
    SweepPage,
)
from saestore.report.interpretation_page import InterpretationPage
from saestore_cli import interpretation_page, store_page, sweep_page, training_page
from saestore_cli.drawing import bars, facts, pairs
from saestore_cli.numbers import many, of_heads, size


if TYPE_CHECKING:
    from saestore_schemas.dictionary import ImportedRecord
    from saestore_schemas.manifest import Manifest

HEADLINES = (
    "explained_variance", "l0", "ce_recovered[zero]", "ce_recovered[mean]", "dead[all]",
)  # fmt: skip
"""Scores shown on a dictionary's page."""

_EACH = 4
"""More scores in one family than this share the first one's definition."""

COUNTS = (
    "dictionaries", "features", "rows", "contexts", "documents", "firings", "steps", "explanations",
    "scores",
)  # fmt: skip
"""Counts of a manifest that say what an artefact holds; the others are in its manifest."""


@singledispatch
def draw(page: Any, console: Console) -> None:
    """Print the page of an artefact."""
    raise TypeError(type(page), console)


@draw.register
def _(page: ActivationsPage, console: Console) -> None:
    _title(console, page.manifest)
    corpus = _sources(_get(page.manifest.settings, "corpus"))
    store_page.draw(page, console, made=_made(page.manifest), corpus=corpus)
    _children(console, page.children)


@draw.register
def _(page: DictionaryPage, console: Console) -> None:
    _title(console, page.manifest)
    rows = training_page.facts_of(page.config, page.manifest.facts)
    if page.config.imported is not None:
        rows.extend(_imported(page.config.imported))
    console.print(facts([*rows, *_made(page.manifest)]))
    training_page.draw(page.curves, page.densities, console)
    for evaluation in page.evaluations:
        console.print()
        name = evaluation.manifest.name.rsplit("/", 1)[-1]
        console.print(Text(f"Evaluation {name}", style="bold"))
        found = {score.metric: score for score in evaluation.scores}
        shown = [(m, value(found[m].value)) for name in HEADLINES for m in of_heads(name, found)]
        console.print(Padding(facts(shown), (0, 0, 0, 2)))
    if not page.evaluations:
        console.print(f"\nnot evaluated yet: saestore evaluate {page.manifest.name}")
    _children(console, page.children)


def _imported(record: "ImportedRecord") -> list[tuple[str, Text | str]]:
    """Return where an imported dictionary came from, and how exact it is."""
    return [
        ("imported", f"{record.library} ({record.version}), from {record.from_}"),
        ("compared", f"largest relative difference {value(record.max_error)}"),
        *(("not exact", each) for each in record.inexact),
    ]


@draw.register
def _(page: CheckpointPage, console: Console) -> None:
    title = Text(f"checkpoint {page.name}", style="bold")
    console.print(Rule(title, align="left", characters="─", style="dim"))
    steps = ("checkpoints", f"at steps {', '.join(map(count, page.steps))}")
    console.print(facts([*training_page.facts_of(page.config, {}), steps]))
    training_page.draw(page.curves, page.densities, console)


@draw.register
def _(page: EvaluationPage, console: Console) -> None:
    _title(console, page.manifest)
    shown = {k: v for k, v in page.manifest.facts.items() if isinstance(v, (str, int, float, bool))}
    console.print(
        facts(
            [
                ("dictionary", str(_get(page.manifest.settings, "dictionary"))),
                *((name.replace("_", " "), value(x)) for name, x in shown.items()),
                *_made(page.manifest),
            ]
        )
    )
    console.print()
    scores(page.scores, console)


@draw.register
def _(page: AnalysisPage, console: Console) -> None:
    _title(console, page.manifest)
    dictionary = page.manifest.name.rsplit("/", 1)[0]
    seen = page.overview
    firings = seen.n_firings / seen.n_rows if seen.n_rows else 0.0
    silent = f"{count(seen.n_silent)} silent"
    if seen.n_silent and seen.bound is not None:
        silent += f" (density below {value(seen.bound)} at 95 %)"
    console.print(
        facts(
            [
                ("features", f"{count(seen.n_features)}, of which {silent}"),
                ("rows", count(seen.n_rows)),
                ("firings", f"{count(seen.n_firings)}, {value(firings)} a row"),
                ("tables", ", ".join(sorted(page.manifest.arrays))),
                *_made(page.manifest),
            ]
        )
    )
    edges, counts = seen.densities.edges, seen.densities.counts
    if counts:
        console.print()
        console.print(Text("Features by density (firings per row, log scale)", style="bold"))
        low, high = f"10^{edges[0]:g}", f"10^{edges[-1]:g}"
        wide = "".join(c * 2 for c in bars(counts))
        console.print(f"  {low} {wide} {high}")
    console.print()
    console.print(Text("Go on with", style="bold"))
    for feature in seen.typical:
        console.print(f"  saestore show feature {dictionary} {feature}")
    for run in page.interpretations:
        console.print(f"  saestore show {run.name}")
    console.print(f"  saestore report {page.manifest.kind}/{page.manifest.name} --to features.html")
    console.print("  saestore query --list")


@draw.register
def _(page: InterpretationPage, console: Console) -> None:
    _title(console, page.manifest)
    console.print(facts([*interpretation_page.facts_of(page), *_made(page.manifest)]))
    interpretation_page.draw(page, console)


@draw.register
def _(page: SweepPage, console: Console) -> None:
    _title(console, page.manifest)
    console.print(facts(_made(page.manifest)))
    console.print()
    sweep_page.draw(page, console)


def scores(lines: Sequence[Score], console: Console) -> None:
    """Print scores, each with its unit and, below it, its definition.

    Scores that differ only in brackets share a line and a definition; undefined ones are named last.
    """
    families: dict[str, list[Score]] = {}
    for line in lines:
        if line.value is not None:
            families.setdefault(line.metric.split("[")[0], []).append(line)
    for family, members in families.items():
        head = Text(members[0].metric if len(members) == 1 else family, style="bold")
        if len(members) == 1:
            head.append(f"  {value(members[0].value)}", style="not bold")
        unit = f" {members[0].unit}" if members[0].unit else ""
        console.print(head.append(unit, style="not bold"))
        if len(members) > 1:
            shown = pairs([(m.metric.partition("[")[2].rstrip("]"), m.value) for m in members])
            console.print(Padding(Text(shown), (0, 0, 0, 4), expand=False))
        meanings = dict.fromkeys(m.meaning for m in members if m.meaning)
        if meanings:
            inner = members[0].metric.partition("[")[2].rstrip("]")
            first = next(iter(meanings)).removeprefix(f"{inner} of ")
            shown = first if len(members) > _EACH else "; ".join(meanings)
            console.print(Padding(Text(shown, style="dim"), (0, 0, 0, 4), expand=False))
    undefined = [line.metric for line in lines if line.value is None]
    if undefined:
        console.print()
        console.print(f"undefined on these rows: {', '.join(undefined)}")


def summary(manifest: "Manifest") -> str:
    """Return what an artefact holds, on one line."""
    return _counts(manifest.counts)


def _title(console: Console, manifest: "Manifest") -> None:
    title = Text(f"{manifest.kind} {manifest.name}", style="bold")
    console.print(Rule(title, align="left", characters="─", style="dim"))


def _made(manifest: "Manifest") -> list[tuple[str, Text | str]]:
    parents = ", ".join(f"{p.kind} {p.name}" for p in manifest.parents)
    made = [("made from", parents)] if parents else []
    files = f"{many(manifest.payload.files, 'files')}, {size(manifest.payload.bytes)}"
    when = (
        f"{manifest.created:%Y-%m-%d %H:%M} UTC, saestore {manifest.versions.get('saestore', '?')}"
    )
    return [*made, ("size", files), ("written", when)]


def _children(console: Console, children: Sequence[Any]) -> None:
    if children:
        console.print()
        console.print(Text("Made from it", style="bold"))
        for child in children:
            console.print(f"  {child.path}")


def _counts(counts: Mapping[str, int]) -> str:
    known = [name for name in COUNTS if counts.get(name)]
    return ", ".join(many(counts[name], name) for name in known or list(counts)[:3])


def _get(settings: Any, *path: str) -> Any:
    for name in path:
        settings = settings.get(name) if isinstance(settings, Mapping) else None
    return settings


def _sources(corpus: Any) -> str:
    sources = _get(corpus, "sources") or []
    return "; ".join(
        f"{_get(s, 'kind')} {_get(s, 'path') or ', '.join(_get(s, 'parts') or [])}".rstrip()
        for s in sources
    )
