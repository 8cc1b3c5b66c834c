"""What examples show of the contexts of one analysis, each read and cut into tokens once, as long as there is room."""

from collections.abc import Collection
from threading import RLock

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from saestore.features import arrow
from saestore.features.cuts import SHOWN, Cuts, Windows
from saestore.features.parquet import CONTEXTS_GROUP
from saestore.features.pieces import Columns, Shown, Vocabulary
from saestore.features.read import TableReader


class Stretches:
    """Contexts by their numbers in the analysis.

    Threads may share it where they ask by lines: who asks by slots must be alone.
    """

    def __init__(
        self, reader: TableReader, vocabulary: Vocabulary, *, room: int, near: bool = False
    ) -> None:
        """Hold nothing yet.

        Args:
            reader: That of `contexts`.
            vocabulary: The tokens.
            room: Tokens of contexts that are kept, 4 bytes each.
            near: Whether contexts are cut with those of their row group: right where nearly all are asked for.
        """
        self._reader = reader
        self._room = room
        self._near = near
        self._lock = RLock()
        self._slots = np.empty(0, np.int64)  # of each context, -1 where it is not kept
        self.cuts = Cuts(vocabulary)

    def read(self, contexts: Collection[int]) -> None:
        """Read some contexts at once, as far as there is room."""
        with self._lock:
            self.slots(np.fromiter(contexts, np.int64, len(contexts)))

    def shown(self, examples: Columns) -> Shown:
        """Return what lines of `examples` show of their contexts."""
        names = ("context", "peak_position", "window_start", "window_length")
        contexts, *window = (examples[name].astype(np.int64) for name in names)
        with self._lock:
            return self.cuts.shown(Windows(self.slots(contexts), *window))

    def token(self, context: int, position: int) -> str:
        """Return the text at a position of a context; empty behind its end."""
        with self._lock:
            (slot,) = self.slots(np.array([context])).tolist()
            return self.cuts.token(slot, position)

    def slots(self, contexts: Int64[np.ndarray, " _"]) -> Int64[np.ndarray, " _"]:
        """Return where some contexts are in `cuts`; true until others are asked for."""
        wanted = np.unique(contexts)
        missing = wanted[self._where(wanted) < 0]
        if len(missing):
            held = self.cuts.n_tokens
            table = self._read(self._with_near(missing))
            if held + _n_tokens(table) > self._room:  # what is wanted, alone if need be
                table = self._read(missing) if self._near else table
                if held and held + _n_tokens(table) > self._room:
                    self._forget()
                    table = self._read(wanted)
            numbers = arrow.plain(table["context"])
            self._slots[numbers] = self.cuts.add(table)
        return self._where(contexts)

    def _with_near(self, missing: Int64[np.ndarray, " _"]) -> Int64[np.ndarray, " _"]:
        if not self._near:
            return missing
        groups = np.unique(missing // CONTEXTS_GROUP)
        near = (groups[:, None] * CONTEXTS_GROUP + np.arange(CONTEXTS_GROUP)).ravel()
        found: Int64[np.ndarray, " _"] = near[self._where(near) < 0]
        return found

    def _forget(self) -> None:
        self._slots[:] = -1
        self.cuts.forget()

    def _where(self, contexts: Int64[np.ndarray, " _"]) -> Int64[np.ndarray, " _"]:
        more = int(contexts.max(initial=-1)) + 1 - len(self._slots)
        if more > 0:
            self._slots = np.concatenate([self._slots, np.full(more, -1, np.int64)])
        found: Int64[np.ndarray, " _"] = self._slots[contexts]
        return found

    def _read(self, contexts: Int64[np.ndarray, " _"]) -> pa.Table:
        return self._reader.rows("context", contexts.tolist(), SHOWN)


def _n_tokens(table: pa.Table) -> int:
    return int(arrow.plain(table["n_positions"]).sum(dtype=np.int64))
