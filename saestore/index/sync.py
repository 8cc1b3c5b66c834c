"""Making an index say what the lake says: what is missing is written, what the lake lacks is removed.

Whoever writes a feature's document writes the same one, so a sync goes on where another was killed, and two
at once only share the work. An artefact's document, which makes its features count, is written last.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain

from pymongo import WriteConcern
from pymongo.errors import BulkWriteError, DuplicateKeyError

from saestore.errors import (
    ArtefactNotFoundError,
    DamagedArtefactError,
    FormatVersionError,
    IncompleteArtefactError,
    UnsupportedError,
)
from saestore.features import Analysis, AnnotationLog, Interpretations
from saestore.index import layout
from saestore.index.database import NAME, Database, Document
from saestore.index.documents import Documents, listed_of, of_artefact, of_event
from saestore.lake import Lake, Ref
from saestore.progress import Progress, Task
from saestore_schemas.manifest import Manifest


_PASSES = 3
"""How often a sync looks at a lake that changes meanwhile."""

_GONE = (ArtefactNotFoundError, IncompleteArtefactError)
_UNREADABLE = (DamagedArtefactError, FormatVersionError)

_DUPLICATE = 11_000
"""MongoDB's code for an `_id` that is there."""


@dataclass
class Synced:
    """What a sync did.

    Attributes:
        place: The index.
        lake: The lake.
        artefacts: Artefacts that the index now holds.
        written: Those that were written.
        removed: Those that were removed: gone from the lake, or replaced there.
        features: Features that were written.
        events: Events of annotation logs that were written.
        kept: Features that were there, of the artefacts that were written.
        orphans: Documents of features and events that belonged to nothing, and were removed.
        unreadable: Artefacts that the index cannot hold, and why.
    """

    place: str
    lake: str
    artefacts: int = 0
    written: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    features: int = 0
    events: int = 0
    kept: int = 0
    orphans: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)


def held(lake: Lake) -> tuple[dict[Ref, Manifest], dict[str, str]]:
    """Return the finished artefacts of a lake, and why the others with a manifest cannot be read."""
    found, unreadable = {}, {}
    for ref in lake.refs():
        try:
            found[ref] = lake.manifest(ref)
        except _GONE:  # since they were listed
            continue
        except _UNREADABLE as error:
            unreadable[ref.path] = " ".join(error.message.split())
    for ref in [each for each in found if each.kind == "features"]:
        unreadable |= Interpretations(lake, ref).unreadable
    return {ref: each for ref, each in found.items() if ref.path not in unreadable}, unreadable


def sync(database: Database, lake: Lake, *, progress: Progress) -> Synced:
    """Make an index say what the lake says; what it says already is not touched.

    Args:
        database: The index.
        lake: The lake.
        progress: Where to report.

    Raises:
        UnsupportedError: The database is the index of another lake.
        IndexUnavailableError: MongoDB cannot be reached, or refuses; what was written stays.
    """
    with database.asking():
        claim(database, lake)
        make_indexes(database, filled=True)
        done = Synced(database.place.label, lake.storage.url)
        for _ in range(_PASSES):
            wanted = _pass(database, lake, done, progress)
            if wanted == _wanted(held(lake)[0]):
                break
        _remove_orphans(database, lake, done)
        make_indexes(database)
    return done


def _pass(database: Database, lake: Lake, done: Synced, progress: Progress) -> dict[str, str]:
    """Write what an index has not of the artefacts there are now; return their versions."""
    artefacts, unreadable = held(lake)
    wanted = _wanted(artefacts)
    there = _remove_others(database, wanted, done)
    for ref, manifest in artefacts.items():
        try:
            if not _says(there.get(ref.path), lake, ref, manifest):
                _write(database, lake, ref, manifest, done, progress)
            if ref.kind == "features":
                mirror(database, lake, manifest, done)
        except (*_GONE, *_UNREADABLE) as error:
            if _is_there(lake, ref, manifest):  # or it was removed or made anew meanwhile
                unreadable[ref.path] = " ".join(error.message.split())
    done.unreadable = unreadable
    done.artefacts = len(wanted.keys() - unreadable)
    return wanted


