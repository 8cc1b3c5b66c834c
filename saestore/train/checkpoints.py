"""Checkpoints: complete states of a run, from which it goes on bit for bit.

    checkpoints/<step>/   config.json · weights.safetensors · state.safetensors · state.json ·
                          metrics.parquet

A checkpoint is written under `.progress/` and renamed, so one under its own name is whole; object
stores cannot rename, so there `state.json` comes last. It says the checksums of the others all the
same, because disks lie. The newest that checks out wins. Bit-exactness is promised for equal library versions, device kind and threads.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import crc32c
import torch
from torch import Tensor

from saestore import dictionaries
from saestore.dictionaries import SparseDictionary, tensor_file
from saestore.lake import Storage, layout, manifest as manifests


STATE = "state.json"
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
    """

    dictionary: SparseDictionary
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]
    metrics: bytes


def environment(device: torch.device) -> dict[str, Any]:
    """Return what bit-exactness depends on."""
    return {
        "versions": manifests.library_versions(),
        "threads": torch.get_num_threads(),
        "device": device.type,
    }


def write(artefact: Storage, step: int, checkpoint: Checkpoint, *, fingerprint: str) -> str:
    """Write a checkpoint whole; return its path inside the artefact.

    Raises:
        StorageError: Disk full, read-only, quota or permission.
    """
    target = layout.checkpoint_folder(step)
    place = DRAFT if artefact.local is not None else target
    artefact.remove(place)
    draft = artefact.child(place)
    dictionaries.save(checkpoint.dictionary, draft)
    draft.write(TENSORS, tensor_file.dump(checkpoint.tensors, {"format": "saestore.state"}))
    draft.write(layout.METRICS, checkpoint.metrics)
    checksums = {
        name: manifests.digest_file(draft, name)[1]
        for name in (layout.CONFIG, layout.WEIGHTS, TENSORS, layout.METRICS)
    }
    record = {"fingerprint": fingerprint, "checksums": checksums, "values": checkpoint.values}
    draft.write(STATE, json.dumps(record, indent=1, sort_keys=True).encode())
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
        record = _record(folder)
        if record is not None and record["fingerprint"] == fingerprint:
            tensors, _ = tensor_file.parse(folder.read(TENSORS))
            return Checkpoint(
                dictionary=dictionaries.load_folder(folder),
                tensors=tensors,
                values=record["values"],
                metrics=folder.read(layout.METRICS),
            )
    return None


def keep_latest(artefact: Storage, step: int) -> None:
    """Remove all checkpoints but the one of this step."""
    kept = layout.checkpoint_folder(step).rsplit("/", 1)[-1]
    for name in artefact.names(layout.CHECKPOINTS):
        if name != kept:
            artefact.remove(f"{layout.CHECKPOINTS}/{name}")


def retire(artefact: Storage) -> None:
    """Move all checkpoints out of the payload; they go when the manifest is there."""
    if artefact.exists(layout.CHECKPOINTS):
        artefact.move(layout.CHECKPOINTS, RETIRED)


def _record(folder: Storage) -> dict[str, Any] | None:
    """Return a checkpoint's record if all its files are as it says."""
    try:
        record: dict[str, Any] = json.loads(folder.read(STATE))
        whole = all(
            manifests.checksum_text(crc32c.crc32c(folder.read(name))) == checksum
            for name, checksum in record["checksums"].items()
        )
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return record if whole else None
