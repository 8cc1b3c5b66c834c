"""MongoDB as an index of the lake: it can be dropped and rebuilt, and everything works without it."""

from saestore.index.check import ArtefactState, Status
from saestore.index.database import NAME, URI, Place
from saestore.index.index import Dropped, Index
from saestore.index.read import IndexedAnalysis
from saestore.index.sync import Synced


__all__ = [
    "NAME",
    "URI",
    "ArtefactState",
    "Dropped",
    "Index",
    "IndexedAnalysis",
    "Place",
    "Status",
    "Synced",
]
