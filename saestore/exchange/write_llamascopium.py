"""Exports as llamascopium 2.0 reads cached activations: chunks of padded contexts.

    <hookpoint>/chunk-%08d.safetensors     activation [context, position, d], tokens, mask,
                                           attention_mask [context, position]
    <hookpoint>/chunk-%08d.meta.json       context_idx, dataset_name, model_name of each context

Its `mask` leaves out every row that has a flag here, special or ignored. Padding is token 0 after
the last row of a context; `attention_mask` is 0 there and nowhere else.
"""

import json
from collections.abc import Iterator

import numpy as np
from jaxtyping import Shaped

from saestore.exchange.llamascopium_chunks import ACTIVATION, ATTENTION, MASK, TOKENS
from saestore.exchange.selection import Group
from saestore.exchange.target import Job, rows_of
from saestore.exchange.write_safetensors import AT_ONCE, SIZES, TensorSpec, write_tensors
from saestore_schemas.activations import StoreDtype
from saestore_schemas.exchange import ExportedFile


class Llamascopium:
    """Writes chunks of contexts.

    Attributes:
        dtypes: What torch and safetensors have.
    """

    dtypes: tuple[StoreDtype, ...] = ("float32", "float16", "bfloat16")

    def row_bytes(self, hookpoints: dict[str, int], dtype: StoreDtype) -> int:
        """Return how many bytes of a hookpoint's file a row is, padding left out."""
        return max(hookpoints.values()) * SIZES[dtype] + 16

    def write(self, job: Job, number: int, group: Group) -> list[ExportedFile]:
        """Write one chunk of every hookpoint."""
        name = f"chunk-{number:08d}"
        longest = int(group.table[:, 1].max())
        shape = (len(group.table), longest)
        files = []
        meta = json.dumps(_meta(job, group)).encode()
        for hook, width in job.hookpoints.items():
            path = f"{hook}/{name}.safetensors"
            job.target.write(f"{hook}/{name}.meta.json", meta)
            tensors = [
                TensorSpec(ACTIVATION, job.dtype, (*shape, width), _activations(job, hook, group)),
                TensorSpec(TOKENS, "int64", shape, _tokens(job, group)),
                TensorSpec(MASK, "int32", shape, _mask(job, group)),
                TensorSpec(ATTENTION, "int32", shape, _attention(group)),
            ]
            size, checksum = write_tensors(job.target, path, tensors)
            files.append(
                ExportedFile(
                    path=path, bytes=size, checksum=checksum, rows=group.rows,
                    contexts=len(group.table),
                )
            )  # fmt: skip
        job.task.advance(group.rows)
        return files


def _meta(job: Job, group: Group) -> list[dict[str, object]]:
    sources = job.selection.documents.column("source").to_pylist()
    segments = job.selection.segments
    begins = segments[np.searchsorted(segments[:, 0], np.arange(group.start, group.stop)), 3]
    lm = job.store.record.lm
    return [
        {
            "context_idx": int(context),
            "dataset_name": sources[document],
            "model_name": None if lm is None else lm.model,
        }
        for context, document in zip(
            job.selection.contexts[group.start : group.stop], begins, strict=True
        )
    ]


def _activations(job: Job, hook: str, group: Group) -> Iterator[Shaped[np.ndarray, "..."]]:
    longest, width = int(group.table[:, 1].max()), job.hookpoints[hook]
    at_once = max(AT_ONCE // (longest * width * SIZES[job.dtype]), 1)
    for low in range(0, len(group.table), at_once):
        part = group.table[low : low + at_once]
        rows = [rows_of(job, hook, int(first), int(first + n)) for first, n in part]
        padded = np.zeros((len(part), longest, width), rows[0].dtype)
        for to, values in zip(padded, rows, strict=True):
            to[: len(values)] = values
        yield padded


def _tokens(job: Job, group: Group) -> Iterator[Shaped[np.ndarray, "..."]]:
    padded = np.zeros((len(group.table), int(group.table[:, 1].max())), np.int64)
    for to, (first, length) in zip(padded, group.table, strict=True):
        to[:length] = job.store.tokens(int(first), int(first + length))
    yield padded


def _mask(job: Job, group: Group) -> Iterator[Shaped[np.ndarray, "..."]]:
    padded = np.zeros((len(group.table), int(group.table[:, 1].max())), np.int32)
    for to, (first, length) in zip(padded, group.table, strict=True):
        to[:length] = job.store.flags(int(first), int(first + length)) == 0
    yield padded


def _attention(group: Group) -> Iterator[Shaped[np.ndarray, "..."]]:
    lengths = group.table[:, 1]
    yield (np.arange(int(lengths.max())) < lengths[:, None]).astype(np.int32)
