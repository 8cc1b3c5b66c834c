"""The scores that need no language model: rows in, reconstructions and codes compared.

Two passes over the chosen rows: the first only reads, for their mean, which the legacy forms need
before the first row; the second encodes and decodes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64
from pydantic import JsonValue

from saestore.dictionaries import SparseDictionary
from saestore.evaluate.metrics import Score
from saestore.evaluate.reconstruction import Reconstruction, Spread
from saestore.evaluate.selection import BLOCK_ROWS, Block, blocks, choose, read_rows
from saestore.evaluate.sparsity import Sparsity
from saestore.evaluate.subject import Subject
from saestore.progress import Progress


@dataclass(frozen=True)
class RowScores:
    """Scores over rows and the facts they rest on."""

    scores: list[Score]
    facts: dict[str, JsonValue]


def measure(
    subject: Subject, *, limit: int | None, device: torch.device, progress: Progress
) -> RowScores:
    """Encode and decode rows of the split and score them.

    Args:
        subject: Dictionary, store and split.
        limit: At most so many rows, from contexts spread evenly over the split; None for all.
        device: Where the dictionary computes.
        progress: Where to report.
    """
    dictionary = subject.dictionary.to(device)
    contexts = subject.store.contexts()
    chosen = choose(contexts, subject.split, limit)
    total = int(contexts[chosen, 1].sum())
    total = total if limit is None else min(total, limit)

    def pieces() -> Iterator[Block]:
        return blocks(subject.store, contexts, chosen, limit=limit)

    hooks = dictionary.hookpoints_out
    with progress.task("mean of the rows", total=total, unit="row") as task:
        centres = {hook: np.zeros(subject.store.hookpoints[hook].width) for hook in hooks}
        spreads: dict[str, Spread] = {}
        for block in pieces():
            for hook in hooks:
                part = Spread.of(read_rows(subject.store, hook, block.rows))
                spreads[hook] = spreads[hook].merge(part) if hook in spreads else part
            task.advance(len(block.rows))
        centres.update({hook: spread.centre for hook, spread in spreads.items()})
        total = next((spread.count for spread in spreads.values()), 0)
    sums = {hook: Reconstruction(centre) for hook, centre in centres.items()}
    sparsity = Sparsity(raw_decoder_norms(dictionary))
    with progress.task("reconstruct rows", total=total, unit="row") as task:
        for block in pieces():
            _add(dictionary, subject, block, sums, sparsity)
            task.advance(len(block.rows))
    scores = [
        score
        for hook, each in sums.items()
        for score in each.scores("" if len(hooks) == 1 else f"@{hook}")
    ]
    facts: dict[str, JsonValue] = {
        "rows": sparsity.rows,
        "contexts": sparsity.contexts,
        "block_rows": BLOCK_ROWS,
        "zero_rows": {hook: each.zero_rows for hook, each in sums.items()},
    }
    return RowScores([*scores, *sparsity.scores()], facts)


def _add(
    dictionary: SparseDictionary,
    subject: Subject,
    block: Block,
    sums: dict[str, Reconstruction],
    sparsity: Sparsity,
) -> None:
    read: dict[str, Float32[np.ndarray, "row _"]] = {
        hook: read_rows(subject.store, hook, block.rows)
        for hook in dict.fromkeys((*dictionary.hookpoints_in, *dictionary.hookpoints_out))
    }
    inputs = {hook: torch.from_numpy(read[hook]) for hook in dictionary.hookpoints_in}
    code = dictionary.encode(inputs)
    outputs = dictionary.decode(code, inputs)
    for hook, each in sums.items():
        each.update(read[hook], outputs[hook].cpu().numpy())
    sparsity.update(
        code.row_ids.cpu().numpy(),
        code.indices.cpu().numpy(),
        code.values.cpu().numpy(),
        block.contexts,
    )


def raw_decoder_norms(dictionary: SparseDictionary) -> Float64[np.ndarray, " d_sae"]:
    """Return the length of each decoder vector in raw units."""
    external = any(scale.external for scale in dictionary.scales.values())
    folded = dictionary.folded() if external else dictionary
    norms: Float64[np.ndarray, " d_sae"] = folded.decoder_norms().detach().cpu().double().numpy()
    return norms
