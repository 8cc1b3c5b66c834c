"""The documents of an artefact and of its features, as the lake says they must be."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

import pyarrow as pa

from saestore.features import Analysis, FeatureTable
from saestore.features.lines import Line
from saestore.features.pieces import Vocabulary
from saestore.features.search import words
from saestore.fingerprint import canonical
from saestore.index import layout
from saestore.index.database import Document
from saestore.index.record import Looks, Records, packed, packed_vocabulary, unpacked_vocabulary
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
        self.listed = listed_of(analysis)

    @property
    def versions(self) -> dict[str, str]:
        """The version that the documents of each collection of features carry."""
        return {layout.FEATURES: self.listed, layout.PAGES: self.version}

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
        size, vocabulary = packed_vocabulary(self.analysis.vocabulary)
        return {
            **of_artefact(self.analysis.ref, self.analysis.manifest),
            "vocabulary": vocabulary,
            "vocabulary_size": size,
            "schema": self.schema.serialize().to_pybytes(),
            "n_layers": self.analysis.stored.assembler.n_layers,
            "listed": self.listed,
        }

    def pages(self, features: range) -> Iterator[Document]:
        """Return the documents of `pages` of some features that follow one another.

        They are compressed one by one, as they are asked for, by any thread.

        Raises:
            DamagedArtefactError: A file is missing or has another size.
        """
        batch = self._records.batch(features, self._records.lines(features))
        return (
            {"_id": layout.feature_id(self.version, feature), "size": size, "record": record}
            for feature, (size, record) in zip(features, packed(batch), strict=True)
        )

    def lines(self, features: range) -> list[Document]:
        """Return the documents of `features` of some features that follow one another.

        Raises:
            DamagedArtefactError: A file is missing or has another size.
        """
        table = self._table
        named, said = table.words.of_features(features), table.explained.words.of_features(features)
        explained = self.analysis.interpretations.lines(features)
        return [
            {
                "_id": layout.feature_id(self.listed, line.feature),
                "version": self.listed,
                "analysis": self.analysis.ref.name,
                "feature": line.feature,
                **line.statistics,
                "top_token": line.top_token,
                "promotes": list(line.promotes),
                "words": sorted({*named[line.feature], *said[line.feature]}),
                "explanation": line.explanation,
                "explanation_score": line.explanation_score,
                "explanations": stored(explained[line.feature]),
            }
            for line in table.lines(features)
        ]

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


def listed_of(analysis: Analysis) -> str:
    """Return the version of the documents of `features` of an analysis: as it and the runs about it are now.

    Runs that cannot be read do not count.
    """
    version = layout.version_of(analysis.manifest)
    return layout.listed_version(version, analysis.interpretations.version)


_NOT_STORED = {
    "feature", "interpretation_id", "seed", "prompt_hash", "request_hash", "explain_examples",
}  # fmt: skip
"""Columns of a run's tables that no page shows; MongoDB has no unsigned numbers of 64 bits for a seed."""


def stored(explained: Mapping[str, Sequence[Line]]) -> Document:
    """Return what the runs say of a feature as its document has it; nothing where they say nothing."""
    return {
        table: [
            {
                name: value.isoformat() if isinstance(value, datetime) else value
                for name, value in line.items()
                if name not in _NOT_STORED
            }
            for line in lines
        ]
        for table, lines in explained.items()
        if lines
    }


def explained_of(document: Document) -> dict[str, list[Line]]:
    """Return the lines of the runs' tables that a feature's document has."""
    return {
        table: [
            {
                **line,
                "created": None
                if line.get("created") is None
                else datetime.fromisoformat(line["created"]),
            }
            for line in lines
        ]
        for table, lines in document["explanations"].items()
    }


def schema_of(analysis: Document) -> pa.Schema:
    """Return the schema of the records of an analysis, from its document."""
    return pa.ipc.read_schema(pa.py_buffer(analysis["schema"]))


def vocabulary_of(analysis: Document) -> pa.Table:
    """Return the tokens of an analysis, from its document."""
    return unpacked_vocabulary(analysis["vocabulary_size"], analysis["vocabulary"])


def looks_of(analysis: Document) -> Looks:
    """Return how the tokens of an analysis look, from its document."""
    return Looks(Vocabulary.of(vocabulary_of(analysis)))


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
