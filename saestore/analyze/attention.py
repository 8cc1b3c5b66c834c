"""Which earlier rows a feature reads from: the firings of its examples, taken apart by key.

    value = A_{t,u} (x_u · w_V + b_V)         over keys u they sum to z_t, the firing's value

Keys with at least 1 % of z have a line each; the others are one line together, so that nothing is lost.

One more pass over the contexts of the examples, for a range of features at a time whose lines fit in memory;
a context's rows are read again for each range that has examples in it.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int64

from saestore.activations import ActivationStore, WholeContexts, read_ahead
from saestore.analyze.scope import Scope
from saestore.analyze.sort import ranges
from saestore.dictionaries import ContextRows, Contexts, SparseDictionary
from saestore.features import arrow
from saestore.progress import Progress
from saestore_schemas import tables


SHARE = 0.01
"""Of a firing's value, what a key must add to have a line of its own (llamascopium)."""
LINES = 128
"""Lines of one firing, about: 100 keys of one sign can have 1 % each."""
BYTES_PER_LINE = 48
"""Columns, and the same while they are put in order."""


class Pairs:
    """Features with a context and a position where they fire, in this order, each once."""

    def __init__(self, features: int) -> None:
        """Begin with none.

        Args:
            features: Features of the dictionary.
        """
        self._features = features
        self._columns = [np.zeros((3, 0), np.int64)]

    def take(self, name: str, examples: pa.Table) -> None:
        """Take the examples of features that follow all earlier ones; nothing of other tables."""
        if name != tables.EXAMPLES.name:
            return
        positions: Any = examples["positions"].combine_chunks()
        counts = np.diff(positions.offsets.to_numpy())
        taken = (
            np.repeat(examples["feature"].to_numpy(), counts),
            np.repeat(examples["context"].to_numpy(), counts),
            positions.flatten().to_numpy(),
        )
        # One context may be an example of several subsamples.
        self._columns.append(np.unique(np.stack(taken).astype(np.int64), axis=1))

    def ranges(self, most: int) -> Iterator[Int64[np.ndarray, "3 pair"]]:
        """Yield feature, context and position of each, of at most so many, or of one feature."""
        columns = np.concatenate(self._columns, axis=1)
        offsets = np.searchsorted(columns[0], np.arange(self._features + 1))
        for first, stop in ranges(np.diff(offsets), most=most):
            if offsets[first] < offsets[stop]:
                yield columns[:, offsets[first] : offsets[stop]]

    def __len__(self) -> int:
        """How many."""
        return sum(each.shape[1] for each in self._columns)


def attention_rows(
    store: ActivationStore,
    folded: SparseDictionary,
    scope: Scope,
    pairs: Pairs,
    *,
    memory_mib: int,
    progress: Progress,
) -> Iterator[pa.Table]:
    """Yield the table `attention`, some features at a time.

    Args:
        store: The activation store.
        folded: The folded dictionary.
        scope: The contexts that are analysed.
        pairs: The firings that are taken apart.
        memory_mib: Memory for lines.
        progress: Where to report.
    """
    lines = min(int(scope.length.max(initial=1)), LINES)
    most = max(1, (memory_mib << 20) // (BYTES_PER_LINE * lines))
    with progress.task("attention", total=len(pairs), unit="firings") as task:
        for chosen in pairs.ranges(most):
            yield _lines(chosen, _contributions(store, folded, scope, chosen))
            task.advance(chosen.shape[1])


def _contributions(
    store: ActivationStore,
    folded: SparseDictionary,
    scope: Scope,
    pairs: Int64[np.ndarray, "3 pair"],
) -> Iterator[tuple[Int64[np.ndarray, " pair"], Float[np.ndarray, "pair position"]]]:
    """Yield context by context which of the pairs lie in it, and what each position adds to them."""
    whole = WholeContexts(store)
    order = np.argsort(pairs[1], kind="stable")
    contexts, starts = np.unique(pairs[1][order], return_index=True)
    places = np.split(order, starts[1:])
    first = scope.start[contexts]
    spans = list(zip(first.tolist(), (first + scope.length[contexts]).tolist(), strict=True))
    read = read_ahead(
        store, folded.hookpoints_in, (((a, b),) for a, b in spans), most=whole.longest
    )
    device = folded.encoder_bias().device
    for place, span, rows in zip(places, spans, read, strict=True):
        inputs = ContextRows(rows, Contexts.of(whole.around(np.arange(*span))))
        features, queries = (torch.from_numpy(pairs[row][place]).to(device) for row in (0, 2))
        yield place, folded.contributions(inputs, features, queries).cpu().numpy()


def _lines(
    pairs: Int64[np.ndarray, "3 pair"],
    found: Iterator[tuple[Int64[np.ndarray, " pair"], Float[np.ndarray, "pair position"]]],
) -> pa.Table:
    """Return the lines of some pairs, in the pairs' order."""
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for place, values in found:
        z = values.sum(axis=1, dtype=np.float64)
        kept = (np.abs(values) >= SHARE * np.abs(z)[:, None]) & (values != 0)
        pair, key = np.nonzero(kept)
        rest = z - np.where(kept, values, 0).sum(axis=1, dtype=np.float64)
        parts.append((place[pair], key, values[pair, key]))
        parts.append((place, np.full(len(place), tables.REMAINDER), rest))
    owner, key, value = (np.concatenate(each) for each in zip(*parts, strict=True))
    order = np.lexsort((key, owner))
    feature, context, query = pairs[:, owner[order]]
    columns = {
        "feature": feature.astype(np.uint32),
        "context": context.astype(np.uint32),
        "query": query.astype(np.uint16),
        "key": key[order].astype(np.uint16),
        "value": value[order].astype(np.float32),
    }
    return arrow.rows(tables.ATTENTION.schema(), columns)
