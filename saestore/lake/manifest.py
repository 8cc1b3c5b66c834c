"""Manifests: begin a run, finish it, open an artefact, check its bytes.

    begin  → the settings of the unfinished run lie in `.progress/run.json`
    finish → files are listed with size and checksum, then the manifest appears, then progress goes

A manifest is written last and atomically, so an artefact either exists whole or is progress that a
rerun resumes.
"""

import hashlib
import importlib.metadata
import json
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import crc32c
import pyarrow as pa
from pydantic import BaseModel, JsonValue, ValidationError

from saestore.errors import (
    ArtefactBusyError,
    ArtefactExistsError,
    DamagedArtefactError,
    FormatVersionError,
    IncompleteArtefactError,
    StorageError,
)
from saestore.fingerprint import differences, fingerprint
from saestore.lake import layout, parts, table_file
from saestore.lake.file_list import FileList
from saestore.lake.lock import is_lock, writing
from saestore.lake.storage import Storage
from saestore_schemas import tables
from saestore_schemas.manifest import FORMAT_VERSION, ArrayInfo, Manifest, Parent, Payload


UNFINISHED = "restore these files, or remove the unfinished artefact and make it again"
"""What to do about damage to something that is not finished."""

_BLOCK = 8 << 20
_NOT_ITS_OWN = (f"{layout.PROGRESS}/", f"{layout.ANNOTATIONS}/")
"""Folders beside an artefact's payload that have manifests of their own, or none."""
_RUN = re.compile(rf"{layout.INTERPRETATIONS}/[^/]+/")
"""Of these each run of `interpret` is one; a run has a table of that name itself."""


@dataclass(frozen=True)
class Run:
    """One run of a verb: what it makes, from which settings and parents."""

    ref: layout.Ref
    settings: dict[str, JsonValue]
    parents: tuple[Parent, ...]

    @classmethod
    def of(cls, ref: layout.Ref, settings: BaseModel, parents: Sequence[Parent] = ()) -> "Run":
        """Return the run that these settings describe."""
        return cls(ref, settings.model_dump(mode="json"), tuple(parents))

    @property
    def fingerprint(self) -> str:
        """Digest of kind, settings and parents' fingerprints."""
        return fingerprint(
            self.ref.kind,
            self.settings,
            [parent.model_dump(mode="json") for parent in self.parents],
        )


def begin(artefact: Storage, run: Run) -> Manifest | None:
    """Start or resume a run; return the manifest if it is finished already.

    Call it while holding the artefact's lock.

    Raises:
        ArtefactExistsError: The name is taken by other settings: finished, or begun and with
            something to resume.
    """
    if artefact.exists(layout.MANIFEST):
        manifest = load(artefact, run.ref)
        if manifest.fingerprint != run.fingerprint:
            raise _exists(run, manifest.settings, manifest.parents)
        _sweep_up(artefact, run.ref.name)
        return manifest
    artefact.remove_temporaries(beside=layout.PARTS)
    if artefact.exists(layout.RUN):
        started = json.loads(artefact.read(layout.RUN))
        if started["fingerprint"] == run.fingerprint:
            return None
        if _has_work(artefact):
            parents = [Parent(**parent) for parent in started["parents"]]
            raise _exists(run, started["settings"], parents, finished=False)
        drop_progress(artefact)  # it failed before it made anything: a mistake keeps no name
    record = {
        "fingerprint": run.fingerprint,
        "settings": run.settings,
        "parents": [parent.model_dump(mode="json") for parent in run.parents],
    }
    artefact.write(layout.RUN, json.dumps(record, indent=1).encode())
    return None


