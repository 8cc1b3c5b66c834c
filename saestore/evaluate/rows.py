"""The scores that need no language model: rows in, reconstructions and codes compared.

One pass over the chosen rows, read ahead in fixed blocks of the store.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float64
from pydantic import JsonValue
from torch import Tensor

from saestore.activations import ActivationStore, Surroundings, WholeContexts, read_ahead
from saestore.dictionaries import ContextRows, Contexts, SparseDictionary
from saestore.dictionaries.contexts import only
from saestore.evaluate import batched, cosines
from saestore.evaluate.feature_table import feature_table
from saestore.evaluate.metrics import Score
from saestore.evaluate.reconstruction import Reconstruction, pooled
from saestore.evaluate.selection import BLOCK_ROWS, Block, blocks, choose
from saestore.evaluate.sparsity import Sparsity
from saestore.evaluate.subject import Subject
from saestore.progress import Progress


@dataclass(frozen=True)
class RowScores:
    """Scores over rows and the facts they rest on.

    Attributes:
        scores: The scores.
        facts: What they rest on.
        means: Mean of the evaluated rows of each reconstructed hookpoint.
        features: One line per feature, as `tables.FEATURE_SCORES`.
    """

    scores: list[Score]
    facts: dict[str, JsonValue]
    means: dict[str, Float64[np.ndarray, " d"]]
    features: pa.Table


def measure(
    subject: Subject,
    limit: int | None,
    *,
    cosines_too: bool,
    device: torch.device,
    progress: Progress,
) -> RowScores:
    """Encode and decode rows of the split and score them.

    Args:
        subject: Dictionary, store and split.
        limit: At most so many rows; None, all of the split.
        cosines_too: Whether features are compared with each other.
        device: Where the dictionary computes.
        progress: Where to report.
    """
    dictionary = subject.dictionary.to(device)
    folded = dictionary.in_raw_units()  # lengths are in raw units
    norms = folded.decoder_norms().detach().cpu().double().numpy()
    written = folded.column_norms().detach().cpu().double().numpy()
    sums = {hook: Reconstruction() for hook in dictionary.hookpoints_out}
    groups = {name: own for each in dictionary.groups.values() for name, own in each.items()}
    sparsity = Sparsity(written, groups, gates=dictionary.gates)
    _pass(subject, dictionary, limit, sums, sparsity, progress)
    means = {
        hook: np.zeros(subject.store.hookpoints[hook].width)
        if each.spread is None
        else each.spread.centre
        for hook, each in sums.items()
    }
    compared = cosines.Compared.of(folded, progress) if cosines_too else None
    several = len(sums) > 1
    scores = [
        score for hook, each in sums.items() for score in each.scores(f"@{hook}" if several else "")
    ]
    if several:
        factors = [dictionary.scales[hook].record.a for hook in sums]
        scores += pooled(list(sums.values()), factors)
    scores += sparsity.scores()
    scores += [] if compared is None else compared.scores()
    facts: dict[str, JsonValue] = {
        "rows": sparsity.rows,
        "contexts": sparsity.contexts,
        "block_rows": BLOCK_ROWS,
        "batch_rows": batched.BATCH_ROWS,
        "zero_rows": {hook: each.zero_rows for hook, each in sums.items()},
    }
    return RowScores(scores, facts, means, feature_table(sparsity, norms, compared))


def _pass(
    subject: Subject,
    dictionary: SparseDictionary,
    limit: int | None,
    sums: dict[str, Reconstruction],
    sparsity: Sparsity,
    progress: Progress,
) -> None:
    """Read, encode, decode and add every chosen row once."""
    store = subject.store
    contexts = store.contexts()
    chosen = choose(contexts, subject.split, limit)
    # Only the flags say how many rows are kept; looking at them costs little beside encoding.
    total = sum(len(block.rows) for block in blocks(store, contexts, chosen, limit=limit))
    hooks = tuple(dict.fromkeys((*dictionary.hookpoints_in, *dictionary.hookpoints_out)))
    wanted = blocks(store, contexts, chosen, limit=limit)
    with progress.task("reconstruct rows", total=total, unit="row") as task:
        for block, kept in read_blocks(store, dictionary, hooks, wanted):
            inputs = only(kept, dictionary.hookpoints_in)
            code = dictionary.encode(inputs)
            outputs = dictionary.decode(code, inputs)
            for hook, each in sums.items():
                each.update(kept[hook].numpy(), outputs[hook].cpu().numpy())
            sparsity.update(
                code.row_ids.cpu().numpy(),
                code.indices.cpu().numpy(),
                code.values.cpu().numpy(),
                block.contexts,
            )
            task.advance(len(block.rows))


def read_blocks(
    store: ActivationStore,
    dictionary: SparseDictionary,
    hookpoints: Sequence[str],
    wanted: Iterable[Block],
) -> Iterator[tuple[Block, Mapping[str, Tensor]]]:
    """Yield blocks with their rows, in the contexts they lie in where the dictionary reads these.

    The reader takes blocks ahead of the loop that uses them.

    Args:
        store: Where the rows lie.
        dictionary: Who reads them.
        hookpoints: What is read.
        wanted: Which rows.
    """
    whole = WholeContexts(store) if dictionary.reads_contexts else None
    coming, ahead = itertools.tee((block, _around(block, whole)) for block in wanted)
    runs = (block.runs if around is None else around.runs for block, around in ahead)
    most = BLOCK_ROWS if whole is None else BLOCK_ROWS + 2 * whole.longest
    rows = read_ahead(store, hookpoints, runs, most=most)
    for (block, around), read in zip(coming, rows, strict=True):
        if around is None:
            yield block, {hook: kept_rows(each, block) for hook, each in read.items()}
        else:
            yield block, ContextRows(read, Contexts.of(around))


def _around(block: Block, whole: WholeContexts | None) -> Surroundings | None:
    return None if whole is None else whole.around(block.rows)


def kept_rows(read: Tensor, block: Block) -> Tensor:
    """Return the wanted rows among those read; no copy where all are wanted."""
    if len(block.places) == len(read):
        return read
    return read[torch.from_numpy(block.places)]
