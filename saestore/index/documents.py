"""The documents of an artefact and of its features, as the lake says they must be."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import pyarrow as pa

from saestore.features import Analysis, FeatureTable
from saestore.features.lines import Line
from saestore.features.search import words
from saestore.fingerprint import canonical
from saestore.index import layout
from saestore.index.database import Document
from saestore.index.record import Records, packed
from saestore.lake import Ref
from saestore.lake.layout import inside
from saestore_schemas.manifest import Manifest


def of_artefact(ref: Ref, manifest: Manifest) -> Document:
    """Return the document of an artefact: what its manifest says."""
    return {
        "_id": ref.path,
        "kind": ref.kind,
        "name": ref.name,
        "version": layout.version_of(manifest),
        "fingerprint": manifest.fingerprint,
        "created": manifest.created.isoformat(),
        "files": manifest.payload.files,
        "bytes": manifest.payload.bytes,
        "counts": dict(manifest.counts),
        "parents": [inside(each.kind, each.name) for each in manifest.parents],
        "settings": canonical(manifest.settings),
        "facts": canonical(manifest.facts),
    }


class Documents:
    """The documents of one analysis; what is read of it is kept."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.version = layout.version_of(analysis.manifest)

    @property
    def chunks(self) -> Iterator[range]:
        """Features whose documents are made at once."""
        n = self.analysis.n_features
        for start in range(0, n, layout.TOGETHER):
            yield range(start, min(start + layout.TOGETHER, n))

    def of_analysis(self) -> Document:
        """Return its document: that of the artefact, with what its features' records need.

        Raises:
            DamagedArtefactError: A file is missing or has another size.
        """
        return {
            **of_artefact(self.analysis.ref, self.analysis.manifest),
            "schema": self.schema.serialize().to_pybytes(),
            "n_layers": self.analysis.stored.assembler.n_layers,
        }

    def of_features(self, features: range) -> tuple[list[Document], Iterator[Document]]:
        """Return the documents of some features that follow one another: `features`, and `pages`.

        Those of `pages` are compressed one by one, as they are asked for, by any thread.

        Raises:
            DamagedArtefactError: A file is missing or has another size.
        """
        batch = self._records.batch(features, self._records.lines(features))
        pages = (
            {"_id": layout.feature_id(self.version, feature), "size": size, "record": record}
            for feature, (size, record) in zip(features, packed(batch), strict=True)
        )
        named = self._table.words.of_features(features)
        lines = [
            {
                "_id": layout.feature_id(self.version, line.feature),
                "version": self.version,
                "analysis": self.analysis.ref.name,
                "feature": line.feature,
                **line.statistics,
                "top_token": line.top_token,
                "promotes": list(line.promotes),
                "words": named[line.feature],
            }
            for line in self._table.lines(features)
        ]
        return lines, pages

    @cached_property
    def _records(self) -> Records:
        return Records(self.analysis.stored)

    @cached_property
    def _table(self) -> FeatureTable:
        return FeatureTable(self.analysis)

    @cached_property
    def schema(self) -> pa.Schema:
        """The schema of its features' records."""
        nothing = range(0)
        return self._records.batch(nothing, self._records.lines(nothing)).schema


def schema_of(analysis: Document) -> pa.Schema:
    """Return the schema of the records of an analysis, from its document."""
    return pa.ipc.read_schema(pa.py_buffer(analysis["schema"]))


def of_event(version: str, line: Line) -> Document:
    """Return the document of an event of a log.

    Args:
        version: Of the analysis.
        line: Its line of `annotations`.
    """
    return {
        **line,
        "_id": layout.event_id(version, line["event_id"]),
        "version": version,
        "created": line["created"].isoformat(),
        "words": list(words(line["value"])),
    }


def differing(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return the fields in which two documents differ."""
    return sorted(
        name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)
    )
