"""What every importable format comes down to: parts that are read a few contexts at a time.

A source says what it holds from its files' headers alone, and reads any range of contexts of any
part again and again with the same result. That is what makes an interrupted import continue where
it stopped, and what lets the finished store be compared with its source.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Int64, Shaped, UInt8
from pydantic import JsonValue

from saestore.corpus.files import Found
from saestore.errors import ConfigError
from saestore_schemas.activations import FLAG_IGNORED, RowCapture
from saestore_schemas.lm import LmSettings


PIECE_BYTES = 16 << 20
"""Bytes of one hookpoint that are read at a time, if a context is not longer."""


@dataclass(frozen=True)
class Part:
    """A stretch of a source with an order of its own: one file of each hookpoint, most often.

    Attributes:
        name: What errors and documents call it.
        contexts: Contexts in it; rows, where the source is flat.
        longest: Rows of its longest context.
        rows: Rows of a part that was cut into contexts; else contexts times longest is enough.
    """

    name: str
    contexts: int
    longest: int
    rows: int = 0


@dataclass(frozen=True)
class Rows:
    """Some contexts of a part, in order.

    Attributes:
        hooks: Activations of each hookpoint as they lie in the file; bfloat16 as uint16.
        lengths: Rows of each context.
        tokens: Token ids, if there are any.
        mask: Which rows the other tool uses, if it says.
        attention: Which rows its model attended to, if it says.
        flags: Flags, if the source has ours.
        samples: What is known of each context, if anything is.
        segments: Our segments, if the source has them: contexts counted from the first one here.
        captured: What each row has beside its activations, if the source is ours.
    """

    hooks: Mapping[str, Shaped[np.ndarray, "row d"]]
    lengths: Int64[np.ndarray, " context"]
    tokens: Shaped[np.ndarray, " row"] | None = None
    mask: Bool[np.ndarray, " row"] | None = None
    attention: Bool[np.ndarray, " row"] | None = None
    flags: UInt8[np.ndarray, " row"] | None = None
    samples: Sequence[Mapping[str, Any]] | None = None
    segments: Int64[np.ndarray, "segment 6"] | None = None
    captured: Mapping[str, Float32[np.ndarray, " row"]] = field(default_factory=dict)


@dataclass(frozen=True)
class About:
    """What a source is, told from its headers.

    Attributes:
        origin: Name of the folder or file, which documents give as their source.
        files: Its files.
        widths: Width of each hookpoint, by our name.
        theirs: The source's own name of each hookpoint.
        dtype: Type of its activations.
        parts: Its parts, in order.
        flat: Its rows lie one after the other, without contexts.
        has_tokens: Whether it has token ids.
        has_flags: Whether it has our flags: then no token is flagged for what it is.
        captured: What its rows have beside their activations.
        masked: Flag of the rows that its mask leaves out.
        metadata: Further columns of the documents table.
        documents: Our documents table, if the source has one.
        vocabulary: The vocabulary, if the source has one.
        lm: The language model, if the source says it.
        facts: What else is worth recording, such as the tool that wrote it.
        notes: What a user should know before relying on it.
    """

    origin: str
    files: tuple[Found, ...]
    widths: Mapping[str, int]
    theirs: Mapping[str, str]
    dtype: str
    parts: tuple[Part, ...]
    flat: bool
    has_tokens: bool
    has_flags: bool = False
    captured: tuple[RowCapture, ...] = ()
    masked: int = FLAG_IGNORED
    metadata: pa.Schema = field(default_factory=lambda: pa.schema([]))
    documents: pa.Table | None = None
    vocabulary: pa.Table | None = None
    lm: LmSettings | None = None
    facts: Mapping[str, JsonValue] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@runtime_checkable
class ActivationSource(Protocol):
    """One set of activations in another tool's format.

    Attributes:
        about: What it holds.
    """

    @property
    def about(self) -> About:
        """What it holds."""
        ...

    def read(self, part: int, start: int, stop: int) -> Rows:
        """Return contexts start to stop of a part; rows, where the source is flat.

        Raises:
            ConfigError: The files are not what their headers said, or contradict each other.
        """
        ...


class Cut:
    """A flat source as contexts of so many rows; the last context of a part may be shorter.

    Attributes:
        about: What it holds, with contexts.
    """

    def __init__(self, source: ActivationSource, size: int) -> None:
        self._source = source
        self._size = size
        parts = tuple(
            Part(part.name, -(-part.contexts // size), size, part.contexts)
            for part in source.about.parts
        )
        self.about = replace(source.about, parts=parts)

    def read(self, part: int, start: int, stop: int) -> Rows:
        """Return contexts start to stop of a part.

        Raises:
            ConfigError: See `ActivationSource.read`.
        """
        first, end = start * self._size, self._source.about.parts[part].contexts
        rows = self._source.read(part, first, min(stop * self._size, end))
        lengths = np.full(stop - start, self._size, np.int64)
        lengths[-1] = min(stop * self._size, end) - (stop - 1) * self._size
        return replace(rows, lengths=lengths)


@dataclass(frozen=True)
class Piece:
    """What is read at once.

    Attributes:
        part: Number of the part.
        index: Number of the piece in its part.
        start: First context.
        stop: The context after the last.
    """

    part: int
    index: int
    start: int
    stop: int


def piece_contexts(about: About, part: Part) -> int:
    """Return how many contexts of a part are read at once: a function of the source alone."""
    item = 2 if about.dtype in {"float16", "bfloat16"} else np.dtype(about.dtype).itemsize
    return max(PIECE_BYTES // (part.longest * max(about.widths.values()) * item), 1)


def pieces(about: About, *, part: int = 0, index: int = 0) -> Iterator[Piece]:
    """Yield every piece of a source from one on."""
    for number in range(part, len(about.parts)):
        size = piece_contexts(about, about.parts[number])
        first = index if number == part else 0
        for at in range(first, -(-about.parts[number].contexts // size)):
            stop = min((at + 1) * size, about.parts[number].contexts)
            yield Piece(number, at, at * size, stop)


def contexts_of(
    activations: tuple[int, ...], tokens: tuple[int, ...] | None, *, where: str
) -> tuple[int, int] | None:
    """Return how many contexts there are and how long they are; None for rows without contexts.

    Args:
        activations: Shape of the activations, [row, d] or [context, position, d].
        tokens: Shape of what belongs to their rows, if there is anything.
        where: What they are, for the error.

    Raises:
        ConfigError: The shapes do not fit each other, or are of no such kind.
    """
    lead = activations[:-1]
    if not 1 <= len(lead) <= 2 or min(activations) < 1:  # noqa: PLR2004 - [row] or [context, position]
        raise ConfigError(
            field="source.path",
            problem=f"{where} has shape {list(activations)}",
            expected="[row, d] or [context, position, d], none of them 0",
            hint="reshape it, or name another array with --hookpoint",
        )
    if (
        tokens is not None
        and tokens != lead
        and (
            math.prod(tokens) != math.prod(lead) or len(tokens) == len(lead) or len(tokens) > 2  # noqa: PLR2004
        )
    ):
        raise ConfigError(
            field="source.tokens",
            problem=f"{list(tokens)} tokens do not belong to {list(activations)} of {where}",
            expected="one token for each row",
            hint="name the tokens of these activations",
        )
    known = lead if tokens is None or len(lead) > len(tokens) else tokens
    return (known[0], known[1]) if len(known) == 2 else None  # noqa: PLR2004