def versions_of(lake: Lake, artefacts: Mapping[Ref, Manifest], collection: str) -> set[str]:
    """Return the versions of which a collection has documents, going by the lake."""
    if collection != layout.FEATURES:
        return {layout.version_of(each) for each in artefacts.values()}
    found = set()
    for ref, manifest in artefacts.items():
        if ref.kind == "features":
            try:
                found.add(listed_of(Analysis.of(lake, ref, manifest)))
            except (*_GONE, *_UNREADABLE):  # a run that cannot be read is told elsewhere
                continue
    return found


def _wanted(artefacts: Mapping[Ref, Manifest]) -> dict[str, str]:
    return {ref.path: layout.version_of(each) for ref, each in artefacts.items()}


def _says(there: Document | None, lake: Lake, ref: Ref, manifest: Manifest) -> bool:
    """Return whether the document of an artefact is of its version, and of an analysis of its runs too."""
    if there is None or ref.kind != "features":
        return there is not None
    return there.get("listed") == listed_of(Analysis.of(lake, ref, manifest))


def _is_there(lake: Lake, ref: Ref, manifest: Manifest) -> bool:
    """Return whether the lake still has an artefact as it was."""
    try:
        return lake.manifest(ref) == manifest
    except (*_GONE, *_UNREADABLE):
        return False


def make_indexes(database: Database, *, filled: bool = False) -> None:
    """Make the indexes that a database has not.

    Args:
        database: Which.
        filled: Leave out those of a collection of features that is empty: made when it is full, they take
            a third of the time.
    """
    for collection, indexes in layout.indexes().items():
        empty = collection == layout.FEATURES and database[collection].find_one() is None
        if not (filled and empty):
            database[collection].create_indexes(indexes)


def claim(database: Database, lake: Lake) -> None:
    """Say of which lake the database is the index.

    Raises:
        UnsupportedError: It is that of another lake, or a later release made it.
    """
    url = lake.storage.full_url
    ours = {"_id": "index", "lake": url, "form": layout.FORM}
    known = database[layout.META].find_one({"_id": "index"})
    if known is not None and known["lake"] != url:
        raise UnsupportedError(
            f"the index at {database.place.label} is of the lake {known['lake']}, not of {url}",
            found=known["lake"],
            expected=url,
            hint=f"give each lake a database with {NAME}; if the lake was moved, "
            "`saestore index rebuild` makes this database its index",
        )
    if known is not None and known.get("form", 0) > layout.FORM:
        raise UnsupportedError(
            f"the index at {database.place.label} was made by a later release",
            found=f"documents of form {known['form']}",
            expected=f"form {layout.FORM}, or an earlier one",
            hint=f"use that release, or give this one a database with {NAME}; `saestore index rebuild` "
            "makes the index again with this release",
        )
    if known != ours:
        _put(database, layout.META, ours)


def _remove_others(
    database: Database, wanted: Mapping[str, str], done: Synced
) -> dict[str, Document]:
    """Remove artefacts that the lake does not have so; return the version and `listed` of those there."""
    there = {}
    for each in database[layout.ARTEFACTS].find({}, projection=["version", "listed"]):
        if wanted.get(each["_id"]) == each["version"]:
            there[each["_id"]] = each
        elif database[layout.ARTEFACTS].delete_one(dict(each)).deleted_count:
            done.removed.append(each["_id"])
    return there


def _write(
    database: Database,
    lake: Lake,
    ref: Ref,
    manifest: Manifest,
    done: Synced,
    progress: Progress,
) -> None:
    if ref.kind != "features":
        _put(database, layout.ARTEFACTS, of_artefact(ref, manifest))
    else:
        documents = Documents(Analysis.of(lake, ref, manifest))
        n = manifest.counts["features"]
        with progress.task(f"index {ref.path}", total=n, unit="features") as task:
            _write_features(database, documents, done, task)
        make_indexes(database)
        document = documents.of_analysis()
        if not _is_there(lake, ref, manifest) or documents.listed != listed_of(documents.analysis):
            return  # some files may have been those of another
        _put(database, layout.ARTEFACTS, document)
    done.written.append(ref.path)


