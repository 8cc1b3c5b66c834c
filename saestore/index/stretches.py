"""What examples show of their contexts, as numbers: each different token once, by its number.

A feature shows some thousand tokens, of which a few hundred are different. Texts of contexts are cut into
tokens once, whatever number of features shows them.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int32, Int64

from saestore.features import arrow
from saestore.features.lines import Line
from saestore.features.page import TokenPiece
from saestore.features.pieces import stretch
from saestore.features.stored import Stored


SPECIAL, KEPT = 1, 2
"""Marks of a token."""

_ROOM = 1 << 27
"""Tokens of contexts that are kept: 512 MiB, a million contexts of 128."""


@dataclass(frozen=True)
class Cut:
    """One context, cut into tokens.

    Attributes:
        line: Its line of `contexts`, without tokens and text.
        tokens: The number of each of its tokens.
    """

    line: Line
    tokens: Int32[np.ndarray, " position"]


class Stretches:
    """Contexts of one analysis as numbers of tokens; numbers are this object's own."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self._numbers: dict[TokenPiece, int] = {}
        self._texts: list[str] = []
        self._marks: list[int] = []
        self._cut: OrderedDict[int, Cut] = OrderedDict()
        self._held = 0

    def __len__(self) -> int:
        """Return how many different tokens there are so far."""
        return len(self._texts)

    @property
    def pieces(self) -> "tuple[pa.Array[Any], pa.Array[Any]]":
        """The different tokens, by their numbers: texts, and marks."""
        return arrow.column(self._texts, pa.string()), arrow.column(self._marks, pa.uint8())

    def text(self, number: int) -> str:
        """Return the text of a token."""
        return self._texts[number]

    def contexts(self, wanted: Sequence[int]) -> dict[int, Cut]:
        """Return some contexts, each once."""
        every = sorted(set(wanted))
        missing = [each for each in every if each not in self._cut]
        for number, line in self._stored.contexts(missing).items() if missing else ():
            self._cut[number] = self._cut_up(line)
            self._held += line["n_positions"]
        found = {}
        for each in every:
            found[each] = self._cut[each]
            self._cut.move_to_end(each)
        while self._held > _ROOM and len(self._cut) > 1:
            _, gone = self._cut.popitem(last=False)
            self._held -= len(gone.tokens)
        return found

    def _cut_up(self, line: Line) -> Cut:
        whole = {"window_start": 0, "window_length": line["n_positions"], "peak_position": 0}
        tokens = stretch(whole, line, self._stored.vocabulary).tokens
        numbers = np.fromiter(map(self._number, tokens), np.int32, len(tokens))
        kept = {name: line[name] for name in ("n_positions", "source", "segments")}
        return Cut(kept, numbers)

    def _number(self, piece: TokenPiece) -> int:
        number = self._numbers.setdefault(piece, len(self._texts))
        if number == len(self._texts):
            self._texts.append(piece.text)
            self._marks.append(SPECIAL * piece.special | KEPT * piece.kept)
        return number


def distinct(
    numbers: Int32[np.ndarray, " position"], places: Int64[np.ndarray, " _"]
) -> tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, " position"]]:
    """Return the different numbers in the order they first stand in, and where each is among them.

    Args:
        numbers: Numbers of tokens.
        places: Room for one entry of each number there is; what is in it does not matter.
    """
    places[numbers[::-1]] = np.arange(len(numbers) - 1, -1, -1)  # the first of equal ones is last
    stands_first = np.zeros(len(numbers), np.bool_)
    stands_first[places[numbers]] = True
    first = np.flatnonzero(stands_first)
    found = numbers[first].astype(np.int64)
    places[found] = np.arange(len(found))
    return found, places[numbers]
