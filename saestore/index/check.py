"""Comparing an index with its lake: briefly, or document by document."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import pyarrow as pa

from saestore.errors import DamagedArtefactError, FormatVersionError
from saestore.features import Analysis, AnnotationLog
from saestore.index import layout
from saestore.index.database import Database, Document
from saestore.index.documents import (
    Documents,
    differing,
    listed_of,
    of_artefact,
    of_event,
    schema_of,
    vocabulary_of,
)
from saestore.index.record import content
from saestore.index.sync import held, mirrored, versions_of
from saestore.lake import Lake, Ref
from saestore.progress import Progress
from saestore_schemas.manifest import Manifest


_VERSIONS = ("version", "listed")

State = Literal["indexed", "behind", "partly", "changed", "missing", "gone"]


@dataclass(frozen=True)
class ArtefactState:
    """How an index stands to one artefact.

    Attributes:
        path: The artefact.
        state: `indexed`; `behind`: people said something since, or a run of `interpret` came or went; `partly`: a sync did not finish it; `changed`: the lake has another one of the
            name; `missing`; `gone`: the lake has none.
        features: Features that the lake has, of an analysis; else None.
        indexed: Those that the index holds; else None.
    """

    path: str
    state: State
    features: int | None = None
    indexed: int | None = None


@dataclass(frozen=True)
class Status:
    """How an index stands to its lake.

    Attributes:
        place: The index.
        lake: The lake.
        index_of: The lake that it says it is the index of; None if it is empty.
        artefacts: Every artefact of either.
        orphans: Documents of features that belong to nothing in the lake.
        bytes: Size of the index on disk.
        unreadable: Artefacts that the index cannot hold, and why.
    """

    place: str
    lake: str
    index_of: str | None
    artefacts: tuple[ArtefactState, ...]
    orphans: int
    bytes: int
    unreadable: Mapping[str, str]

    @property
    def current(self) -> bool:
        """Whether the index says what the lake says, as far as can be told without reading all."""
        every = all(each.state == "indexed" for each in self.artefacts)
        return every and not self.orphans and self.index_of == self.lake


def status(database: Database, lake: Lake) -> Status:
    """Return how an index stands to its lake, by counting.

    Raises:
        IndexUnavailableError: MongoDB cannot be reached, or refuses.
    """
    artefacts, unreadable = held(lake)
    with database.asking():
        known = database[layout.META].find_one({"_id": "index"})
        there = _versions_of_artefacts(database)
        states = []
        for ref, manifest in artefacts.items():
            version = layout.version_of(manifest)
            n = manifest.counts["features"] if ref.kind == "features" else None
            known_as = there.get(ref.path)
            if n is None:
                found, state = None, _state(known_as, version, None, None)
            else:
                analysis = Analysis.of(lake, ref, manifest)
                try:
                    found, state = _of_features(database, analysis, known_as, n)
                except (DamagedArtefactError, FormatVersionError) as error:
                    unreadable[ref.path] = " ".join(error.message.split())
                    continue
            states.append(ArtefactState(ref.path, state, n, found))
        paths = {ref.path for ref in artefacts}
        states += [ArtefactState(path, "gone") for path in sorted(there.keys() - paths)]
        orphans = sum(
            database[collection].count_documents(layout.of_version(version))
            for collection, version in _orphans(database, lake, artefacts)
        )
        size = sum(_bytes(database, each) for each in layout.COLLECTIONS)
    return Status(
        place=database.place.label,
        lake=lake.storage.full_url,
        index_of=None if known is None else known["lake"],
        artefacts=tuple(states),
        orphans=orphans,
        bytes=size,
        unreadable=unreadable,
    )


def _of_features(
    database: Database, analysis: Analysis, there: Document | None, n: int
) -> tuple[int, State]:
    """Return how many features of an analysis an index has whole, and how it stands to it."""
    version, listed = layout.version_of(analysis.manifest), listed_of(analysis)
    versions = {layout.FEATURES: listed, layout.PAGES: version}
    if there is not None and there["version"] == version and there.get("listed") != listed:
        versions[layout.FEATURES] = str(there.get("listed"))
        return _least(database, versions), "behind"
    found = _least(database, versions)
    state = _state(there, version, n, found)
    if state == "indexed" and not mirrored(database, analysis.lake, analysis.manifest):
        state = "behind"
    return found, state


def _state(there: Document | None, version: str, n: int | None, found: int | None) -> State:
    if there is not None and there["version"] == version:
        return "indexed" if n == found else "partly"
    if there is not None:
        return "changed"
    return "partly" if found else "missing"


def _versions_of_artefacts(database: Database) -> dict[str, Document]:
    found = database[layout.ARTEFACTS].find({}, projection=["version", "listed"])
    return {each["_id"]: each for each in found}


def _least(database: Database, versions: Mapping[str, str]) -> int:
    """Return how many features are there whole, by the version that each collection has."""
    return min(
        database[each].count_documents(layout.of_version(version))
        for each, version in versions.items()
    )


def _orphans(
    database: Database, lake: Lake, artefacts: Mapping[Ref, Manifest]
) -> Iterator[tuple[str, str]]:
    for collection in layout.OF_VERSIONS:
        known = versions_of(lake, artefacts, collection)
        for version in layout.versions(database, collection):
            if version not in known:
                yield collection, version


def _bytes(database: Database, collection: str) -> int:
    if collection not in database.database.list_collection_names():
        return 0
    found = database.database.command("collStats", collection)
    return int(found["storageSize"] + found["totalIndexSize"])


def verify(database: Database, lake: Lake, *, progress: Progress) -> list[str]:
    """Return a line for each difference between an index and its lake; every document is compared.

    Args:
        database: The index.
        lake: The lake.
        progress: Where to report.

    Raises:
        IndexUnavailableError: MongoDB cannot be reached, or refuses.
    """
    with database.asking():
        return list(_differences(database, lake, progress))


def _differences(database: Database, lake: Lake, progress: Progress) -> Iterator[str]:
    yield from _of_the_whole(database, lake)
    artefacts, unreadable = held(lake)
    for path, why in unreadable.items():
        yield f"{path}: cannot be read in the lake, and so not compared: {why}"
    there = {each["_id"]: each for each in database[layout.ARTEFACTS].find()}
    for path in sorted(there.keys() - {ref.path for ref in artefacts}):
        yield f"{path}: the lake has no such artefact"
    for ref, manifest in artefacts.items():
        found = there.get(ref.path)
        if ref.kind != "features":
            yield from _of_artefact(of_artefact(ref, manifest), found)
            continue
        try:
            documents = Documents(Analysis.of(lake, ref, manifest))
            wanted = documents.of_analysis()
            yield from _of_artefact(wanted, found and _same_analysis(wanted, found))
            if found is not None and all(found.get(x) == wanted[x] for x in _VERSIONS):
                yield from _of_analysis(database, documents, ref, manifest, progress)
        except (DamagedArtefactError, FormatVersionError) as error:
            why = " ".join(error.message.split())
            yield f"{ref.path}: cannot be read in the lake, and so not compared: {why}"
    for collection, version in _orphans(database, lake, artefacts):
        n = database[collection].count_documents(layout.of_version(version))
        yield f"{collection}: {n} documents of version {version}, which the lake has not"


def _of_the_whole(database: Database, lake: Lake) -> Iterator[str]:
    known = database[layout.META].find_one({"_id": "index"})
    if known is None:
        yield f"{layout.META}: it is the index of no lake"
    elif known["lake"] != lake.storage.full_url:
        yield f"{layout.META}: it is the index of {known['lake']}"
    for collection, indexes in layout.indexes().items():
        have = database[collection].index_information().keys()
        for name in sorted(layout.names(indexes) - have):
            yield f"{collection}: index {name} is missing"


def _of_artefact(wanted: Document, found: Document | None) -> Iterator[str]:
    if found is None:
        yield f"{wanted['_id']}: missing"
    elif differs := differing(wanted, found):
        yield f"{wanted['_id']}: {', '.join(differs)} differ from the lake's"


def _of_analysis(
    database: Database, documents: Documents, ref: Ref, manifest: Manifest, progress: Progress
) -> Iterator[str]:
    n = manifest.counts["features"]
    with progress.task(f"verify {ref.path}", total=n, unit="features") as task:
        for features in documents.chunks:
            where = layout.of_features(documents.listed, features)
            found = database[layout.FEATURES].find(where)
            lines = documents.lines(features)
            yield from _compared(lines, found, f"{ref.path}: {layout.FEATURES}")
            where = layout.of_features(documents.version, features)
            found = database[layout.PAGES].find(where)
            same = partial(_same_record, documents.schema)
            pages = documents.pages(features)
            yield from _compared(pages, found, f"{ref.path}: {layout.PAGES}", same)
            task.advance(len(features))
    events = AnnotationLog(documents.analysis.lake, manifest).events().to_pylist()
    wanted = [of_event(documents.version, event) for event in events]
    found = database[layout.ANNOTATIONS].find(layout.of_version(documents.version))
    yield from _compared(wanted, found, f"{ref.path}: {layout.ANNOTATIONS}")


def _same_analysis(wanted: Document, found: Document) -> Document:
    """Return what was found, with schema and vocabulary as wanted if they say the same in other bytes."""
    try:
        alike = {
            "schema": schema_of(found).equals(schema_of(wanted)),
            **dict.fromkeys(_PACKED, vocabulary_of(found).equals(vocabulary_of(wanted))),
        }
    except (OSError, ValueError, KeyError, TypeError):
        return found
    return {**found, **{name: wanted[name] for name, same in alike.items() if same}}


_PACKED = ("vocabulary", "vocabulary_size")


def _same_record(schema: pa.Schema, wanted: Document, found: Document) -> Document:
    """Return the same of a record: other releases of Arrow and zstd may write other bytes."""
    try:
        both = [content(each["size"], each["record"], schema) for each in (wanted, found)]
    except (OSError, ValueError, KeyError, TypeError):
        return found
    alike = both[0] == both[1]
    return {**found, **{name: wanted[name] for name in ("size", "record")}} if alike else found


def _as_found(_: Document, found: Document) -> Document:
    return found


def _compared(
    wanted: Iterable[Document],
    found: Iterable[Document],
    where: str,
    same: Callable[[Document, Document], Document] = _as_found,
) -> Iterator[str]:
    """Yield a line for each document that is missing, another or too many."""
    there = {each["_id"]: each for each in found}
    for document in wanted:
        known = there.pop(document["_id"], None)
        name = document["_id"].partition(":")[2].lstrip("0") or "0"
        if known is None:
            yield f"{where}: {name} is missing"
        elif document != known and (differs := differing(document, same(document, known))):
            yield f"{where}: {name}: {', '.join(differs)} differ from the lake's"
    for name in there:
        yield f"{where}: {name} is not in the lake"
