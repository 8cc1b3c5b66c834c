"""The index of a lake: what is done with it."""

from dataclasses import dataclass
from types import TracebackType

from saestore.features import Analysis
from saestore.index import check, layout
from saestore.index.check import Status
from saestore.index.database import Database, Place
from saestore.index.read import IndexedAnalysis
from saestore.index.sync import Synced, sync
from saestore.lake import Lake
from saestore.progress import Progress, Silent


@dataclass(frozen=True)
class Dropped:
    """What was dropped.

    Attributes:
        place: The index.
        index_of: The lake that it was the index of; None if it was empty.
        features: Features that it held.
    """

    place: str
    index_of: str | None
    features: int


@dataclass(frozen=True)
class Index:
    """A MongoDB database as the index of a lake; `with` it, or `close` it.

    Nothing is only in it: it can be dropped at any time, and `sync` makes the same one again.

    Attributes:
        database: Where it is.
        lake: Of which lake.
    """

    database: Database
    lake: Lake

    @classmethod
    def at(cls, place: Place, lake: Lake, *, wait_s: float = 5.0) -> "Index":
        """Return the index at a place; nothing is asked of it yet.

        Args:
            place: Where.
            lake: Of which lake.
            wait_s: Seconds until a server that does not answer counts as unreachable.

        Raises:
            ConfigError: The connection string or the name is malformed.
        """
        return cls(Database(place, wait_s=wait_s), lake)

    def __enter__(self) -> "Index":
        """Return it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.database.close()

    @property
    def label(self) -> str:
        """Where it is, without user and password."""
        return self.database.place.label

    def sync(self, *, progress: Progress | None = None) -> Synced:
        """Make it say what the lake says; what it says already is not touched.

        It goes on where one that was killed stopped; several at once share the work.

        Args:
            progress: Where to report.

        Raises:
            UnsupportedError: The database is the index of another lake, or of a later release.
            IndexUnavailableError: MongoDB cannot be reached, or refuses; what was written stays.
        """
        return sync(self.database, self.lake, progress=progress or Silent())

    def status(self) -> Status:
        """Return how it stands to the lake, by counting.

        Raises:
            IndexUnavailableError: MongoDB cannot be reached, or refuses.
        """
        return check.status(self.database, self.lake)

    def verify(self, *, progress: Progress | None = None) -> list[str]:
        """Return a line for each difference between it and the lake; every document is compared.

        Args:
            progress: Where to report.

        Raises:
            IndexUnavailableError: MongoDB cannot be reached, or refuses.
        """
        return check.verify(self.database, self.lake, progress=progress or Silent())

    def drop(self) -> Dropped:
        """Remove it; other collections of the database stay. The lake has everything.

        Raises:
            IndexUnavailableError: MongoDB cannot be reached, or refuses.
        """
        with self.database.asking():
            known = self.database[layout.META].find_one({"_id": "index"})
            n = self.database[layout.FEATURES].estimated_document_count()
            for each in reversed(layout.COLLECTIONS):  # whose index it is, last
                self.database[each].drop()
        return Dropped(self.label, None if known is None else known["lake"], n)

    def rebuild(self, *, progress: Progress | None = None) -> Synced:
        """Drop it, whichever lake it was of, and make it again of this one.

        Args:
            progress: Where to report.

        Raises:
            IndexUnavailableError: MongoDB cannot be reached, or refuses.
        """
        self.drop()
        return self.sync(progress=progress)

    def analysis(self, analysis: Analysis) -> IndexedAnalysis:
        """Return an analysis as the index holds it.

        Raises:
            IndexUnavailableError: It does not hold it as it is in the lake, or cannot be reached.
        """
        return IndexedAnalysis.open(self.database, analysis)
