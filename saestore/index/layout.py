"""What lies where in the database of an index.

    meta        one document: of which lake this is the index
    artefacts   one for each finished artefact: what its manifest says; written last
    features    one for each feature: statistics as fields, words that find it, what runs of `interpret` say
    pages       one for each feature: the record from which its page is built
    annotations one for each event of the analyses' logs
    logs        one for each log: its state when its events were mirrored

An artefact has a version, which goes with its manifest and with the form of the documents. Documents of
features carry it in their `_id`; they are written once and never changed, so that whoever writes one
writes the same one. They count when the artefact's document has the version. Documents of `features` have
a version that goes with the runs of `interpret` too, as these come and go beside an analysis that stays: the
artefact's document has it as `listed`.
"""

from collections.abc import Iterator

from pymongo import ASCENDING, TEXT, IndexModel

from saestore.features.listing import COLUMNS
from saestore.fingerprint import fingerprint
from saestore.index.database import Database, Document
from saestore_schemas.manifest import Manifest


FORM = 4
"""Form of the documents: another one is another version of every artefact."""

TOGETHER = 512
"""Features whose documents are made at once, from a multiple of it. Part of the form: the bytes of a record
depend on it, what it says does not."""

META, ARTEFACTS, FEATURES, PAGES = "meta", "artefacts", "features", "pages"
ANNOTATIONS, LOGS = "annotations", "logs"
COLLECTIONS = (META, ARTEFACTS, FEATURES, PAGES, ANNOTATIONS, LOGS)
"""All that an index consists of."""

OF_FEATURES = (FEATURES, PAGES)
OF_VERSIONS = (*OF_FEATURES, ANNOTATIONS)
"""Collections whose documents carry the version of an analysis."""

_VERSION, _FEATURE = 16, 10
"""Hexadecimal digits of a version, decimal digits of a feature in an `_id`."""


def version_of(manifest: Manifest) -> str:
    """Return the version of an artefact: of what there is, in this form."""
    return fingerprint(FORM, TOGETHER, manifest)[:_VERSION]


def listed_version(version: str, runs: str) -> str:
    """Return the version of the documents of `features`: an analysis's, and that of the runs about it.

    Args:
        version: Of the analysis.
        runs: Of the runs; empty, there are none.
    """
    return fingerprint(version, runs)[:_VERSION] if runs else version


def feature_id(version: str, feature: int) -> str:
    """Return the `_id` of a feature's documents: they lie in order."""
    return f"{version}:{feature:0{_FEATURE}d}"


def event_id(version: str, event: str) -> str:
    """Return the `_id` of an event of a log."""
    return f"{version}:{event}"


def of_features(version: str, features: range) -> Document:
    """Return the condition on `_id` that features meet which follow one another."""
    low, high = (feature_id(version, each) for each in (features.start, features.stop))
    return {"_id": {"$gte": low, "$lt": high}}


def of_version(version: str) -> Document:
    """Return the condition on `_id` that every feature of a version meets."""
    return {"_id": {"$gte": f"{version}:", "$lt": f"{version};"}}  # ; is behind :


def versions(database: Database, collection: str) -> Iterator[str]:
    """Yield the versions of which a collection holds any documents."""
    behind = ""
    while found := database[collection].find_one(
        {"_id": {"$gt": behind}}, projection=["_id"], sort=[("_id", ASCENDING)]
    ):
        version: str = found["_id"].partition(":")[0]
        yield version
        behind = f"{version};"


def indexes() -> dict[str, list[IndexModel]]:
    """Return the indexes of each collection that has any.

    Of `features` one for each statistic, which serves both directions, one of words, and MongoDB's own text
    search over the best explanations; of `annotations` by feature and by word, and a text search over what
    was said.
    """
    sorts = [
        IndexModel([("version", ASCENDING), (column, ASCENDING), ("feature", ASCENDING)])
        for column in COLUMNS
        if column != "feature"
    ]
    whole = IndexModel([("version", ASCENDING), ("feature", ASCENDING)])
    words = IndexModel([("version", ASCENDING), ("words", ASCENDING)])
    said = IndexModel([("version", ASCENDING), ("feature", ASCENDING), ("event_id", ASCENDING)])
    text = IndexModel([("value", TEXT)], default_language="none")
    explained = IndexModel([("explanation", TEXT)], default_language="none")
    return {FEATURES: [whole, *sorts, words, explained], ANNOTATIONS: [said, words, text]}


def names(indexes: list[IndexModel]) -> set[str]:
    """Return the names of indexes."""
    return {str(index.document["name"]) for index in indexes}
