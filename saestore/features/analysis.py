"""One analysis, opened: its tables as lazy frames, its features as pages."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from saestore.errors import FeatureNotFoundError, QueryError, UnsupportedError, nearest
from saestore.features import connect
from saestore.features.annotations import AnnotationLog
from saestore.features.find import analysis_named
from saestore.features.interpretations import Interpretations
from saestore.features.page import FeaturePage, Provenance
from saestore.features.passages import Passages
from saestore.features.pieces import Vocabulary
from saestore.features.stored import Stored
from saestore.features.views import KEEP_FIRINGS, KEEPS_NONE
from saestore.lake import Lake, Ref
from saestore_schemas.analyze import AnalyzeSettings
from saestore_schemas.manifest import Manifest


FIRINGS = "firings_by_feature"
"""The order of firings that every analysis has that keeps them."""
BY_CONTEXT = "firings_by_context"
"""The order of firings that not every analysis has."""

_TOGETHER = 128
"""Pages whose contexts are read together: some ten thousand contexts."""

_FIRINGS = """
SELECT feature, context, position, value FROM firings_by_context
WHERE context IN (SELECT unnest($contexts::UINTEGER[])) ORDER BY context, position, feature
"""


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
        return cls.of(lake, ref, lake.manifest(ref))

    @classmethod
    def of(cls, lake: Lake, ref: Ref, manifest: Manifest) -> "Analysis":
        """Return the analysis that a manifest describes."""
        return cls(lake, ref, manifest, AnalyzeSettings.model_validate(manifest.settings))

    @property
    def n_features(self) -> int:
        """Features of the dictionary, dead ones included."""
        return self.manifest.counts["features"]

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables it holds."""
        return tuple(self.manifest.arrays)

    @property
    def keeps_firings(self) -> bool:
        """Whether every firing is in it: `firings` is not `none`."""
        return FIRINGS in self.tables

    def need_firings(self, purpose: str) -> None:
        """Refuse what cannot be told without every firing.

        Args:
            purpose: What asks for them.

        Raises:
            UnsupportedError: The analysis keeps none.
        """
        if not self.keeps_firings:
            raise UnsupportedError(
                f"{purpose} needs every firing, and {self.ref.name} was {KEEPS_NONE}",
                found=KEEPS_NONE,
                expected="an analysis that keeps them",
                hint=KEEP_FIRINGS,
            )

    def lazy(self, table: str) -> pl.LazyFrame:
        """Return one table as a lazy Polars frame, in its stored order.

        Raises:
            QueryError: It has no such table; the nearest is named.
            UnsupportedError: The table is one of firings, and it keeps none.
        """
        self._have_firings(table)
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

    def rows(self, table: str, features: Sequence[int]) -> pa.Table:
        """Return the lines of some features in a table that is sorted by them, in stored order.

        Only row groups that hold them are read; the last ones are kept.

        Args:
            table: A table of the analysis whose first sort column is `feature`.
            features: Which.

        Raises:
            UnsupportedError: The table is one of firings, and it keeps none.
            DamagedArtefactError: A file is missing or has another size.
        """
        self._have_firings(table)
        return self.stored.readers[table].rows("feature", features)

    def columns(self, table: str, names: Sequence[str]) -> pa.Table:
        """Return some columns of every line of a table, in stored order.

        Raises:
            UnsupportedError: The table is one of firings, and it keeps none.
            DamagedArtefactError: A file is missing, has another size or cannot be read.
        """
        self._have_firings(table)
        return self.stored.readers[table].whole(names)

    def _have_firings(self, table: str) -> None:
        if table in {FIRINGS, BY_CONTEXT}:
            self.need_firings(f"the table {table}")

    def sql(self, sql: str, params: Mapping[str, Any] | None = None) -> pa.Table:
        """Answer one SQL question inside this analysis alone: its views need no keys in joins.

        Raises:
            QueryError: It does not only read, or DuckDB refused it.
        """
        return connect.over(
            self.lake, [self.ref], sql, lambda held: connect.answer(held, sql, params or {})
        )

    def feature(self, feature: int) -> FeaturePage:
        """Return everything about one feature.

        Raises:
            FeatureNotFoundError: The dictionary has no such feature.
            DamagedArtefactError: A file is missing or has another size.
        """
        self.check(feature)
        return self.stored.page(feature)

    def pages(
        self,
        features: Sequence[int],
        *,
        subsamples: Collection[str] | None = None,
        related: bool = True,
    ) -> Iterator[FeaturePage]:
        """Yield everything about some features; much faster than one by one.

        Args:
            features: Which.
            subsamples: Of which subsamples examples are wanted; absent, all.
            related: Whether the tokens and features that they go with are wanted.

        Raises:
            FeatureNotFoundError: The dictionary has no such feature.
            DamagedArtefactError: A file is missing or has another size.
        """
        for feature in features:
            self.check(feature)
        for start in range(0, len(features), _TOGETHER):
            some = features[start : start + _TOGETHER]
            yield from self.stored.pages(some, subsamples, related=related)

    def check(self, feature: int) -> None:
        """Refuse a feature that the dictionary does not have.

        Raises:
            FeatureNotFoundError: It has none of that number.
        """
        if not 0 <= feature < self.n_features:
            raise FeatureNotFoundError(
                dictionary=self.settings.dictionary, feature=feature, n_features=self.n_features
            )

    def statistics(self, feature: int) -> dict[str, Any]:
        """Return a feature's line of `features`.

        Raises:
            FeatureNotFoundError: The dictionary has no such feature.
            DamagedArtefactError: A file is missing or has another size.
        """
        self.check(feature)
        return dict(self.stored.rows("features", feature)[0])

    @property
    def annotations(self) -> AnnotationLog:
        """What people say about its features: the log, to be read and written."""
        return self.stored.annotations

    @property
    def interpretations(self) -> Interpretations:
        """The runs of `interpret` about its features."""
        return self.stored.interpretations

    @property
    def provenance(self) -> Provenance:
        """Where its numbers come from."""
        return self.stored.assembler.provenance

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens."""
        return self.stored.vocabulary

    def passages(self, contexts: Sequence[int]) -> Passages:
        """Return some contexts with everything that fires in them, each as a text of its own.

        Args:
            contexts: Their numbers; they are returned in ascending order, each once.

        Raises:
            QueryError: The analysis has no such context.
            UnsupportedError: It keeps no firings.
            DamagedArtefactError: A file is missing or has another size.
        """
        self.need_firings("what fires in a context")
        n_contexts = self.manifest.counts["contexts"]
        for each in contexts:
            if not 0 <= each < n_contexts:
                raise QueryError(
                    f"{self.ref.name} has no context {each}",
                    found=each,
                    expected=f"0 to {n_contexts - 1}",
                    hint=f"contexts are numbered 0 to {n_contexts - 1}",
                )
        if BY_CONTEXT in self.tables:
            firings = self.stored.readers[BY_CONTEXT].rows("context", contexts)
        else:
            firings = self.sql(_FIRINGS, {"contexts": list(contexts)})
        return self._passages(contexts, firings)

    def strongest_contexts(self, feature: int, n: int) -> Passages:
        """Return the contexts in which a feature is strongest, with its firings there, in their order.

        Raises:
            FeatureNotFoundError: The dictionary has no such feature.
            UnsupportedError: The analysis keeps no firings.
            DamagedArtefactError: A file is missing or has another size.
        """
        self.check(feature)
        self.need_firings("a search through all contexts of a feature")
        firings = self.stored.readers[FIRINGS].rows("feature", [feature])
        context, value = (np.from_dlpack(firings[c].combine_chunks()) for c in ("context", "value"))
        starts = np.flatnonzero(np.diff(context.astype(np.int64), prepend=-1))
        strength = np.abs(value)
        peaks = np.maximum.reduceat(strength, starts) if len(starts) else strength
        order = np.lexsort((context[starts], -peaks.astype(np.float64)))[:n]
        chosen = np.sort(context[starts][order])
        inside = np.flatnonzero(np.isin(context, chosen))
        return self._passages(chosen.tolist(), firings.take(inside))

    def _passages(self, contexts: Sequence[int], firings: pa.Table) -> Passages:
        lines = self.stored.readers["contexts"].rows("context", contexts)
        known = sorted(set(contexts))
        return Passages(
            contexts=lines,
            firings=firings,
            vocabulary=self.vocabulary,
            names=tuple(f"context {each}" for each in known),
            text_of=np.arange(len(known)),
            stored=True,
        )

    @cached_property
    def stored(self) -> Stored:
        """Its tables as they lie in the lake."""
        return Stored(self.lake, self.ref, self.manifest, self.settings)
