"""The runs of `interpret` about one analysis: explanations of its features, and their scores.

    <analysis>/interpretations/RUN/    an artefact of its own, which exists when its manifest does

Runs come and go beside an analysis that does not change, so each question looks at their manifests; tables
of a run that is still the same one are read once. A run that cannot be read, because files are damaged or of
another format, takes nothing away from the analysis: it is left out, and said.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import RLock
from typing import Any, TypeVar, final

import polars as pl
import pyarrow as pa

from saestore.errors import (
    ArtefactNotFoundError,
    DamagedArtefactError,
    FormatVersionError,
    IncompleteArtefactError,
)
from saestore.features.explanations import DIGITS
from saestore.features.read import TableReader
from saestore.fingerprint import fingerprint
from saestore.lake import Lake, Ref, layout
from saestore_schemas.interpretation_tables import INTERPRETATION_SCORES, INTERPRETATIONS
from saestore_schemas.manifest import Manifest
from saestore_schemas.table import Table


T = TypeVar("T")
Line = Mapping[str, Any]

_ATTEMPTS = 3
"""How often runs are read that are removed meanwhile."""


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        ref: Its kind and name, `series/name/analysis/run`.
        manifest: Its manifest.
        data: The bytes of that: as long as they are the same, so is the run.
        readers: Readers of its tables that are read by feature.
    """

    ref: Ref
    manifest: Manifest
    data: bytes
    readers: Mapping[str, TableReader]

    @property
    def name(self) -> str:
        """Its last name."""
        return self.ref.name.rpartition("/")[2]

    def lines(self, table: Table, features: Sequence[int]) -> pa.Table:
        """Return the lines of some features in one of its tables; none where it has no such table.

        Raises:
            DamagedArtefactError: A file is missing or has another size.
            FormatVersionError: Another major version of the table wrote it.
        """
        if table.name not in self.readers:
            return table.schema().empty_table()
        return self.readers[table.name].rows("feature", features)

    def columns(self, table: Table, names: Sequence[str]) -> pl.DataFrame:
        """Return some columns of all lines of one of its tables; none where it has no such table.

        Raises:
            DamagedArtefactError: A file is missing or has another size.
            FormatVersionError: Another major version of the table wrote it.
        """
        if table.name not in self.readers:
            found = table.schema().empty_table().select(list(names))
        else:
            found = self.readers[table.name].whole(names)
        frame = pl.from_arrow(found)
        assert isinstance(frame, pl.DataFrame)  # noqa: S101 - of a table
        return frame


