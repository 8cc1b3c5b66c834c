"""One analysis, opened: its tables as lazy frames, its features as pages."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl
import pyarrow as pa

from saestore.errors import FeatureNotFoundError, QueryError, nearest
from saestore.features import connect
from saestore.features.assemble import Assembler
from saestore.features.find import analysis_named
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
        ref = analysis_named(lake, name)
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
        if table not in self.tables:
            close = nearest(table, self.tables)
            there = ", ".join(self.tables)
            raise QueryError(
                f"{self.ref.name} has no table {table!r}",
                found=table,
                expected=there,
                hint=f"did you mean {', '.join(close)}?" if close else f"it has: {there}",
            )
        storage = self.lake.artefact(self.ref)
        folder = f"{storage.url}/{table}/part-*.parquet"
        if storage.local is not None:
            return pl.scan_parquet(folder)
        files = [storage.fs.open(path) for path in sorted(storage.fs.glob(folder))]
        return pl.scan_parquet(files)

    def sql(self, sql: str, params: Mapping[str, Any] | None = None) -> pa.Table:
        """Answer one SQL question inside this analysis alone: its views need no keys in joins.

        Raises:
            QueryError: It does not only read, or DuckDB refused it.
        """
        with connect.connect_to(self.lake, [self.ref], question=sql) as connection:
            return connect.answer(connection, sql, params or {})

    def feature(self, feature: int) -> FeaturePage:
        """Return everything about one feature.

        Raises:
            FeatureNotFoundError: The dictionary has no such feature.
            DamagedArtefactError: A file is missing or has another size.
        """
        if not 0 <= feature < self.n_features:
            raise FeatureNotFoundError(
                dictionary=self.settings.dictionary, feature=feature, n_features=self.n_features
            )
        return self._assembler.page(feature)

    @cached_property
    def _assembler(self) -> Assembler:
        return Assembler(self.lake, self.ref, self.manifest, self.settings)
