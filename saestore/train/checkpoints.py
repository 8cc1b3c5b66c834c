"""Checkpoints: complete states of a run, from which it goes on bit for bit.

    checkpoints/<step>/   config.json · weights.safetensors · state.safetensors · state.json ·
                          metrics.parquet · timings.parquet

A checkpoint is written under `.progress/` and renamed, so one under its own name is whole; object
stores cannot rename, so there `state.json` comes last. It says the checksums of the others all the
same, because disks lie. The newest that checks out wins. Bit-exactness is promised for equal library versions, device kind and threads.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from saestore import dictionaries
from saestore.dictionaries import SparseDictionary, backends, tensor_file
from saestore.lake import Storage, checkpoint, layout, manifest as manifests


TENSORS = "state.safetensors"
DRAFT = f"{layout.PROGRESS}/checkpoint"
"""Where a checkpoint is written before it is renamed."""
RETIRED = f"{layout.PROGRESS}/checkpoints"
"""Where checkpoints go while a run is being finished, so that they are no payload."""


@dataclass(frozen=True)
class Checkpoint:
    """One state of a run.

    Attributes:
        dictionary: The weights.
        tensors: Tensors of the trainer's state.
        values: Plain values of the trainer's and the stream's state.
        metrics: `metrics.parquet` so far.
        timings: `timings.parquet` so far.
    """

    dictionary: SparseDictionary
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]
    metrics: bytes
    timings: bytes


def environment(device: torch.device) -> dict[str, Any]:
    """Return what bit-exactness depends on."""
    return {
        "versions": manifests.library_versions(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "kernels": backends.of(device).name,
    }


def write(artefact: Storage, step: int, state: Checkpoint, *, fingerprint: str) -> str:
    """Write a checkpoint whole; return its path inside the artefact.

    Raises:
        StorageError: Disk full, read-only, quota or permission.
    """
    target = layout.checkpoint_folder(step)
    place = DRAFT if artefact.local is not None else target
    artefact.remove(place)
    draft = artefact.child(place)
    dictionaries.save(state.dictionary, draft)
    draft.write(TENSORS, *tensor_file.parts(state.tensors, {"format": "saestore.state"}))
    draft.write(layout.METRICS, state.metrics)
    draft.write(layout.TIMINGS, state.timings)
    checksums = {
        name: manifests.digest_file(draft, name)[1]
        for name in (layout.CONFIG, layout.WEIGHTS, TENSORS, layout.METRICS, layout.TIMINGS)
    }
    record = {"fingerprint": fingerprint, "checksums": checksums, "values": state.values}
    draft.write(layout.CHECKPOINT_STATE, json.dumps(record, indent=1, sort_keys=True).encode())
    if place != target:
        artefact.remove(target)
        artefact.move(place, target)
    return target


def newest(artefact: Storage, *, fingerprint: str) -> Checkpoint | None:
    """Return the newest whole checkpoint of a run, or None; broken ones are skipped."""
    if artefact.exists(RETIRED) and not artefact.exists(layout.CHECKPOINTS):
        artefact.move(RETIRED, layout.CHECKPOINTS)
    for name in sorted(artefact.names(layout.CHECKPOINTS), reverse=True):
        folder = artefact.child(f"{layout.CHECKPOINTS}/{name}")
        record = {} if checkpoint.damage(folder) else checkpoint.record(folder)
        if record.get("fingerprint") == fingerprint:
            tensors, _ = tensor_file.parse(folder.read(TENSORS))
            return Checkpoint(
                dictionary=dictionaries.load_folder(folder),
                tensors=tensors,
                values=record["values"],
                metrics=folder.read(layout.METRICS),
                timings=folder.read(layout.TIMINGS),
            )
    return None


def prune(
    artefact: Storage,
    keep: Literal["latest", "all"] | int,
    *,
    regular: Collection[int],
    newest: int | None,
) -> None:
    """Remove the checkpoints that are not to be kept.

    Args:
        artefact: The dictionary's folder.
        keep: `latest`, `all`, or how many of the newest.
        regular: Steps at which checkpoints are due; those of a run that was stopped in between go
            when a later one is there.
        newest: The newest one's step, which stays; None when the run is over.
    """
    there = checkpoint.steps(artefact)
    due = [step for step in there if step in regular]
    if keep == "latest":
        due = []
    elif keep != "all":
        due = due[-keep:]
    for step in there:
        if step not in due and step != newest:
            artefact.remove(layout.checkpoint_folder(step))


def retire(artefact: Storage) -> None:
    """Move all checkpoints out of the payload; they go when the manifest is there."""
    if artefact.exists(layout.CHECKPOINTS):
        artefact.move(layout.CHECKPOINTS, RETIRED)
