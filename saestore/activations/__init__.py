"""The activation store: dense rows in sharded Zarr, ragged contexts over them."""

from typing import TYPE_CHECKING, Any

from saestore.activations.choice import RowChoice
from saestore.activations.commits import Cursor
from saestore.activations.hosts import Host, hosts_of
from saestore.activations.joined import JoinedStore
from saestore.activations.layout import HookInfo, Spec
from saestore.activations.mixed_moments import MixedMoments
from saestore.activations.moments import Moments
from saestore.activations.origin import (
    Place,
    Ranges,
    heads_of,
    only_store,
    trained_on,
    with_contexts,
)
from saestore.activations.split import Split, held_out, split_contexts
from saestore.activations.store import ActivationStore
from saestore.activations.writer import RowBatch, StoredBatch, StoreWriter


if TYPE_CHECKING:
    from saestore.activations.ahead import read_ahead
    from saestore.activations.context_rows import ContextRowStream
    from saestore.activations.context_stream import ContextBatch, ContextStream
    from saestore.activations.mix import MixedStream, Source
    from saestore.activations.stream import ActivationStream
    from saestore.activations.whole_contexts import RowsInContexts, Surroundings, WholeContexts

__all__ = [
    "ActivationStore",
    "ActivationStream",
    "ContextBatch",
    "ContextRowStream",
    "ContextStream",
    "Cursor",
    "HookInfo",
    "Host",
    "JoinedStore",
    "MixedMoments",
    "MixedStream",
    "Moments",
    "Place",
    "Ranges",
    "RowBatch",
    "RowChoice",
    "RowsInContexts",
    "Source",
    "Spec",
    "Split",
    "StoreWriter",
    "StoredBatch",
    "Surroundings",
    "WholeContexts",
    "heads_of",
    "held_out",
    "hosts_of",
    "only_store",
    "read_ahead",
    "split_contexts",
    "trained_on",
    "with_contexts",
]


def __getattr__(name: str) -> Any:
    """Load the streams on first use: reading a store needs no torch, streaming tensors does."""
    if name == "ActivationStream":
        from saestore.activations.stream import ActivationStream  # noqa: PLC0415 - as said above

        return ActivationStream
    if name in {"ContextBatch", "ContextStream"}:
        from saestore.activations import context_stream  # noqa: PLC0415 - as said above

        return getattr(context_stream, name)
    if name == "ContextRowStream":
        from saestore.activations.context_rows import ContextRowStream  # noqa: PLC0415 - as said above

        return ContextRowStream
    if name in {"RowsInContexts", "Surroundings", "WholeContexts"}:
        from saestore.activations import whole_contexts  # noqa: PLC0415 - as said above

        return getattr(whole_contexts, name)
    if name == "read_ahead":
        from saestore.activations.ahead import read_ahead  # noqa: PLC0415 - as said above

        return read_ahead
    if name in {"MixedStream", "Source"}:
        from saestore.activations import mix  # noqa: PLC0415 - as said above

        return getattr(mix, name)
    raise AttributeError(f"module 'saestore.activations' has no attribute {name!r}")
