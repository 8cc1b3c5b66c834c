"""The verb: an analysis and an endpoint in, explanations and scores out.

Every answer is kept in the cassette as it comes, so a run that stops, for whatever reason, asks nothing twice
when it goes on. Tables are made at the end, from answers alone: the same in whatever order they came.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import JsonValue

from saestore.features import Analysis
from saestore.features.interpretation import Interpretation
from saestore.interpret.client import Asker, open_asker
from saestore.interpret.panel import Case, Panel
from saestore.interpret.places import Material
from saestore.interpret.selection import select
from saestore.lake import Lake, Ref, Storage, layout, manifest as manifests, table_file
from saestore.lake.lock import writing
from saestore.lake.manifest import Run
from saestore.progress import Progress, Silent, Task
from saestore_schemas.interpret import InterpretSettings
from saestore_schemas.interpretation_tables import INTERPRETATION_SCORES, INTERPRETATIONS, TABLES
from saestore_schemas.manifest import ArrayInfo


TOGETHER = 16
"""Features whose contexts are read together."""
_GROUP_ROWS = 8192
"""Rows of a table that are read together: a page wants those of one feature."""
_SILENT = Silent()


def resolved(settings: InterpretSettings, lake: Lake) -> tuple[InterpretSettings, Analysis]:
    """Return settings that name their analysis, and the analysis.

    Raises:
        ArtefactNotFoundError: There is none, or several and none is named.
        IncompleteArtefactError: It was started and not finished.
    """
    name = (
        settings.features
        if settings.analysis is None
        else f"{settings.features}/{settings.analysis}"
    )
    analysis = Analysis.open(lake, name)
    own = analysis.ref.name.rpartition("/")[2]
    return settings.model_copy(update={"analysis": own}), analysis


def ref_of(settings: InterpretSettings) -> Ref:
    """Return where a run with resolved settings lies."""
    return Ref("interpretation", f"{settings.features}/{settings.analysis}/{settings.name}")


def run(
    settings: InterpretSettings,
    lake: Lake,
    *,
    progress: Progress = _SILENT,
    replay: str | None = None,
    cassettes: Sequence[str] = (),
    overwrite: bool = False,
) -> Interpretation:
    """Explain and score features; a finished run is returned as it is, an unfinished one goes on.

    Args:
        settings: Which features, who is asked, how.
        lake: Where the analysis lies and the run is written.
        progress: Where to report.
        replay: A cassette that alone answers: nobody is asked.
        cassettes: Others that answer before the endpoint is asked.
        overwrite: Replace a run of that name with other settings. What it was answered is kept in the
            cassette and used again.

    Raises:
        ArtefactNotFoundError: There is no such analysis.
        ArtefactExistsError: The name is taken by a run with other settings.
        ConfigError: Nothing is selected, or there is no key.
        UnsupportedError: The analysis keeps no firings, or lacks what an explainer shows.
        EndpointError: The endpoint cannot be reached, or refuses.
        BudgetError: The budget is used up; what was answered stays.
        ReplayError: The cassette that is replayed lacks an answer.
    """
    settings, analysis = resolved(settings, lake)
    ref = ref_of(settings)
    work = Run.of(ref, settings, [manifests.parent_of(analysis.manifest)])
    artefact = lake.artefact(ref)
    if artefact.exists(layout.MANIFEST) and not (overwrite and _other(artefact, work)):
        manifests.begin(artefact, work)  # same settings, or an error
        progress.note(f"interpretation {ref.name}: finished already")
        return Interpretation.open(lake, ref)
    panel = Panel.of(settings)
    material = Material(analysis, seed=settings.seed)
    with writing(artefact, name=ref.name):
        if overwrite and _other(artefact, work):
            _clear(artefact)
        if manifests.begin(artefact, work) is None:
            features = _selected(settings, analysis, artefact)
            # what cannot be shown is said before anybody is asked
            next(panel.cases(material, features[:1]))
            opened = open_asker(
                settings,
                artefact,
                name=ref.name,
                replay=replay,
                cassettes=cassettes,
                note=progress.note,
            )
            found, facts = asyncio.run(_asked(panel, material, features, opened, progress))
            _finish(artefact, work, found, facts)
    return Interpretation.open(lake, ref)


def _other(artefact: Storage, work: Run) -> bool:
    """Return whether a run of the name was made, or begun, with other settings."""
    if artefact.exists(layout.MANIFEST):
        return manifests.load(artefact, work.ref).fingerprint != work.fingerprint
    begun = artefact.exists(layout.RUN)
    return begun and manifests.started(artefact, work.ref).fingerprint != work.fingerprint


def _clear(artefact: Storage) -> None:
    """Remove a run but for its answers, the manifest first: without it nobody takes it for finished."""
    artefact.remove(layout.MANIFEST)
    for path in artefact.files():
        if path != layout.CASSETTE and not path.startswith(f"{layout.PROGRESS}/"):
            artefact.remove(path)
    manifests.drop_progress(artefact)


def _selected(settings: InterpretSettings, analysis: Analysis, artefact: Storage) -> list[int]:
    """Return the features of a run: those it began with, if it goes on."""
    if artefact.exists(layout.SELECTION_SO_FAR):
        known = table_file.from_bytes(artefact.read(layout.SELECTION_SO_FAR))
        return [int(each or 0) for each in known["feature"].to_pylist()]
    found = select(analysis, settings.select, seed=settings.seed)
    column = pa.array(found, type=pa.uint32())
    artefact.write(layout.SELECTION_SO_FAR, table_file.to_bytes(pa.table({"feature": column})))
    return found


async def _asked(
    panel: Panel,
    material: Material,
    features: Sequence[int],
    opened: AbstractAsyncContextManager[Asker],
    progress: Progress,
) -> tuple[Mapping[str, pa.Table], dict[str, JsonValue]]:
    """Return the tables, and what it took to make them."""
    found: dict[int, dict[str, pa.Table]] = {}
    async with opened as asker:
        with progress.task("interpret", total=len(features), unit="features") as task:
            await _all(panel, material, features, _Noted(found, task, asker))
        asker.seal()
        totals = asker.ledger.totals()
    tables = {
        table.name: pa.concat_tables(
            [table.schema().empty_table(), *(found[each][table.name] for each in sorted(found))]
        ).combine_chunks()
        for table in TABLES
    }
    endpoint = panel.settings.endpoint
    return tables, {"model": endpoint.model, "base_url": endpoint.base_url, **totals}


@dataclass(frozen=True)
class _Noted:
    """Takes what was found out about each feature."""

    found: dict[int, dict[str, pa.Table]]
    task: Task
    asker: Asker

    async def find(self, panel: Panel, case: Case) -> None:
        lines = await panel.interpret(case, self.asker)
        self.found[case.feature] = {table.name: lines.table(table) for table in TABLES}
        ledger = self.asker.ledger
        told: dict[str, int | float] = {"requests": ledger.requests, "tokens": ledger.tokens}
        if ledger.money:
            told["money"] = round(ledger.money, 4)
        self.task.advance(1, **told)


async def _all(panel: Panel, material: Material, features: Sequence[int], noted: _Noted) -> None:
    """Find out about all features, so many at once that the endpoint is kept busy.

    The first error ends it; the asker then lets requests that are on their way come to their end.
    """
    begun = asyncio.Semaphore(2 * panel.settings.concurrency)
    tasks: set[asyncio.Task[None]] = set()

    async def one(case: Case) -> None:
        try:
            await noted.find(panel, case)
        finally:
            begun.release()

    try:
        async for case in _cases(panel, material, features):
            await begun.acquire()
            _raise_first(tasks)
            tasks = {task for task in tasks if not task.done()}
            tasks.add(asyncio.create_task(one(case)))
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _raise_first(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        if task.done():
            task.result()


async def _cases(panel: Panel, material: Material, features: Sequence[int]) -> AsyncIterator[Case]:
    """Yield what is shown of each feature; the next ones are read meanwhile."""

    def read(first: int) -> list[Case]:
        return list(panel.cases(material, features[first : first + TOGETHER]))

    following = asyncio.create_task(asyncio.to_thread(read, 0))
    try:
        for first in range(TOGETHER, len(features) + TOGETHER, TOGETHER):
            cases = await following
            if first < len(features):
                following = asyncio.create_task(asyncio.to_thread(read, first))
            for case in cases:
                yield case
    finally:
        following.cancel()


def _finish(
    artefact: Storage,
    work: Run,
    found: Mapping[str, pa.Table],
    facts: Mapping[str, JsonValue],
) -> None:
    """Write the tables, then the manifest."""
    artefact.write(layout.SELECTION, artefact.read(layout.SELECTION_SO_FAR))
    for name, table in found.items():
        data = table_file.to_bytes(table, group_rows=_GROUP_ROWS)
        artefact.write(layout.part_file(name, 0), data)
    explained, scored = found[INTERPRETATIONS.name], found[INTERPRETATION_SCORES.name]
    features = pc.count_distinct(explained["feature"]).as_py()
    manifests.finish(
        artefact,
        work,
        arrays={name: ArrayInfo(shape=table.shape, dtype="table") for name, table in found.items()},
        counts={
            "features": features,
            "explanations": explained.num_rows - explained["text"].null_count,
            "scores": scored.num_rows - scored["score"].null_count,
            "requests": int(str(facts["requests"])),
        },
        facts=facts,
    )
