"""The MongoDB index of an open lake, and features read from it where that can be."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from saestore.api import config
from saestore.errors import ConfigError, IndexUnavailableError
from saestore.lake import Lake


if TYPE_CHECKING:
    from saestore.features import FeaturePage
    from saestore.index import Index

_WAIT_S = 2.0
"""How long a page waits for a server that does not answer."""


@dataclass(frozen=True)
class FoundPage:
    """A feature's page, and where it was read: it is the same everywhere.

    Attributes:
        page: The page.
        source: `index` or `lake`.
        index: The index that was asked; None where none is configured.
        why_not: Why it was not read from the index; empty where it was, or none is configured.
    """

    page: "FeaturePage"
    source: Literal["index", "lake"]
    index: str | None = None
    why_not: str = ""


class Indexing:
    """A lake's index.

    Attributes:
        lake: The lake.
    """

    lake: Lake

    def index(self, *, wait_s: float = 5.0) -> "Index":
        """Return the lake's index at `SAESTORE_MONGO_URI`, in `SAESTORE_MONGO_DB`: `with` it.

        Args:
            wait_s: Seconds until a server that does not answer counts as unreachable.

        Raises:
            ConfigError: No place is configured, or what is configured is malformed.
            MissingExtraError: pymongo is not installed (extra `index`).
        """
        machine = config.machine_settings()
        uri = machine.mongo_uri.get_secret_value() if machine.mongo_uri else ""
        if not uri:
            raise ConfigError(
                field="SAESTORE_MONGO_URI",
                problem="no MongoDB is configured",
                expected="mongodb://[USER:PASSWORD@]HOST[:PORT]/",
                hint="for example: export SAESTORE_MONGO_URI=mongodb://localhost:27017/",
            )
        from saestore.index import Index, Place

        return Index.at(Place(uri, machine.mongo_db), self.lake, wait_s=wait_s)

    def find_feature(self, name: str, feature: int) -> FoundPage:
        """Return a feature's page from the index where one is configured and has it, else from the lake.

        The page is the same; what the lake has is what counts.

        Args:
            name: The analysis, `series/name/analysis`, or `series/name` with only one.
            feature: Which feature.

        Raises:
            ArtefactNotFoundError: There is no such analysis.
            FeatureNotFoundError: The dictionary has no such feature.
            ConfigError: The configured place of the index is malformed.
            DamagedArtefactError: A file of the lake is missing or cut.
        """
        from saestore.features import Analysis

        analysis = Analysis.open(self.lake, name)
        analysis.check(feature)
        if not config.machine_settings().mongo_uri:
            return FoundPage(analysis.feature(feature), "lake")
        with self.index(wait_s=_WAIT_S) as index:
            try:
                page = index.analysis(analysis).feature(feature)
            except IndexUnavailableError as error:
                return FoundPage(analysis.feature(feature), "lake", index.label, error.message)
            return FoundPage(page, "index", index.label)
