"""The files of an annotation log: each is written once, and there when its manifest is.

See `annotations` for what is in them.
"""

import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import final

import pyarrow as pa
from pydantic import ValidationError

from saestore.errors import ArtefactNotFoundError, DamagedArtefactError
from saestore.features.ulid import RANDOM_BITS, milliseconds_of, ulid
from saestore.lake import Lake, Ref, layout, manifest as manifests, table_file
from saestore.lake.storage import TEMPORARY
from saestore_schemas.annotations import ANNOTATIONS, AnnotationBatch, AnnotationLog
from saestore_schemas.manifest import Manifest


_ABANDONED = timedelta(days=1)
"""Whoever writes a file writes its manifest by then, or was killed."""


@final
class LogFiles:
    """The files of one analysis's log."""

    def __init__(self, lake: Lake, manifest: Manifest) -> None:
        """Prepare to read or write; nothing is touched.

        Args:
            lake: The lake.
            manifest: Manifest of the analysis.
        """
        self._manifest = manifest
        self._artefact = lake.artefact(Ref("features", manifest.name))

    def names(self) -> list[str]:
        """Return which files are there, oldest first."""
        return layout.annotation_batches(self._artefact.names(layout.ANNOTATIONS))

    def after(self, n: int) -> tuple[int, int]:
        """Return milliseconds and tail of the first of `n` ULIDs that follow all of the log."""
        latest = max((milliseconds_of(batch) for batch in self.names()), default=0)
        now = max(time.time_ns() // 1_000_000, latest + 1)
        return now, secrets.randbelow((1 << RANDOM_BITS) - n)

    def add(self, table: pa.Table, milliseconds: int) -> None:
        """Write events as one file, whose name is not smaller than their ids.

        Args:
            table: The events.
            milliseconds: Those of a ULID that is not smaller.

        Raises:
            ArtefactNotFoundError: The analysis was removed.
            StorageError: The lake cannot be written.
        """
        self._check_there()
        if not self._artefact.exists(layout.ANNOTATION_LOG):
            self._begin()
        batch = ulid(milliseconds, secrets.randbits(RANDOM_BITS))
        self._put(table, batch)
        try:
            self._check_there()
        except ArtefactNotFoundError:
            self.remove(batch)
            if not self.names():
                self._artefact.remove(layout.ANNOTATIONS)
            raise

    def replace(self, table: pa.Table, batches: list[str]) -> None:
        """Write one file that holds the events of some others, then remove those.

        Raises:
            StorageError: The lake cannot be written.
        """
        self._put(table, ulid(*self.after(1)))
        for batch in batches:
            self.remove(batch)

    def _begin(self) -> None:
        record = AnnotationLog(
            analysis=self._manifest.name,
            fingerprint=self._manifest.fingerprint,
            created=datetime.now(UTC),
        )
        with suppress(FileExistsError):  # written at the same moment: it says the same
            text = record.model_dump_json(indent=1).encode() + b"\n"
            self._artefact.create(layout.ANNOTATION_LOG, text)

    def _check_there(self) -> None:
        if not self._artefact.exists(layout.MANIFEST):
            raise ArtefactNotFoundError(
                kind="analysis",
                name=self._manifest.name,
                looked=self._artefact.url,
                hint="it was removed meanwhile, and its annotations with it",
            )

    def _put(self, table: pa.Table, batch: str) -> None:
        data = table_file.to_bytes(table)
        self._artefact.create(layout.annotation_file(batch), data)
        record = AnnotationBatch(
            rows=table.num_rows, bytes=len(data), checksum=manifests.checksum_of(data)
        )
        text = record.model_dump_json(indent=1).encode() + b"\n"
        self._artefact.create(layout.annotation_manifest(batch), text)

    def remove(self, batch: str) -> None:
        """Remove a file."""
        # the manifest first: without it, the file is not there for anybody
        self._artefact.remove(layout.annotation_manifest(batch))
        self._artefact.remove(layout.annotation_file(batch))

    def sweep(self) -> int:
        """Remove what killed writers left long ago; return how many files that were."""
        names = self._artefact.names(layout.ANNOTATIONS)
        finished = set(layout.annotation_batches(names))
        old = datetime.now(UTC) - _ABANDONED
        removed = 0
        for name in names:
            path = f"{layout.ANNOTATIONS}/{name}"
            orphan = name.endswith(".parquet") and name.removesuffix(".parquet") not in finished
            if orphan or name.startswith(TEMPORARY):
                written = self._artefact.modified(path)
                if written is not None and written < old:
                    self._artefact.remove(path)
                    removed += 1
        return removed

    def load(self, batch: str) -> pa.Table:
        """Return one file's events.

        Raises:
            FileNotFoundError: It was removed.
            DamagedArtefactError: It does not match its manifest.
        """
        found = self._loaded(batch, quick=False)
        if isinstance(found, str):
            if not self._artefact.exists(layout.annotation_manifest(batch)):
                raise FileNotFoundError(batch)
            raise DamagedArtefactError(
                name=self._manifest.name,
                damage=(found,),
                hint="restore this file; or give up what it held: remove it and "
                f"{layout.annotation_manifest(batch)}",
            )
        return found

    def _loaded(self, batch: str, *, quick: bool) -> pa.Table | str:
        """Return one file's events, or what is wrong with it; of `quick` no events.

        Raises:
            FileNotFoundError: It has no manifest.
        """
        about, path = layout.annotation_manifest(batch), layout.annotation_file(batch)
        try:
            record = AnnotationBatch.model_validate_json(self._artefact.read(about))
        except ValidationError as error:
            return f"{about}: is not the manifest of a file of annotations: {_first(error)}"
        size = self._artefact.size(path)
        if size != record.bytes:
            found = "missing" if size is None else f"{size} bytes, expected {record.bytes}"
            return f"{path}: {found}"
        if quick:
            return ANNOTATIONS.schema().empty_table()
        data = self._artefact.read(path)
        checksum = manifests.checksum_of(data)
        if checksum != record.checksum:
            return f"{path}: checksum {checksum}, expected {record.checksum}"
        table = table_file.from_bytes(data)
        if table.num_rows != record.rows:
            return f"{path}: {table.num_rows} events, expected {record.rows}"
        return table

    def damage(self, *, quick: bool) -> Iterator[str]:
        """Yield one line per damaged, missing or foreign file.

        Args:
            quick: Compare sizes only.
        """
        names = self._artefact.names(layout.ANNOTATIONS)
        batches = layout.annotation_batches(names)
        if batches:
            yield from self._log_damage()
        for batch in batches:
            try:
                found = self._loaded(batch, quick=quick)
            except FileNotFoundError:
                continue  # compacted meanwhile
            if isinstance(found, str) and self._artefact.exists(layout.annotation_manifest(batch)):
                yield found
        ours = {f"{batch}.json" for batch in batches} | {layout.MANIFEST}
        for name in names:
            if (
                name not in ours
                and not name.endswith(".parquet")
                and not name.startswith(TEMPORARY)
            ):
                yield f"{layout.ANNOTATIONS}/{name}: foreign file, not of the log"

    def _log_damage(self) -> Iterator[str]:
        path = layout.ANNOTATION_LOG
        if not self._artefact.exists(path):
            yield f"{path}: missing"
            return
        try:
            record = AnnotationLog.model_validate_json(self._artefact.read(path))
        except ValidationError as error:
            yield f"{path}: is not the manifest of a log of annotations: {_first(error)}"
            return
        about = (record.analysis, record.fingerprint)
        if about != (self._manifest.name, self._manifest.fingerprint):
            yield (
                f"{path}: is about {record.analysis} with fingerprint {record.fingerprint[:12]}, not "
                f"{self._manifest.name} with {self._manifest.fingerprint[:12]}"
            )


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    return f"{'.'.join(str(step) for step in problem['loc'])}: {problem['msg']}"
