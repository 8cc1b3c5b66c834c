"""The tables of one analysis as they lie in the lake: its features' lines, its contexts, its tokens."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import pyarrow as pa

from saestore.features import arrow
from saestore.features.annotations import AnnotationLog
from saestore.features.assemble import Assembler
from saestore.features.interpretations import Interpretations
from saestore.features.lines import Line, of_subsamples
from saestore.features.page import FeaturePage
from saestore.features.pieces import Columns, Shown, Vocabulary
from saestore.features.read import TableReader
from saestore.features.stretches import Stretches
from saestore.lake import Lake, Ref, layout
from saestore_schemas.analyze import AnalyzeSettings
from saestore_schemas.manifest import Manifest


_KEPT_MIB = {"contexts": 128, "features": 64, "logit_stats": 16}
"""Row groups kept decoded of tables of which pages read little, from anywhere. Some 75 000 contexts of 128
tokens, and all of 131 072 features."""
_TOKENS = 1 << 24
"""Tokens of contexts kept cut: 64 MiB, 131 072 contexts of 128."""


@dataclass(frozen=True)
class Stored:
    """An analysis's tables, each opened when it is first read; what is read once is kept.

    Attributes:
        lake: The lake.
        ref: The analysis.
        manifest: Its manifest.
        settings: Its settings.
    """

    lake: Lake
    ref: Ref
    manifest: Manifest
    settings: AnalyzeSettings

    @cached_property
    def readers(self) -> dict[str, TableReader]:
        """A reader of each table."""
        artefact = self.lake.artefact(self.ref)
        return {
            name: TableReader(artefact, self.manifest, name, kept_mib=_KEPT_MIB.get(name, 0))
            for name in self.manifest.arrays
        }

    @cached_property
    def annotations(self) -> AnnotationLog:
        """What people say about its features."""
        return AnnotationLog(self.lake, self.manifest)

    @cached_property
    def interpretations(self) -> Interpretations:
        """The runs that explain its features."""
        return Interpretations(self.lake, self.ref)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The tokens."""
        return Vocabulary.of(self.readers["vocabulary"].whole(Vocabulary.COLUMNS))

    @cached_property
    def stretches(self) -> Stretches:
        """What examples show of their contexts."""
        return Stretches(self.readers["contexts"], self.vocabulary, room=_TOKENS)

    @cached_property
    def assembler(self) -> Assembler:
        """What makes pages of its lines."""
        # features of the last layer are the last ones
        (last,) = self.rows("features", self.manifest.counts["features"] - 1)
        return Assembler(self.ref, self.manifest, self.settings, int(last["layer"]) + 1)

    def rows(self, table: str, feature: int) -> Sequence[Line]:
        """Return a feature's lines of a table, none where the analysis has no such table."""
        if table not in self.readers:
            return []
        return self.readers[table].rows("feature", [feature]).to_pylist()

    def columns(self, table: str, feature: int) -> Columns:
        """Return the same by columns, none where the analysis has no such table."""
        if table not in self.readers:
            return {}
        return _columns(self.readers[table].rows("feature", [feature]))

    def page(self, feature: int) -> FeaturePage:
        """Return the page of a feature that exists."""
        return next(self.pages([feature]))

    def pages(
        self,
        features: Sequence[int],
        subsamples: Collection[str] | None = None,
        *,
        related: bool = True,
    ) -> Iterator[FeaturePage]:
        """Yield the pages of features that exist; the contexts they show are read once for all.

        Args:
            features: Which.
            subsamples: Of which subsamples examples are wanted; absent, all.
            related: Whether the tokens and features that it goes with are wanted.
        """
        said = self.annotations.lines(features)
        explained, unreadable = (
            self.interpretations.lines(features),
            self.interpretations.unreadable,
        )
        lines = [
            _Lines(self, feature, {layout.ANNOTATIONS: said[feature], **explained[feature]})
            for feature in features
        ]
        shown = (each.examples(subsamples)["context"].tolist() for each in lines)
        self.stretches.read(set(chain.from_iterable(shown)))
        for feature, each in zip(features, lines, strict=True):
            yield self.assembler.page(
                feature, each, subsamples, related=related, unreadable=unreadable
            )


class _Lines:
    """One feature's lines: those of `examples` are read at once, as they say which contexts it shows.

    What people say and what explains it is given: of all features that are shown together, it is of the
    same moment.
    """

    def __init__(self, stored: Stored, feature: int, given: Mapping[str, Sequence[Line]]) -> None:
        self._stored = stored
        self._feature = feature
        self._given = given
        self._examples = stored.readers["examples"].rows("feature", [feature])

    def rows(self, table: str) -> Sequence[Line]:
        known = self._given.get(table)
        return self._stored.rows(table, self._feature) if known is None else known

    def columns(self, table: str) -> Columns:
        return self._stored.columns(table, self._feature)

    def examples(self, subsamples: Collection[str] | None) -> Columns:
        return _columns(of_subsamples(self._examples, subsamples))

    @property
    def vocabulary(self) -> Vocabulary:
        return self._stored.vocabulary

    def shown(self, examples: Columns) -> Shown:
        return self._stored.stretches.shown(examples)

    def piece(self, context: int, position: int) -> str:
        return self._stored.stretches.token(context, position)


def _columns(table: pa.Table) -> Columns:
    return arrow.columns(table.column_names, table.columns)
