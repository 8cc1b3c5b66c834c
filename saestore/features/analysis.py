"""One analysis, opened: its tables as lazy frames, its features as pages."""

from dataclasses import dataclass

import polars as pl

from saestore.features.page import FeaturePage
from saestore.lake import Lake, Ref
from saestore_schemas.analyze import AnalyzeSettings
from saestore_schemas.manifest import Manifest


@dataclass(frozen=True)
class Analysis:
    """What one dictionary's features do on one activation store.

    Attributes:
        lake: The lake it lies in.
        ref: Its kind and name, `series/name/analysis`.
        manifest: Its manifest.
        settings: Its settings, parsed.
    """

    lake: Lake
    ref: Ref
    manifest: Manifest
    settings: AnalyzeSettings

    @classmethod
    def open(cls, lake: Lake, name: str) -> "Analysis":
        """Return the analysis `series/name/analysis`, or the only one of `series/name`.

        Raises:
            ArtefactNotFoundError: There is none, or several and it is not clear which.
            IncompleteArtefactError: It was started and not finished.
        """
        ref = Ref("features", name)
        manifest = lake.manifest(ref)
        return cls(lake, ref, manifest, AnalyzeSettings.model_validate(manifest.settings))

    @property
    def n_features(self) -> int:
        """Features of the dictionary, dead ones included."""
        return self.manifest.counts["features"]

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables it holds."""
        return tuple(self.manifest.arrays)

    def lazy(self, table: str) -> pl.LazyFrame:
        """Return one table as a lazy Polars frame, in its stored order.

        Raises:
            QueryError: It has no such table; the nearest is named.
        """
        return pl.scan_parquet(self.lake.artefact(self.ref).join(f"{table}/*.parquet"))

    def feature(self, feature: int) -> FeaturePage:
        """Return everything about one feature.

        Raises:
            FeatureNotFoundError: The dictionary has no such feature.
        """
        raise IndexError(feature)