def finish(
    artefact: Storage,
    run: Run,
    *,
    arrays: Mapping[str, ArrayInfo],
    counts: Mapping[str, int],
    facts: Mapping[str, JsonValue],
    checksums: Mapping[str, tuple[int, str]] | None = None,
    measure: Callable[[Manifest], Mapping[str, JsonValue]] | None = None,
) -> Manifest:
    """List the payload, write the manifest, remove the progress.

    Args:
        artefact: The artefact's folder; every file in it outside `.progress` is payload.
        run: The run that made it.
        arrays: Shapes and types of what it holds.
        counts: Counts worth knowing without opening it.
        facts: What the run found out.
        checksums: Size and checksum of files already digested while they were written; they must
            be there, and the others are read once.
        measure: Returns further facts, found by reading the artefact back: all of it is on disk,
            and it is given the manifest as it will be without them.

    Raises:
        DamagedArtefactError: A file of `checksums` is missing or has another size.
        StorageError: The disk is full or read-only.
    """
    manifest = Manifest(
        kind=run.ref.kind,
        name=run.ref.name,
        fingerprint=run.fingerprint,
        settings=run.settings,
        parents=run.parents,
        versions=library_versions(),
        created=datetime.now(UTC),
        arrays=dict(arrays),
        counts=dict(counts),
        facts=dict(facts),
        payload=_listed(artefact, checksums or {}),
    )
    if measure is not None:
        manifest = manifest.model_copy(update={"facts": {**manifest.facts, **measure(manifest)}})
    manifest = manifest.model_copy(update={"digest": digest_of(_text(manifest))})
    artefact.write(layout.MANIFEST, _text(manifest))
    drop_progress(artefact)
    return manifest


def _listed(artefact: Storage, known: Mapping[str, tuple[int, str]]) -> Payload:
    """Write the list of the payload's files; return what stands for it in the manifest.

    Raises:
        DamagedArtefactError: A file whose checksum is known is missing or has another size.
    """
    there = artefact.sizes()
    wrong = [
        line
        for path, (size, _) in known.items()
        if (line := _compared(path, there.get(path), size)) is not None
    ]
    if wrong:
        raise DamagedArtefactError(name=artefact.url, damage=tuple(wrong), hint=UNFINISHED)
    rows = [
        (path, *(known.get(path) or digest_file(artefact, path)))
        for path in there
        if not _beside(path) and path != layout.FILES
    ]
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    schema = tables.FILES.schema()
    arrays = [pa.array(each, type=field.type) for each, field in zip(columns, schema, strict=True)]
    data = table_file.to_bytes(pa.table(arrays, schema=schema))
    artefact.write(layout.FILES, data)
    return Payload(digest=digest_of(data), files=len(rows), bytes=sum(row[1] for row in rows))


def started(artefact: Storage, ref: layout.Ref) -> Run:
    """Return the run that an unfinished artefact is of.

    Raises:
        IncompleteArtefactError: There is no trace of one.
    """
    if not artefact.exists(layout.RUN):
        raise _incomplete(artefact, ref)
    record = json.loads(artefact.read(layout.RUN))
    return Run(ref, record["settings"], tuple(Parent(**parent) for parent in record["parents"]))


def _incomplete(artefact: Storage, ref: layout.Ref) -> IncompleteArtefactError:
    found = parts.states(artefact)
    return IncompleteArtefactError(
        kind=ref.kind,
        name=ref.name,
        missing=parts.described(found) if found else _no_manifest(artefact),
        command=parts.continuation(found, ref) if found else None,
        meanwhile=f"meanwhile look at its newest checkpoint: saestore show {ref.name}@latest"
        if artefact.names(layout.CHECKPOINTS)
        else None,
    )


def _no_manifest(artefact: Storage) -> str:
    listed = artefact.exists(layout.FILES)  # written just before the manifest
    return "its manifest is missing" if listed else "its manifest is not written yet"


def _has_work(artefact: Storage) -> bool:
    """Return whether an unfinished run left anything worth resuming: payload or commits."""
    # Notes lie directly in the progress folder; commits and drafts in folders of their own.
    # An empty file is one that was opened and not written to.
    return any(
        size and (not path.startswith(f"{layout.PROGRESS}/") or path.count("/") > 1)
        for path, size in artefact.sizes().items()
    )