def _write_features(database: Database, documents: Documents, done: Synced, task: Task) -> None:
    """Write features that are not there: the documents of some are made while those before are sent."""
    with ThreadPoolExecutor(1, thread_name_prefix="saestore-index") as sender:
        sent: tuple[range, Future[None]] | None = None
        for features in documents.chunks:
            there = {
                each: database[each].count_documents(layout.of_features(version, features))
                for each, version in documents.versions.items()
            }
            if all(n == len(features) for n in there.values()):
                done.kept += len(features)
                task.advance(len(features))
                continue
            # where a run came or went, pages are there
            paged = there[layout.PAGES] == len(features)
            pages = iter(()) if paged else documents.pages(features)
            lines = documents.lines(features)
            _arrived(sent, done, task)
            sent = features, sender.submit(_send, database, lines, pages)
        _arrived(sent, done, task)


def _arrived(sent: tuple[range, Future[None]] | None, done: Synced, task: Task) -> None:
    """Wait until features were written; raise what went wrong with them."""
    if sent is not None:
        features, writing = sent
        writing.result()
        done.features += len(features)
        task.advance(len(features))


def _send(database: Database, lines: Sequence[Document], pages: Iterable[Document]) -> None:
    first = next(iter(pages), None)
    if first is not None:
        _insert(database, layout.PAGES, chain([first], pages))
    _insert(database, layout.FEATURES, lines)


def mirrored(database: Database, lake: Lake, manifest: Manifest) -> bool:
    """Return whether the index has the events of an analysis's log, as far as it says so itself."""
    log, path = AnnotationLog(lake, manifest), Ref("features", manifest.name).path
    state = {"_id": path, "version": layout.version_of(manifest), "log": log.version}
    logs = database[layout.LOGS]
    if logs.find_one(state) is not None:
        return True
    return logs.find_one({"_id": path}) is None and not log.events().num_rows


def mirror(database: Database, lake: Lake, manifest: Manifest, done: Synced) -> None:
    """Make the index have the events of an analysis's log."""
    log, version = AnnotationLog(lake, manifest), layout.version_of(manifest)
    path = Ref("features", manifest.name).path
    state = {"_id": path, "version": version, "log": log.version}
    if database[layout.LOGS].find_one(state) is not None:
        return
    events, logs = database[layout.ANNOTATIONS], database[layout.LOGS]
    # what is there first: any sync read it in the lake, where events stay
    there = {each["_id"] for each in events.find(layout.of_version(version), projection=["_id"])}
    lines = log.events().to_pylist()
    wanted = {each["_id"]: each for each in (of_event(version, line) for line in lines)}
    fresh = [document for name, document in wanted.items() if name not in there]
    if fresh:
        _insert(database, layout.ANNOTATIONS, fresh)
    gone = events.delete_many({"_id": {"$in": sorted(there - wanted.keys())}})
    done.events += len(fresh)
    done.orphans += gone.deleted_count
    if wanted:
        _put(database, layout.LOGS, {**state, "events": len(wanted)})
    else:
        logs.delete_one({"_id": path})


def _insert(database: Database, collection: str, documents: Iterable[Document]) -> None:
    """Insert documents; those that are there are the same."""
    try:
        database[collection].insert_many(documents, ordered=False)
    except BulkWriteError as error:
        details = error.details or {}
        if details.get("writeConcernErrors") or any(
            each["code"] != _DUPLICATE for each in details["writeErrors"]
        ):
            raise


def _put(database: Database, collection: str, document: Document) -> None:
    """Write a document in place of one with its `_id`; once it is there, all before it is on disk."""
    durable = database[collection].with_options(write_concern=WriteConcern(w=1, j=True))
    try:
        durable.replace_one({"_id": document["_id"]}, document, upsert=True)
    except DuplicateKeyError:  # another sync was first
        durable.replace_one({"_id": document["_id"]}, document)


def _remove_orphans(database: Database, lake: Lake, done: Synced) -> None:
    """Remove features whose artefact the lake does not have now: another sync may be writing one it has."""
    for collection in layout.OF_VERSIONS:
        found = set(layout.versions(database, collection))
        known = versions_of(lake, held(lake)[0], collection) if found else set()
        for version in sorted(found - known):
            gone = database[collection].delete_many(layout.of_version(version))
            done.orphans += gone.deleted_count
    logs = {each["_id"] for each in database[layout.LOGS].find({}, projection=["_id"])}
    here = {ref.path for ref in lake.refs("features")}
    database[layout.LOGS].delete_many({"_id": {"$in": sorted(logs - here)}})