@final
class Interpretations:
    """The finished runs about one analysis. Safe to share between threads."""

    def __init__(self, lake: Lake, analysis: Ref) -> None:
        """Prepare to read; nothing is touched.

        Args:
            lake: The lake.
            analysis: The analysis.
        """
        self._lake = lake
        self._analysis = analysis
        self._lock = RLock()
        self._known: dict[str, Run] = {}

    @property
    def refs(self) -> list[Ref]:
        """The finished runs, by name."""
        return refs_of(self._lake, self._analysis)

    @property
    def runs(self) -> tuple[Run, ...]:
        """The finished runs that can be read, the newest last."""
        return self._looked()[0]

    @property
    def unreadable(self) -> dict[str, str]:
        """The runs that cannot be read, by path, and why."""
        return self._looked()[1]

    def _looked(self) -> tuple[tuple[Run, ...], dict[str, str]]:
        found, unreadable = [], {}
        with self._lock:
            for ref in self.refs:
                try:
                    run = self._run(ref)
                except (DamagedArtefactError, FormatVersionError) as error:
                    if not self._lake.artefact(ref).exists(layout.MANIFEST):
                        continue  # it is being removed
                    unreadable[ref.path] = " ".join(error.message.split())
                    continue
                if run is not None:
                    found.append(run)
            self._known = {run.ref.name: run for run in found}
        return tuple(sorted(found, key=lambda run: (run.manifest.created, run.name))), unreadable

    @property
    def version(self) -> str:
        """What changes with the runs: a digest of which can be read, empty without any."""
        return version_of(run.manifest for run in self.runs)

    def lines(self, features: Sequence[int]) -> dict[int, dict[str, list[Line]]]:
        """Return the lines of some features in the tables of all runs, each with its `run`.

        Args:
            features: Which.

        Returns:
            Feature to table to lines, those of the newest run last.

        Raises:
            DamagedArtefactError: What a file holds cannot be decoded.
        """
        return self._steadily(lambda runs: _lines(runs, features))

    def _steadily(self, read: Callable[[tuple[Run, ...]], T]) -> T:
        """Return what is read of all runs; once more if one was removed or damaged meanwhile.

        Raises:
            DamagedArtefactError: What a file of a run holds cannot be decoded.
        """
        for _ in range(_ATTEMPTS):
            runs = self.runs
            try:
                return read(runs)
            except DamagedArtefactError:
                with self._lock:
                    self._known = {}  # files may have changed since they were looked at
                if [(run.name, run.data) for run in self.runs] == [
                    (run.name, run.data) for run in runs
                ]:
                    raise
        return read(self.runs)

    def ranked(self) -> pl.DataFrame:
        """Return every explanation with a text: feature, text, score; the best of each feature first.

        `score` is the mean of the explanation's defined scores, null without any; rows go by feature, and
        then as explanations are ranked: larger scores first, undefined ones last, equal ones by the newest
        run and then by explainer.

        Raises:
            DamagedArtefactError: What a file holds cannot be decoded.
        """
        return self._steadily(_ranked)

    def _run(self, ref: Ref) -> Run | None:
        """Return a run; None where it was removed since it was listed."""
        artefact = self._lake.artefact(ref)
        try:
            known, data = self._known.get(ref.name), artefact.read(layout.MANIFEST)
            if known is not None and known.data == data:
                return known
            manifest = self._lake.manifest(ref)
        except (FileNotFoundError, ArtefactNotFoundError, IncompleteArtefactError):
            return None
        readers = {
            name: TableReader(artefact, manifest, name)
            for name in (INTERPRETATIONS.name, INTERPRETATION_SCORES.name)
            if name in manifest.arrays
        }
        for reader in readers.values():
            reader.check()
        return Run(ref, manifest, data, readers)


_EMPTY = pl.DataFrame(
    schema={
        "feature": pl.UInt32,
        "explainer": pl.String,
        "text": pl.String,
        "score": pl.Float64,
        "age": pl.UInt32,
    }
)


def _lines(runs: Iterable[Run], features: Sequence[int]) -> dict[int, dict[str, list[Line]]]:
    tables = (INTERPRETATIONS, INTERPRETATION_SCORES)
    found: dict[int, dict[str, list[Line]]] = {
        feature: {table.name: [] for table in tables} for feature in features
    }
    for run in runs:
        for table in tables:
            for line in run.lines(table, features).to_pylist():
                found[line["feature"]][table.name].append({"run": run.name, **line})
    return found


def _ranked(runs: Sequence[Run]) -> pl.DataFrame:
    keys = ["feature", "explainer"]
    frames = [_EMPTY]
    for age, run in enumerate(reversed(runs)):
        said = run.columns(INTERPRETATIONS, [*keys, "text"]).drop_nulls("text")
        scores = run.columns(INTERPRETATION_SCORES, [*keys, "score"])
        means = scores.group_by(keys).agg(pl.col("score").mean().round(DIGITS))
        joined = said.join(means, on=keys, how="left", validate="1:1")
        frames.append(joined.with_columns(age=pl.lit(age, pl.UInt32)).select(_EMPTY.columns))
    order = ["feature", "score", "age", "explainer"]
    down = [name == "score" for name in order]
    ranked = pl.concat(frames).sort(order, descending=down, nulls_last=True)
    return ranked.select("feature", "text", "score")


def refs_of(lake: Lake, analysis: Ref) -> list[Ref]:
    """Return the finished runs about an analysis, by name."""
    names = lake.storage.names(layout.inside("interpretation", analysis.name))
    refs = [Ref("interpretation", f"{analysis.name}/{name}") for name in names]
    return [ref for ref in refs if lake.artefact(ref).exists(layout.MANIFEST)]


def version_of(manifests: Iterable[Manifest]) -> str:
    """Return a digest of which runs there are; empty without any."""
    made = [(each.name, each.fingerprint, each.created.isoformat()) for each in manifests]
    return fingerprint(made)[:16] if made else ""
