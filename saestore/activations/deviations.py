"""Standard deviations by which an int8 store divides each dimension.

They are measured once, over the kept rows of the corpus's first block that has any, before the first
shard: so they are the same whether a run is whole, resumed or cut into shards, and every row of the
store is divided by the same numbers. A dimension that never varies there is divided by 1.
"""

import json
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float32, UInt8

from saestore.activations import codecs
from saestore.activations.moments import Moments, RunningMoments
from saestore.lake import Storage, layout


Deviations = Mapping[str, Float32[np.ndarray, " _"]]
"""Standard deviation of each dimension of each hookpoint, above 0."""


Rows = tuple[Mapping[str, Float32[np.ndarray, "_ _"]], UInt8[np.ndarray, " _"]]
"""Activations of each hookpoint, and the rows' flags."""


def measure(batches: Iterable[Rows]) -> dict[str, Float32[np.ndarray, " _"]] | None:
    """Return the deviations over the kept rows of some batches; None if no row is kept.

    Importers give it the beginning of what they import, the same batches whenever they run.

    Args:
        batches: The corpus's first block, or what stands for it.

    Raises:
        OverflowRowError: A value is NaN or infinite.
    """
    found: dict[str, RunningMoments] = {}
    first = 0
    for hooks, flags in batches:
        kept = flags == 0
        for name, rows in hooks.items():
            codecs.refuse_strange(rows, "int8", hookpoint=name, first_row=first)
            found.setdefault(name, RunningMoments(rows.shape[1])).add(rows, kept)
        first += len(flags)
    measured = {name: running.moments() for name, running in found.items()}
    if not any(moments.count for moments in measured.values()):
        return None
    return {name: _deviations(moments) for name, moments in measured.items()}


def ones(widths: Mapping[str, int]) -> dict[str, Float32[np.ndarray, " _"]]:
    """Return deviations of 1, for a store without a kept row: its rows are never used."""
    return {name: np.ones(width, np.float32) for name, width in widths.items()}


def _deviations(moments: Moments) -> Float32[np.ndarray, " d"]:
    narrow: Float32[np.ndarray, " d"] = np.sqrt(moments.variance).astype(np.float32)
    narrow[narrow == 0] = 1
    return narrow


def load(artefact: Storage) -> dict[str, Float32[np.ndarray, " _"]] | None:
    """Return the deviations of an unfinished store; None if it has none yet."""
    if not artefact.exists(layout.DEVIATIONS_SO_FAR):
        return None
    known = json.loads(artefact.read(layout.DEVIATIONS_SO_FAR))
    return {name: np.array(values, np.float32) for name, values in known.items()}


def save(artefact: Storage, deviations: Deviations) -> None:
    """Write the deviations of a store that is begun.

    Raises:
        StorageError: Disk full, read-only or quota.
    """
    # A float32 is exactly one float64, and JSON writes that with digits that read back as it is.
    record = {name: values.astype(np.float64).tolist() for name, values in deviations.items()}
    artefact.write(layout.DEVIATIONS_SO_FAR, json.dumps(record).encode())
