"""Activation stores without a language model: planted or random rows, with text."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64, UInt8
from pydantic import JsonValue

from saestore.activations import ActivationStore, Cursor, RowBatch, Spec, StoreWriter, deviations
from saestore.lake import Lake, Ref, layout, manifest as manifests
from saestore.lake.lock import writing
from saestore_schemas import tables
from saestore_schemas.activations import FLAG_SPECIAL, StoreDtype, StoreSettings
from saestore_schemas.corpus import CorpusSettings, StdlibSource
from saestore_schemas.generate import GenerateSettings
from saestore_schemas.lm import LmSettings


HOOKPOINT = "blocks.1.hook_resid_post"
VOCABULARY = 61
"""Token ids 0 (BOS) to 60; byte pieces of accented words among them."""


def synthetic_vocabulary() -> pa.Table:
    """Return a small vocabulary: BOS, words with a leading space, and single bytes of é."""
    pieces = [b"<bos>"] + [f" w{n}".encode() for n in range(1, VOCABULARY - 2)]
    pieces += ["é".encode()[:1], "é".encode()[1:]]
    return pa.table(
        [
            pa.array(range(VOCABULARY), pa.uint32()),
            pa.array([p.decode(errors="replace") for p in pieces]),
            pa.array(pieces, pa.binary()),
            pa.array([n == 0 for n in range(VOCABULARY)]),
            pa.nulls(VOCABULARY, pa.uint64()),
        ],
        schema=tables.VOCABULARY.schema(),
    )


def synthetic_rows(
    rows: int, width: int, *, seed: int, hookpoint: str = HOOKPOINT
) -> Float32[np.ndarray, "row d"]:
    """Return rows with unequal scales per dimension and a mean far from zero."""
    digest = hashlib.sha256(hookpoint.encode()).digest()
    rng = np.random.default_rng((seed, int.from_bytes(digest[:4], "little")))
    scale = np.linspace(0.5, 3.0, width)
    return (rng.normal(size=(rows, width)) * scale + np.linspace(-2, 5, width)).astype(np.float32)


def synthetic_store(
    lake: Lake,
    name: str = "synthetic",
    *,
    rows: int = 600,
    width: int = 7,
    hookpoints: tuple[str, ...] = (HOOKPOINT,),
    dtype: StoreDtype = "float32",
    context_size: int = 32,
    seed: int = 0,
    values: dict[str, Float32[np.ndarray, "row d"]] | None = None,
    tokens: Int64[np.ndarray, " row"] | None = None,
    flags: UInt8[np.ndarray, " row"] | None = None,
    lengths: Int64[np.ndarray, " context"] | None = None,
    store: StoreSettings | None = None,
    imported: bool = False,
    lm: str = "synthetic",
    norm_scale: Float32[np.ndarray, " row"] | None = None,
    vocabulary: pa.Table | None = None,
) -> ActivationStore:
    """Write a store of random or given rows and return it.

    Args:
        lake: Where.
        name: Its name.
        rows: Rows, unless `values` says.
        width: Width of each hookpoint, unless `values` says.
        hookpoints: Hookpoints, unless `values` says.
        dtype: Stored type.
        context_size: Rows of a context; the last is shorter. A context begins with BOS.
        seed: Of everything random.
        values: The rows of each hookpoint.
        tokens: Their token ids; absent, random with BOS first in each context.
        flags: Their flags; absent, BOS is special and nothing is ignored.
        lengths: Rows of each context, if they are to be ragged.
        store: Shape on disk; absent, small chunks and shards.
        imported: As if nobody had said which language model it is of.
        lm: Name of that language model.
        norm_scale: By what its final norm divides each row; absent, as if that was not captured.
        vocabulary: What the tokens are; absent, `synthetic_vocabulary()`.
    """
    if values is None:
        values = {h: synthetic_rows(rows, width, seed=seed, hookpoint=h) for h in hookpoints}
    rows = len(next(iter(values.values())))
    if lengths is None:
        full, rest = divmod(rows, context_size)
        lengths = np.array([context_size] * full + [rest] * (rest > 0), np.int64)
    firsts = np.cumsum(lengths) - lengths
    if tokens is None:
        tokens = np.random.default_rng((seed, 1)).integers(1, VOCABULARY, rows)
        tokens[firsts] = 0
    if flags is None:
        flags = np.where(tokens == 0, FLAG_SPECIAL, 0).astype(np.uint8)
    settings = GenerateSettings(
        name=name,
        lm=LmSettings(model=lm),
        corpus=CorpusSettings(sources=(StdlibSource(),), context_size=max(int(lengths.max()), 2)),
        hookpoints=tuple(values),
        dtype=dtype,
        capture=() if norm_scale is None else ("final_norm_scale",),
        store=store or StoreSettings(chunk_kib=1, shard_mib=0.05),
    )
    record = settings.record()
    if imported:
        record = record.model_copy(update={"lm": None})
    spec = Spec({h: v.shape[1] for h, v in values.items()}, record)
    batch = RowBatch(
        hooks=values,
        tokens=tokens.astype(np.int32),
        flags=flags,
        lengths=lengths,
        segments=_segments(tokens, lengths),
        documents=[_document(c, int(n)) for c, n in enumerate(lengths)],
        captured={} if norm_scale is None else {"final_norm_scale": norm_scale},
    )
    words = synthetic_vocabulary() if vocabulary is None else vocabulary
    return _write(lake, settings, spec, batch, words)


def _write(
    lake: Lake, settings: GenerateSettings, spec: Spec, batch: RowBatch, vocabulary: pa.Table
) -> ActivationStore:
    ref = Ref("activations", settings.name)
    run = manifests.Run.of(ref, settings)
    artefact = lake.artefact(ref)
    lm = settings.lm.model
    weights = "0" * 64 if lm == "synthetic" else hashlib.sha256(lm.encode()).hexdigest()
    facts: dict[str, JsonValue] = {"lm": {"name": lm, "revision": None, "fingerprint": weights}}
    shelf = pa.schema([("shelf", pa.string())])
    with writing(artefact, name=ref.name):
        if manifests.begin(artefact, run) is None:
            found = None
            if spec.dtype == "int8":
                found = deviations.measure([(batch.hooks, batch.flags)])
                found = found or deviations.ones(spec.hookpoints)
            with StoreWriter(artefact, spec, metadata=shelf, deviations=found) as writer:
                writer.append(batch, Cursor(0, 0), tally={})
                writer.finish(run, vocabulary=vocabulary, facts=facts)
    return ActivationStore.open(lake, ref.name)


def _segments(
    tokens: Int64[np.ndarray, " row"], lengths: Int64[np.ndarray, " context"]
) -> Int64[np.ndarray, "segment 6"]:
    """One document per context, after its BOS if it begins with one."""
    firsts = np.cumsum(lengths) - lengths
    skip = (tokens[firsts] == 0).astype(np.int64)
    index = np.arange(len(lengths))
    columns = [index, skip, lengths - skip, index, np.zeros_like(index), np.zeros_like(index)]
    return np.stack(columns, axis=1)


def _document(index: int, n_tokens: int) -> dict[str, object]:
    return {
        "document": index,
        "document_id": f"document-{index}",
        "source": "synthetic" if index % 3 else "other",
        "n_tokens": n_tokens,
        "n_chars": n_tokens * 3,
        "text": None,
        "shelf": "AB"[index % 2],
    }


@contextmanager
def scratch_lake() -> Iterator[Lake]:
    """Give an empty lake that is gone afterwards, in memory where the machine has such a folder.

    Stores sync every shard; on a disk that is what a law with a hundred small stores waits for.
    """
    memory = Path("/dev/shm")  # noqa: S108 - a folder of random name is made in it
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Lake.at(folder)


def payload_bytes(lake: Lake, ref: Ref) -> dict[str, bytes]:
    """Return every file of a finished artefact but the manifest, which has a date.

    The lock of a process that was killed with nothing left to do is left out too: the next writer
    takes it over.
    """
    artefact = lake.artefact(ref)
    left_out = {layout.MANIFEST, layout.LOCK}
    return {path: artefact.read(path) for path in artefact.files() if path not in left_out}
