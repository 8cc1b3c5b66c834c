"""Rows to firings: the only part of an analysis that computes with the dictionary.

Rows are encoded in fixed blocks aligned to the store, whole even where only a part is analysed. A
matrix product may round a row differently when its block has another size, so fixed blocks are what
makes every table the same, byte for byte, whatever part, batch or worker asks for it. Where a
dictionary reads contexts, those of a block's rows are read along, whole.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saestore.activations import WholeContexts
from saestore.analyze.pieces import Encoded
from saestore.analyze.rows import Rows
from saestore.analyze.scope import Scope
from saestore.analyze.sort import Firings
from saestore.analyze.values import stored
from saestore.analyze.weights import WeightFacts
from saestore.dictionaries import (
    ContextRows,
    Contexts,
    SparseCode,
    SparseDictionary,
    contexts,
)
from saestore_schemas.analyze import AnalyzeSettings


Seen = Callable[[SparseCode, Mapping[str, Tensor], int], None]
"""Takes the code of some rows, the rows, and the first one's number."""

_PRE_ACTIVATIONS = 1 << 24
"""Pre-activations of one block, at most: 64 MiB of float32."""


def block_rows(d_sae: int) -> int:
    """Return the rows of one block: a power of two, a function of the dictionary alone."""
    most = max(64, min(4096, _PRE_ACTIVATIONS // d_sae))
    return 1 << (most.bit_length() - 1)


def firings(
    store: Rows,
    folded: SparseDictionary,
    scope: Scope,
    settings: AnalyzeSettings,
    *,
    device: torch.device,
    seen: Sequence[Seen] = (),
    span: tuple[int, int],
    at_gates: bool = False,
) -> Iterator[Encoded]:
    """Return the firings of each block in order.

    Args:
        store: The activation store, or rows of texts.
        folded: The folded dictionary, on the device.
        scope: Which rows are analysed.
        settings: How values are stored.
        device: Where the dictionary is.
        seen: Each is called with the code of a block, its rows, and the first one's number.
        span: First row, where a block begins, and the one after the last.
        at_gates: Whether the firings at each gate are wanted too.

    Raises:
        OverflowRowError: A value does not fit `value_dtype`.
        DamagedArtefactError: The store's bytes are not what they should be.
    """
    size = block_rows(folded.columns)
    first_row, last_row = span
    whole = WholeContexts(store) if folded.reads_contexts else None

    def read(start: int) -> Mapping[str, Tensor]:
        stop = min(start + size, store.n_rows)
        if whole is None:
            return _read(store, folded.hookpoints_in, start, stop)
        around = whole.around(np.arange(start, stop))
        ((first, last),) = around.runs  # neighbours
        found = _read(store, folded.hookpoints_in, first, last)
        return ContextRows(found, Contexts.of(around))

    signed = folded.activation.firing == "nonzero"
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read, first_row)
        for start in range(first_row, last_row, size):
            inputs = contexts.each(ahead.result(), lambda _, part: part.to(device))
            if start + size < last_row:
                ahead = reader.submit(read, start + size)
            code = folded.encode(inputs)
            for each in seen:
                each(code, inputs, start)
            gates = _by_gate(code, folded.gates) if at_gates else None
            placed = partial(_placed, start=start, scope=scope, settings=settings, signed=signed)
            yield Encoded(
                min(size, last_row - start),
                placed(folded.by_feature(code)),
                None if gates is None else placed(gates),
            )


def _read(
    store: Rows, hookpoints: Sequence[str], start: int, stop: int
) -> dict[str, Float[Tensor, "row d_in"]]:
    """Return rows of each hookpoint."""
    return {
        hook: torch.from_numpy(np.ascontiguousarray(store.read(hook, start, stop)))
        for hook in hookpoints
    }


def _by_gate(code: SparseCode, gates: int) -> SparseCode:
    """Return a code with the gates of a feature beside each other instead of the features of a gate."""
    features = code.d_sae // gates
    return replace(code, indices=code.indices % features * gates + code.indices // features)


def _placed(
    code: SparseCode, *, start: int, scope: Scope, settings: AnalyzeSettings, signed: bool
) -> Firings:
    """Return a block's firings on kept rows, with context and position.

    Args:
        code: The block's.
        start: Its first row.
        scope: Which rows are kept.
        settings: How values are stored.
        signed: Whether what is below zero fires too.
    """
    n = min(code.n_rows, len(scope.tokens) - start)
    row = start + np.arange(n)
    context = np.searchsorted(scope.start, row, side="right") - 1
    position = row - scope.start[context]
    counts = np.diff(_numpy(code.offsets))[:n]
    total = int(counts.sum())
    values = _numpy(code.values)[:total]
    fires = values != 0 if signed else values > 0
    fired = np.repeat(np.asarray(scope.kept[start : start + n]), counts) & fires
    return Firings(
        feature=_numpy(code.indices)[:total][fired].astype(np.uint32),
        context=np.repeat(context.astype(np.uint32), counts)[fired],
        position=np.repeat(position.astype(np.uint16), counts)[fired],
        value=stored(values[fired].astype(np.float32), settings.value_dtype),
    )


def weight_facts(folded: SparseDictionary) -> WeightFacts:
    """Return what the folded weights say about each feature."""
    thresholds = folded.thresholds() if folded.gates == 1 else None  # one of each gate: none of all
    ranks = folded.ranks()
    norms = _numpy(folded.encoder_norms()), _numpy(folded.decoder_norms())
    cosine = _numpy(folded.enc_dec_cosine()).astype(np.float32)
    cosine[(norms[0] == 0) | (norms[1] == 0)] = np.nan
    layers = folded.layers
    return WeightFacts(
        enc_norm=norms[0].astype(np.float32),
        dec_norm=norms[1].astype(np.float32),
        enc_dec_cos=cosine,
        b_enc=_numpy(folded.encoder_bias()).astype(np.float32),
        threshold=None if thresholds is None else _numpy(thresholds).astype(np.float32),
        layer_features=layers[0].features.stop if len(layers) > 1 else None,
        rank=None if ranks is None else _numpy(ranks).astype(np.uint16),
    )


def _numpy(tensor: Tensor) -> np.ndarray:
    found: np.ndarray = tensor.detach().cpu().numpy()
    return found
