"""Firings that another finished analysis has already: rows it encoded are not encoded again.

So an analysis grows: one of more rows, of another seed or with other subsamples takes what is there and
encodes the rest. The firings must be those that encoding would find, so dictionary, store and torch are the
same, nothing is left out that is wanted now, and values are as exact. Every file is compared with its
checksum first.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from saestore.analyze.pieces import Encoded
from saestore.analyze.scope import Scope
from saestore.analyze.sort import Firings
from saestore.analyze.values import ARROW, stored
from saestore.errors import DamagedArtefactError
from saestore.features.read import TableReader
from saestore.lake import Lake, Ref, checkpoint, manifest as manifests
from saestore.lake.manifest import Run
from saestore_schemas import tables
from saestore_schemas.analyze import AnalyzeSettings
from saestore_schemas.manifest import Manifest


TABLE = tables.firings(ARROW["float32"], "context").name


@dataclass(frozen=True)
class Earlier:
    """A finished analysis whose firings can be taken.

    Attributes:
        name: Its name.
        contexts: How many contexts from the start of the store it has.
    """

    name: str
    contexts: int
    _reader: TableReader

    @classmethod
    def find(cls, lake: Lake, job: Run, settings: AnalyzeSettings) -> "Earlier | None":
        """Return the one with most contexts; None, there is none.

        Args:
            lake: Where to look.
            job: What is to be made.
            settings: What is wanted of it.
        """
        found = []
        of = checkpoint.dictionary_of(settings.dictionary)
        for ref in lake.refs("features"):
            if ref != job.ref and ref.name.rpartition("/")[0] == of.name:
                try:
                    manifest = lake.manifest(ref)
                except DamagedArtefactError:
                    continue  # `saestore verify` tells; here it is only not used
                if _serves(manifest, job, settings):
                    found.append((manifest.counts["contexts"], ref, manifest))
        for contexts, ref, manifest in sorted(found, key=lambda each: each[0], reverse=True):
            artefact = lake.artefact(ref)
            if _whole(lake, ref, manifest):
                return cls(ref.name, contexts, TableReader(artefact, manifest, TABLE))
        return None

    def covers(self, span: tuple[int, int], scope: Scope) -> bool:
        """Return whether it has all rows of a stretch."""
        contexts = min(self.contexts, scope.n_contexts)
        return span[1] <= int(scope.start[contexts - 1] + scope.length[contexts - 1])

    def blocks(
        self, span: tuple[int, int], scope: Scope, settings: AnalyzeSettings, *, rows: int
    ) -> Iterator[Encoded]:
        """Yield the firings of a stretch of rows as encoding would.

        Args:
            span: First row and the one after the last.
            scope: What is analysed.
            settings: How values are stored.
            rows: Rows of a block.

        Raises:
            DamagedArtefactError: A file cannot be read.
            OverflowRowError: A value does not fit `value_dtype`.
        """
        for start in range(*span, rows):
            stop = min(start + rows, span[1])
            first, last = np.searchsorted(scope.start, [start, stop - 1], side="right") - 1
            table = self._reader.rows("context", range(int(first), int(last) + 1))
            context, position, feature, value = (
                table[name].combine_chunks().to_numpy(zero_copy_only=False)
                for name in ("context", "position", "feature", "value")
            )
            row = scope.start[context] + position
            inside = (row >= start) & (row < stop)
            inside[inside] = np.asarray(scope.kept[start:stop])[row[inside] - start]
            yield Encoded(
                stop - start,
                Firings(
                    feature=feature[inside],
                    context=context[inside],
                    position=position[inside],
                    value=stored(value[inside].astype(np.float32), settings.value_dtype),
                ),
            )


def _serves(manifest: Manifest, job: Run, settings: AnalyzeSettings) -> bool:
    """Return whether an analysis has the firings that are wanted, of some contexts."""
    theirs = AnalyzeSettings.model_validate(manifest.settings)
    exact = {settings.value_dtype, "float32"}
    return (
        manifest.parents == job.parents
        and theirs.dictionary == settings.dictionary  # not a checkpoint of it
        and theirs.heads == settings.heads
        and TABLE in manifest.arrays
        and theirs.value_dtype in exact
        and set(theirs.ignore_tokens) <= set(settings.ignore_tokens)
        and manifest.versions.get("torch") == manifests.library_versions().get("torch")
    )


def _whole(lake: Lake, ref: Ref, manifest: Manifest) -> bool:
    """Return whether the firings are as they were written."""
    artefact = lake.artefact(ref)
    try:
        return all(
            manifests.digest_file(artefact, path) == listed
            for path, listed in manifests.payload(artefact, manifest).items()
            if path.startswith(f"{TABLE}/")
        )
    except (DamagedArtefactError, FileNotFoundError):
        return False
