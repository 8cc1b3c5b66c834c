"""Steps of a transcoder with a skip and of a Lorsa, each against dense matrices (`dense_step`)."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.dense_step import Batch, DenseStep, beside, strongest, trainer
from benchmarks.harness import Options, Setup
from saestore.dictionaries import ContextRows, Contexts
from saestore_schemas.attention import AttentionSettings
from saestore_schemas.dictionary import TopK
from saestore_schemas.families import (
    DictionarySettings,
    LorsaSettings,
    TranscoderSettings,
)


D, FEATURES, K, BATCH = 512, 8192, 32, 1024
"""Width of every hookpoint, features, those kept, rows of a step."""
READS, WRITES = "synthetic.in", "synthetic.out"
GROUPS, WIDTH, CONTEXT = 8, 64, 128
"""Groups of the Lorsa, width of their queries, rows of a context."""


def batches(count: int = 3) -> list[dict[str, Tensor]]:
    """Return rows, and what a random MLP makes of them."""
    draw = torch.Generator().manual_seed(1)
    mixing = torch.randn(D, D, generator=draw) / D**0.5
    rows = [torch.randn(BATCH, D, generator=draw) for _ in range(count)]
    return [{READS: x, WRITES: torch.relu(x @ mixing)} for x in rows]


def in_contexts(batch: Mapping[str, Tensor]) -> ContextRows:
    """Return rows as those of contexts of one length with a document each."""
    rows = torch.arange(BATCH)
    offsets = torch.arange(0, BATCH + 1, CONTEXT)
    return ContextRows(batch, Contexts(offsets, torch.ones_like(rows), rows))


class DenseTranscoder(DenseStep):
    """Codes with their zeros, and the skip."""

    def loss(self, batch: Batch) -> Tensor:
        """Return the squared error of normalised rows."""
        w, rows = self.tensors, self.like.normalise(batch)
        x = rows[READS]
        code = strongest(x @ w["W_enc"] + w["b_enc"], K)
        found = code @ w["W_dec"] + w["b_dec"] + x @ w["W_skip"]
        return (found - rows[WRITES]).square().sum() / len(x)


class DenseLorsa(DenseStep):
    """All contexts at once, patterns of all groups kept for the gradient."""

    def loss(self, batch: Batch) -> Tensor:
        """Return the squared error of normalised rows."""
        w, rows = self.tensors, self.like.normalise(batch)
        x = rows[READS].view(-1, CONTEXT, D)
        q, k = (
            torch.einsum("ctd,hdk->chtk", x, w[f"W_{side}"]) + w[f"b_{side}"][:, None]
            for side in "QK"
        )
        later = torch.ones(CONTEXT, CONTEXT, dtype=torch.bool).triu(1)
        scores = (q @ k.mT / WIDTH**0.5).masked_fill(later, -torch.inf)
        values = (x @ w["W_V"].T + w["b_V"]).view(len(x), CONTEXT, GROUPS, -1).transpose(1, 2)
        z = (scores.softmax(dim=-1) @ values).transpose(1, 2).reshape(BATCH, FEATURES)
        found = strongest(z, K) @ w["W_O"] + w["b_dec"]
        return (found - rows[WRITES]).square().sum() / len(found)


@dataclass(frozen=True)
class FamilyStep:
    """Whole steps of one family.

    Attributes:
        name: Of the benchmark.
        doc: What is compared.
        settings: What is trained.
        dense: The reference.
        wanted: How many times as fast ours is to be.
        arranged: Batches as the family takes them.
    """

    name: str
    doc: str
    settings: DictionarySettings
    dense: type[DenseStep]
    wanted: float
    arranged: Callable[[Mapping[str, Tensor]], Batch] = dict

    @contextmanager
    def setup(self, options: Options) -> Iterator[Setup]:
        """Make trainers and batches in memory."""
        if options.threads:
            torch.set_num_threads(options.threads)
        given = [self.arranged(batch) for batch in batches()]
        mine = trainer(self.settings, given[0])
        shapes = f"{D} -> {FEATURES} -> {D}, k {K}, {BATCH} rows, float32"
        yield beside(
            mine,
            self.dense(mine.dictionary, mine.dictionary.tensors()),
            given,
            wanted=self.wanted,
            sizes={"shapes": shapes},
        )


BENCHES = {
    bench.name: bench
    for bench in (
        FamilyStep(
            "transcoder_step",
            f"a step of a transcoder with a skip, {D} -> {FEATURES}, against dense matrices",
            TranscoderSettings(
                family="transcoder", hookpoint_in=READS, hookpoint_out=WRITES, skip=True,
                d_sae=FEATURES, activation=TopK(k=K), gate_on_decoder_norm=False,
            ),
            DenseTranscoder,
            wanted=2.0,
        ),
        FamilyStep(
            "lorsa_step",
            f"a step of a Lorsa, {GROUPS} groups of {FEATURES // GROUPS} features, against dense attention",
            LorsaSettings(
                family="lorsa", hookpoint_in=READS, hookpoint_out=WRITES, d_sae=FEATURES,
                activation=TopK(k=K), gate_on_decoder_norm=False,
                attention=AttentionSettings(n_qk=GROUPS, d_qk=WIDTH),
            ),
            DenseLorsa,
            wanted=1.2,
            arranged=in_contexts,
        ),
    )
}  # fmt: skip
