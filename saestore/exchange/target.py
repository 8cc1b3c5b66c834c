"""What every format of exports is given, and what it does: write some contexts as a file."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped

from saestore.activations import ActivationStore, codecs
from saestore.exchange.selection import Group, Selection
from saestore.lake.storage import Storage
from saestore.progress import Task
from saestore_schemas.activations import StoreDtype
from saestore_schemas.exchange import ExportedFile


@dataclass(frozen=True)
class Job:
    """What a format's writer is given.

    Attributes:
        store: Where rows come from.
        selection: Which contexts.
        hookpoints: Which hookpoints, with their widths.
        dtype: Type of the activations written.
        target: Where files go.
        task: Where rows written are reported.
    """

    store: ActivationStore
    selection: Selection
    hookpoints: dict[str, int]
    dtype: StoreDtype
    target: Storage
    task: Task


@runtime_checkable
class Format(Protocol):
    """Writes one format.

    Attributes:
        dtypes: Types of activations it can hold; the first is taken for a store of another type.
    """

    dtypes: tuple[StoreDtype, ...]

    def row_bytes(self, hookpoints: dict[str, int], dtype: StoreDtype) -> int:
        """Return about how many bytes of a file a row is."""
        ...

    def write(self, job: Job, number: int, group: Group) -> list[ExportedFile]:
        """Write the files of one group of contexts, each whole."""
        ...


def rows_of(job: Job, hookpoint: str, start: int, stop: int) -> Shaped[np.ndarray, "row d"]:
    """Return rows of a hookpoint in the type that is written; bfloat16 as uint16."""
    store = job.store
    if store.record.dtype == job.dtype:
        stored = np.empty((stop - start, job.hookpoints[hookpoint]), codecs.STORED[job.dtype])
        store.read_stored(store.array_of(hookpoint), start, stop, stored)
        return stored
    values = store.read(hookpoint, start, stop)
    return codecs.encode(values, job.dtype, hookpoint=hookpoint, first_row=start)