def _sweep_up(artefact: Storage, name: str) -> None:
    """Remove the progress of a run that was killed behind its manifest, if nobody else does."""
    if artefact.exists(layout.RUN):
        with suppress(ArtefactBusyError, StorageError), writing(artefact, name=name):
            drop_progress(artefact)


def drop_progress(artefact: Storage) -> None:
    """Remove what a run noted, its settings last, but not the lock its process holds."""
    settings = layout.RUN.rpartition("/")[2]
    for name in sorted(artefact.names(layout.PROGRESS), key=lambda each: each == settings):
        if not is_lock(name):
            artefact.remove(f"{layout.PROGRESS}/{name}")
    artefact.drop_scratch()


def load(artefact: Storage, ref: layout.Ref) -> Manifest:
    """Return an artefact's manifest.

    Raises:
        IncompleteArtefactError: There is only progress.
        FormatVersionError: Another major version wrote it.
        DamagedArtefactError: It is not a manifest of this artefact.
    """
    if not artefact.exists(layout.MANIFEST):
        raise _incomplete(artefact, ref)
    data = artefact.read(layout.MANIFEST)
    try:
        content: dict[str, Any] = json.loads(data)
        version = content["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise _bad_manifest(ref, f"is not JSON with a format_version ({error})") from error
    if version != FORMAT_VERSION:
        raise FormatVersionError(
            file=artefact.join(layout.MANIFEST), found=version, supported=FORMAT_VERSION
        )
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise _bad_manifest(ref, f"field {where}: {problem['msg']}") from error
    if manifest.kind != ref.kind or manifest.name != ref.name:
        raise DamagedArtefactError(
            name=ref.name,
            damage=(f"{layout.MANIFEST}: belongs to {manifest.kind} {manifest.name!r}",),
            hint="an artefact keeps its name: move the folder back to "
            f"{layout.inside(manifest.kind, manifest.name)}, or remove it if it is a copy",
        )
    run = Run(ref, manifest.settings, manifest.parents)
    if run.fingerprint != manifest.fingerprint:
        raise _bad_manifest(ref, "its settings do not match its fingerprint")
    own = f'"digest": "{manifest.digest}"'.encode()
    if manifest.digest and digest_of(data.replace(own, b'"digest": ""')) != manifest.digest:
        raise _bad_manifest(ref, "its bytes do not match its own digest")
    return manifest


def payload(artefact: Storage, manifest: Manifest) -> FileList:
    """Return size and checksum of each payload file, by path.

    Raises:
        DamagedArtefactError: The listing is missing or not the one the manifest names.
    """
    if not artefact.exists(layout.FILES):
        raise DamagedArtefactError(name=manifest.name, damage=(f"{layout.FILES}: missing",))
    data = artefact.read(layout.FILES)
    if digest_of(data) != manifest.payload.digest:
        raise DamagedArtefactError(
            name=manifest.name, damage=(f"{layout.FILES}: digest differs from the manifest's",)
        )
    return FileList.parse(data)


def damage(
    artefact: Storage,
    manifest: Manifest,
    *,
    quick: bool = False,
    advance: Callable[[int], None] | None = None,
) -> list[str]:
    """Return one line per damaged, missing or foreign file; none when all is well.

    Args:
        artefact: The artefact's folder.
        manifest: Its manifest.
        quick: Compare sizes only.
        advance: Called with the number of bytes checked.
    """
    try:
        expected = payload(artefact, manifest).all()
    except DamagedArtefactError as error:
        return list(error.damage)
    return list(_damage(artefact, expected, quick=quick, advance=advance))


def inventory(artefact: Storage, expected: Mapping[str, tuple[int, str]]) -> dict[str, str]:
    """Return what is wrong with which files, by their sizes: one listing, nothing is read.

    Args:
        artefact: The artefact's folder.
        expected: Size and checksum of each payload file.
    """
    there = artefact.sizes()
    wrong = {}
    for path, (size, _) in expected.items():
        if path not in there:
            wrong[path] = "missing"
        elif there[path] != size:
            wrong[path] = f"{there[path]} bytes, expected {size}"
    ours = {*expected, layout.MANIFEST, layout.FILES}
    for path in there:
        top = path.split("/", 1)[0]
        beside = f"{top}/{layout.MANIFEST}"
        added_later = top != path and beside not in expected and beside in there
        if path not in ours and not added_later and not _beside(path):
            wrong[path] = "foreign file, not in the artefact's file list"
    return wrong


def _beside(path: str) -> bool:
    """Return whether a file below an artefact's folder is none of its own."""
    return path.startswith(_NOT_ITS_OWN) or _RUN.match(path) is not None


def check_sizes(artefact: Storage, manifest: Manifest, paths: Sequence[str]) -> None:
    """Compare the sizes of some payload files: what an ordinary reader does before it reads.

    Raises:
        DamagedArtefactError: A file is missing, unlisted or has another size.
    """
    _check_sizes(artefact, manifest, payload(artefact, manifest), paths)


def _check_sizes(
    artefact: Storage,
    manifest: Manifest,
    expected: Mapping[str, tuple[int, str]],
    paths: Sequence[str],
) -> None:
    found = [
        line
        for path in paths
        if (line := _size_problem(artefact, path, expected.get(path))) is not None
    ]
    if found:
        raise DamagedArtefactError(name=manifest.name, damage=tuple(found))


def read(artefact: Storage, manifest: Manifest, paths: Sequence[str]) -> dict[str, bytes]:
    """Return the bytes of some payload files, small enough to be held whole, once checked.

    Raises:
        DamagedArtefactError: A file is missing, unlisted, or its bytes are not the listed ones.
    """
    expected = payload(artefact, manifest)
    _check_sizes(artefact, manifest, expected, paths)
    files = {path: artefact.read(path) for path in paths}
    wrong = tuple(
        f"{path}: checksum {found}, expected {expected[path][1]}"
        for path, data in files.items()
        if (found := checksum_text(crc32c.crc32c(data))) != expected[path][1]
    )
    if wrong:
        raise DamagedArtefactError(name=manifest.name, damage=wrong)
    return files


def wrong_sizes(artefact: Storage, expected: Mapping[str, tuple[int, str]]) -> list[str]:
    """Return one line per file that is missing or has another size than expected."""
    found = (_size_problem(artefact, path, facts) for path, facts in expected.items())
    return [line for line in found if line is not None]


def check_size(artefact: Storage, name: str, path: str, expected: tuple[int, str] | None) -> None:
    """Compare one file's size with the file list's, as a reader does on first touch.

    Raises:
        DamagedArtefactError: It is missing, unlisted or has another size.
    """
    problem = _size_problem(artefact, path, expected)
    if problem is not None:
        raise DamagedArtefactError(name=name, damage=(problem,))


def _size_problem(artefact: Storage, path: str, expected: tuple[int, str] | None) -> str | None:
    if expected is None:
        return f"{path}: not in the artefact's file list"
    return _compared(path, artefact.size(path), expected[0])


def _compared(path: str, size: int | None, expected: int) -> str | None:
    if size is None:
        return f"{path}: missing"
    return None if size == expected else f"{path}: {size} bytes, expected {expected}"


def _damage(
    artefact: Storage,
    expected: Mapping[str, tuple[int, str]],
    *,
    quick: bool,
    advance: Callable[[int], None] | None,
) -> Iterator[str]:
    wrong = inventory(artefact, expected)
    yield from (f"{path}: {problem}" for path, problem in wrong.items())
    for path, (size, checksum) in expected.items():
        if quick or path in wrong:
            if advance is not None:
                advance(size)
            continue
        line = wrong_checksum(artefact, path, checksum, advance=advance)
        if line is not None:
            yield line


def wrong_checksum(
    artefact: Storage, path: str, checksum: str, *, advance: Callable[[int], None] | None = None
) -> str | None:
    """Return a line about a file whose bytes do not match its checksum, or cannot be read."""
    try:
        kind = checksum.partition(":")[0]
        found = digest_file(artefact, path, kind=kind, advance=advance)[1]
    except OSError as error:
        return f"{path}: cannot be read: {error}"
    return None if found == checksum else f"{path}: checksum {found}, expected {checksum}"


def digest_file(
    artefact: Storage,
    path: str,
    *,
    kind: str = "crc32c",
    advance: Callable[[int], None] | None = None,
) -> tuple[int, str]:
    """Return a file's size and checksum, reading it once.

    Args:
        artefact: The artefact's folder.
        path: The file.
        kind: `crc32c`, or `sha256` for what ends in its own crc32c: with one, the crc32c of the
            whole depends on its length alone.
        advance: Called with the number of bytes read.
    """
    crc, size, sha = 0, 0, hashlib.sha256()
    with artefact.fs.open(artefact.join(path), "rb") as file:
        while block := file.read(_BLOCK):
            size += len(block)
            if kind == "sha256":
                sha.update(block)
            else:
                crc = crc32c.crc32c(block, crc)
            if advance is not None:
                advance(len(block))
    return size, f"sha256:{sha.hexdigest()}" if kind == "sha256" else checksum_text(crc)


def matches(data: bytes, checksum: str) -> bool:
    """Return whether bytes have a checksum of any kind that covers all bytes."""
    return checksum == (digest_of(data) if checksum.startswith("sha256:") else checksum_of(data))


def checksum_text(crc: int) -> str:
    """Return a crc32c as manifests write it."""
    return f"crc32c:{crc:08x}"


def checksum_of(data: bytes) -> str:
    """Return the checksum of some bytes."""
    return checksum_text(crc32c.crc32c(data))


def parent_of(manifest: Manifest) -> Parent:
    """Return the record by which a child names this artefact."""
    return Parent(kind=manifest.kind, name=manifest.name, fingerprint=manifest.fingerprint)


def library_versions() -> dict[str, str]:
    """Return versions of what computes and writes, for manifests."""
    return dict(_installed())


@cache  # reading packages' metadata takes longer than writing a small store
def _installed() -> dict[str, str]:
    names = (
        "saestore", "torch", "transformer-lens", "transformers", "zarr", "numpy", "pyarrow",
        "polars", "duckdb",
    )  # fmt: skip
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _text(manifest: Manifest) -> bytes:
    return manifest.model_dump_json(indent=1).encode() + b"\n"


def digest_of(data: bytes) -> str:
    """Return the sha256 digest of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _exists(
    run: Run, settings: Mapping[str, Any], parents: Sequence[Parent], *, finished: bool = True
) -> ArtefactExistsError:
    lines = differences(settings, run.settings)
    if settings.keys() != run.settings.keys():  # of one command, they are always the same
        gone, come = (
            ", ".join(sorted(one.keys() - other.keys())) or "fewer"
            for one, other in ((settings, run.settings), (run.settings, settings))
        )
        lines = [f"another command made it: it was given {gone}, this one {come}"]
    before = {f"parent {p.kind} {p.name}": p.fingerprint[:12] for p in parents}
    after = {f"parent {p.kind} {p.name}": p.fingerprint[:12] for p in run.parents}
    return ArtefactExistsError(
        kind=run.ref.kind,
        name=run.ref.name,
        differences=tuple(lines + differences(before, after)),
        finished=finished,
    )


def _bad_manifest(ref: layout.Ref, what: str) -> DamagedArtefactError:
    return DamagedArtefactError(name=ref.name, damage=(f"{layout.MANIFEST}: {what}",))
