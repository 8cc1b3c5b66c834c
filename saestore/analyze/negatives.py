"""What hard negatives are found with: where tokens stand, which features are alike, and where all fire.

`same_token` needs the contexts that hold a token. `near` needs the first features that fire with a
feature or point its way, and the contexts in which those fire: so all features must have been seen once
before the first is asked for. Both are kept in working files, which are mapped; in memory is what is as
long as the vocabulary or the dictionary.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Int32, Int64, UInt16, UInt32

from saestore.analyze.block import FeatureBlock
from saestore.analyze.negative_loops import list_contexts
from saestore.analyze.scope import Scope
from saestore.lake.storage import storage_errors
from saestore_schemas import tables
from saestore_schemas.analyze import NearSubsample, SameTokenSubsample, Subsample


@dataclass(frozen=True)
class TokenContexts:
    """The contexts that hold each token at a kept position.

    Attributes:
        ends: Where those of each token end, from 0.
        places: Their places in `order`, ascending for each token.
        order: Contexts in random order.
    """

    ends: Int64[np.ndarray, " _"]
    places: UInt32[np.ndarray, " pair"]
    order: Int64[np.ndarray, " context"]

    @classmethod
    def of(cls, scope: Scope, folder: Path) -> "TokenContexts":
        """Read all tokens twice.

        Args:
            scope: The rows analysed.
            folder: For a working file, which is the caller's to remove.

        Raises:
            StorageError: The disk is full.
        """
        order = np.empty(scope.n_contexts, np.int64)
        order[scope.shuffle_rank] = np.arange(scope.n_contexts)
        contexts = order, scope.start, scope.length
        rows = np.asarray(scope.tokens), np.asarray(scope.kept)
        counts = np.zeros(len(scope.rows_of_token), np.int64)
        list_contexts(*contexts, *rows, counts, np.zeros(0, np.uint32))
        ends = np.concatenate([[0], np.cumsum(counts)])
        path = folder / "places"
        with storage_errors(f"writing {path}"):
            folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"\0" * 4)  # a file of no bytes cannot be mapped
            mapped = np.memmap(path, np.uint32, "r+", shape=(max(int(ends[-1]), 1),))
        places = np.asarray(mapped)
        list_contexts(*contexts, *rows, ends[:-1].copy(), places)
        return cls(ends, places[: ends[-1]], order)


@dataclass(frozen=True)
class FeatureContexts:
    """The contexts in which every feature fires.

    Attributes:
        ends: Where those of each feature end, from 0.
        context: Contexts, ascending for each feature.
        position: Where it is largest there, the first such position.
    """

    ends: Int64[np.ndarray, " _"]
    context: UInt32[np.ndarray, " pair"]
    position: UInt16[np.ndarray, " pair"]


class Alike:
    """Which features are like each feature, and the contexts in which all fire."""

    def __init__(self, folder: Path, *, features: int, first: int) -> None:
        """Begin with nothing known.

        Args:
            folder: For working files, which are the caller's to remove.
            features: Features of the dictionary.
            first: How many are kept of each kind.
        """
        self._first = first
        self.lists: Mapping[str, Int32[np.ndarray, "feature rank"]] = {
            name: np.full((features, first), -1, np.int32) for name in ("coactivation", "dec_cos")
        }
        self._paths = folder / "context", folder / "position"
        self._counts = np.zeros(features, np.int64)
        with storage_errors(f"writing {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
            for path in self._paths:
                path.write_bytes(b"")

    def take(self, name: str, piece: pa.Table) -> None:
        """Take lines of the tables `coactivation` and `neighbours`; others are nothing to it."""
        if name == tables.NEIGHBOURS.name:
            decoders = piece["method"].to_numpy(zero_copy_only=False) == "dec_cos"
            self._keep("dec_cos", piece.filter(pa.array(decoders)), "neighbour")
        elif name == tables.COACTIVATION.name:
            self._keep("coactivation", piece, "other")

    def _keep(self, name: str, piece: pa.Table, other: str) -> None:
        rank = piece["rank"].to_numpy()
        kept = rank < self._first
        feature, found = piece["feature"].to_numpy()[kept], piece[other].to_numpy()[kept]
        self.lists[name][feature, rank[kept]] = found

    def add(self, block: FeatureBlock) -> None:
        """Take the contexts of features that follow all earlier ones.

        Raises:
            StorageError: The disk is full.
        """
        peaks = block.peaks
        self._counts[block.first : block.first + block.n] = np.diff(peaks.offsets)
        with storage_errors(f"writing {self._paths[0].parent}"):
            for path, column in zip(self._paths, (peaks.context, peaks.position), strict=True):
                with path.open("ab") as file:
                    file.write(column.data)

    def contexts(self) -> FeatureContexts:
        """Return the contexts of all features, when all were taken."""
        ends = np.concatenate([[0], np.cumsum(self._counts)])
        columns = (
            np.asarray(np.memmap(path, dtype, "r")) if ends[-1] else np.zeros(0, dtype)
            for path, dtype in zip(self._paths, (np.uint32, np.uint16), strict=True)
        )
        return FeatureContexts(ends, *columns)

    def others(self, subsample: NearSubsample, features: slice) -> Int32[np.ndarray, "feature _"]:
        """Return the features like some features, the nearest first, -1 for none.

        Of several lists those of rank 0 come first, in the order of `by`, then those of rank 1. Who is in
        two lists is there twice.

        Args:
            subsample: Which lists, and how many of each.
            features: Of which features.
        """
        lists = [self.lists[name][features, : subsample.first] for name in subsample.by]
        together: np.ndarray = np.stack(lists, axis=2)
        return np.ascontiguousarray(together.reshape(len(together), -1))


@dataclass
class Negatives:
    """What the subsamples of an analysis find hard negatives with.

    Attributes:
        tokens: Where tokens stand; None if no subsample asks.
        alike: Which features are alike; None if no subsample asks.
        contexts: Where every feature fires; None until all were seen.
    """

    tokens: TokenContexts | None = None
    alike: Alike | None = None
    contexts: FeatureContexts | None = field(default=None)

    @classmethod
    def of(
        cls, subsamples: Iterable[Subsample], scope: Scope, folder: Path, *, features: int
    ) -> "Negatives":
        """Prepare what some subsamples need.

        Args:
            subsamples: They.
            scope: The rows analysed.
            folder: For working files, which are the caller's to remove.
            features: Features of the dictionary.

        Raises:
            StorageError: The disk is full.
        """
        held = list(subsamples)
        on_tokens = any(isinstance(each, SameTokenSubsample) for each in held)
        first = max((each.first for each in held if isinstance(each, NearSubsample)), default=0)
        return cls(
            TokenContexts.of(scope, folder) if on_tokens else None,
            Alike(folder, features=features, first=first) if first else None,
        )
