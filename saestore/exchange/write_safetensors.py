"""Exports as safetensors: `chunk-00000.safetensors` with everything that belongs to its rows.

<hookpoint>   [row, d]      float32, float16 or bfloat16, as stored
tokens        [row]         int32
flags         [row]         uint8; 0 is used, 1 special, 2 ignored
contexts      [context, 2]  int64: first row in this file, length
segments      [segment, 6]  int64: context in this file, start, length, document, token offset,
                            character offset
final_norm_scale [row]      float32, where it was captured
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

import crc32c
import numpy as np
from jaxtyping import Shaped

from saestore.exchange.selection import Group
from saestore.exchange.target import Job, rows_of
from saestore.exchange.tensor_files import CONTEXTS, FLAGS, SEGMENTS, TOKENS
from saestore.lake.manifest import checksum_text
from saestore.lake.storage import Storage, storage_errors
from saestore_schemas.activations import StoreDtype
from saestore_schemas.exchange import ExportedFile


AT_ONCE = 8 << 20
"""Bytes read and written at a time."""
CODES = {
    "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "int64": "I64", "int32": "I32", "uint8": "U8",
}  # fmt: skip
"""Our types by their names in the header."""
SIZES = {"float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "uint8": 1}


@dataclass(frozen=True)
class TensorSpec:
    """One tensor to be written.

    Attributes:
        name: Its name.
        dtype: Its type.
        shape: Its shape.
        pieces: Its numbers, in pieces that are made as they are written.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: Iterator[Shaped[np.ndarray, "..."]]


def write_tensors(target: Storage, name: str, tensors: list[TensorSpec]) -> tuple[int, str]:
    """Write a safetensors file whole, streaming; return its size and checksum.

    Raises:
        StorageError: Disk full, read-only or quota.
    """
    # The widest numbers first: then each tensor lies at a multiple of its numbers' size.
    tensors = sorted(tensors, key=lambda each: -SIZES[each.dtype])
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for each in tensors:
        end = at + math.prod(each.shape) * SIZES[each.dtype]
        header[each.name] = {
            "dtype": CODES[each.dtype], "shape": list(each.shape), "data_offsets": [at, end],
        }  # fmt: skip
        at = end
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    crc, size = 0, 0
    with (
        target.replacing(name) as draft,
        storage_errors(f"writing {target.join(name)}"),
        draft.open("wb", buffering=0) as file,
    ):
        for data in _bytes(text, tensors):
            crc, size = crc32c.crc32c(data, crc), size + len(data)
            rest = data
            while rest:
                rest = rest[file.write(rest) :]
    if size != 8 + len(text) + at:
        raise RuntimeError(f"{name}: {size} bytes written, {8 + len(text) + at} promised")
    return size, checksum_text(crc)


def _bytes(header: bytes, tensors: list[TensorSpec]) -> Iterator[memoryview]:
    yield memoryview(len(header).to_bytes(8, "little") + header)
    for each in tensors:
        for piece in each.pieces:
            if piece.size:
                yield np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data


class Safetensors:
    """Writes safetensors.

    Attributes:
        dtypes: All but int8, which has a scale beside it.
    """

    dtypes: tuple[StoreDtype, ...] = ("float32", "float16", "bfloat16")

    def row_bytes(self, hookpoints: dict[str, int], dtype: StoreDtype) -> int:
        """Return how many bytes of a file a row is."""
        return sum(hookpoints.values()) * SIZES[dtype] + 5

    def write(self, job: Job, number: int, group: Group) -> list[ExportedFile]:
        """Write the file of one group of contexts."""
        name = f"chunk-{number:05d}.safetensors"
        segments = job.selection.segments
        segments = segments[(segments[:, 0] >= group.start) & (segments[:, 0] < group.stop)].copy()
        segments[:, 0] -= group.start
        tensors = [
            TensorSpec(hook, job.dtype, (group.rows, width), _rows(job, hook, group))
            for hook, width in job.hookpoints.items()
        ]
        plain = 1 << 20
        store = job.store
        tensors += [
            TensorSpec(
                TOKENS, "int32", (group.rows,),
                (store.tokens(*run) for run in group.runs(at_once=plain)),
            ),
            TensorSpec(
                FLAGS, "uint8", (group.rows,),
                (store.flags(*run) for run in group.runs(at_once=plain)),
            ),
            *(
                TensorSpec(
                    name, "float32", (group.rows,),
                    (store.captured(name, *run) for run in group.runs(at_once=plain)),
                )
                for name in store.record.capture
            ),
            TensorSpec(CONTEXTS, "int64", group.table.shape, iter([group.local()])),
            TensorSpec(SEGMENTS, "int64", segments.shape, iter([segments])),
        ]  # fmt: skip
        size, checksum = write_tensors(job.target, name, tensors)
        job.task.advance(group.rows)
        return [
            ExportedFile(
                path=name, bytes=size, checksum=checksum, rows=group.rows,
                contexts=len(group.table),
            )
        ]  # fmt: skip


def _rows(job: Job, hookpoint: str, group: Group) -> Iterator[Shaped[np.ndarray, "row d"]]:
    at_once = max(AT_ONCE // (job.hookpoints[hookpoint] * SIZES[job.dtype]), 1)
    for start, stop in group.runs(at_once=at_once):
        yield rows_of(job, hookpoint, start, stop)
