"""The tables of what was analysed: contexts with their text, vocabulary with counts, documents."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from saestore.analyze.rows import Rows
from saestore.analyze.scope import Scope
from saestore.analyze.text import TokenBytes, assemble
from saestore.features import arrow
from saestore_schemas import tables


_PIECE = 4096
"""Contexts in one piece: some row groups of the table."""


def context_rows(store: Rows, scope: Scope) -> Iterator[pa.Table]:
    """Return the `contexts` table in pieces, in order.

    Raises:
        DamagedArtefactError: A token is not in the store's vocabulary.
    """
    of = TokenBytes.of(store.vocabulary())
    documents = store.documents().select(["document_id", "source"])
    segments = store.segments()
    for low in range(0, scope.n_contexts, _PIECE):
        high = min(low + _PIECE, scope.n_contexts)
        bounds = np.searchsorted(segments[:, 0], np.arange(low, high + 1))
        yield _piece(scope, (low, high), segments[bounds[0] : bounds[-1]], documents, of)


def _piece(
    scope: Scope,
    span: tuple[int, int],
    segments: Int64[np.ndarray, "segment 6"],
    documents: pa.Table,
    of: TokenBytes,
) -> pa.Table:
    low, high = span
    here = slice(low, high)
    length = scope.length[here]
    first = int(scope.start[low])
    rows = slice(first, first + int(length.sum()))
    tokens = np.asarray(scope.tokens[rows])
    texts, offsets = assemble(tokens, length, of)
    ends = np.concatenate([[0], np.cumsum(length)])
    left_out = ~np.asarray(scope.kept[rows])
    before = np.concatenate([[0], np.cumsum(left_out)])
    position = (np.arange(len(tokens)) - np.repeat(ends[:-1], length)).astype(np.uint16)
    bounds = np.searchsorted(segments[:, 0], np.arange(low, high + 1))
    ids = documents["document_id"].combine_chunks().take(segments[:, 3])
    schema = tables.CONTEXTS.schema()
    columns = {
        "context": np.arange(low, high, dtype=np.uint32),
        "source": documents["source"].combine_chunks().take(segments[bounds[:-1], 3]),
        "store_row": scope.start[here].astype(np.uint64),
        "n_positions": length.astype(np.uint16),
        "token_ids": arrow.lists(schema, "token_ids", ends, tokens.view(np.uint32)),
        "ignored": arrow.lists(schema, "ignored", before[ends], position[left_out]),
        "kept_before": scope.kept_before[here].astype(np.uint64),
        "segments": arrow.lists(schema, "segments", bounds, _segments(schema, segments, ids)),
        "text": texts,
        "char_offsets": arrow.lists(schema, "char_offsets", ends + np.arange(len(ends)), offsets),
        "shuffle_rank": scope.shuffle_rank[here],
        "store_context": np.arange(low, high, dtype=np.uint64),
    }
    return arrow.rows(schema, columns)


def _segments(schema: pa.Schema, segments: Int64[np.ndarray, "segment 6"], ids: Any) -> Any:
    kind: Any = schema.field("segments").type
    columns = {
        "document": segments[:, 3],
        "document_id": ids,
        "start": segments[:, 1],
        "length": segments[:, 2],
        "document_offset": segments[:, 4],
    }
    fields = list(kind.value_type)
    struct: Any = pa.StructArray
    return struct.from_arrays(
        [arrow.column(columns[field.name], field.type) for field in fields], fields=fields
    )


def vocabulary_rows(store: Rows, scope: Scope) -> pa.Table:
    """Return the `vocabulary` table: the store's, with how many kept rows hold each token."""
    table = store.vocabulary()
    ids = table["token_id"].to_numpy().astype(np.int64)
    counts = np.zeros(int(ids.max(initial=-1)) + 1, np.int64)
    known = scope.rows_of_token[: len(counts)]
    counts[: len(known)] = known
    index = table.schema.get_field_index("n_rows")
    filled: pa.Table = table.set_column(
        index, table.schema.field(index), arrow.column(counts[ids].astype(np.uint64), pa.uint64())
    )
    return arrow.rows(
        tables.VOCABULARY.schema(), {n: filled[n].combine_chunks() for n in filled.column_names}
    )


def document_rows(store: Rows, scope: Scope) -> pa.Table:
    """Return the `documents` table of the contexts analysed, without the documents' texts."""
    table = store.documents()
    segments = store.segments()
    used = np.unique(segments[segments[:, 0] < scope.n_contexts, 3])
    index = table.schema.get_field_index("text")
    shown: pa.Table = table.take(used)
    nothing = pa.nulls(shown.num_rows, pa.string())
    found: pa.Table = shown.set_column(index, shown.schema.field(index), nothing)
    return found
