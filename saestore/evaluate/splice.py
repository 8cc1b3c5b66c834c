"""What the language model loses when a dictionary's reconstruction stands in for activations.

    delta_ce        = CE_dict - CE_clean                                  nats per predicted token
    ce_recovered[a] = (CE_a - CE_dict) / (CE_a - CE_clean)                a: zero, mean
    kl[w]           = KL(clean distribution || that of w)                 w: dict, zero, mean
    kl_recovered[a] = 1 - KL_dict / KL_a

By default only kept positions are replaced: BOS, separators and ignored tokens keep their
activations, as training never saw them and their outsized norms would decide everything. Counted
are the predictions made from kept positions, whatever is replaced. Several hookpoints are replaced
in one forward, each from the clean activations (`parallel`). Recovery against zero ablation is
often above .95 for bad dictionaries: read `delta_ce` first.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32, Int64, UInt8
from torch import Tensor

from saestore.dictionaries import ContextRows, Contexts
from saestore.evaluate.metrics import Score
from saestore.lm import Predictions


UNDEFINED_BELOW = 1e-6
"""Nats: a share of a smaller ablation effect says nothing."""

INTERVENTIONS = ("clean", "dict", "zero", "mean")
"""Forward passes over each batch."""

ABLATIONS = ("zero", "mean")
"""What a reconstruction's damage is compared with."""

Positions = Literal["kept", "all"]
"""Which positions are replaced."""

Patch = Callable[[Tensor], Tensor]


@runtime_checkable
class Model(Protocol):
    """What is asked of the language model."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    def final_rows(
        self,
        tokens: Int64[Tensor, "batch position"],
        *,
        patches: Mapping[str, Patch] | None = None,
    ) -> Float[Tensor, "batch position d_model"]:
        """Return what enters the unembedding, some hookpoints replaced."""
        ...

    def predictions(
        self,
        clean: Float[Tensor, "row d_model"],
        others: Sequence[Float[Tensor, "row d_model"]],
        targets: Int64[Tensor, " row"],
    ) -> list[Predictions]:
        """Return how such rows predict the tokens after them, and others in their place."""
        ...


class Batch(NamedTuple):
    """Contexts padded on the right to one length.

    Attributes:
        tokens: Token ids; padding is 0.
        replaced: Positions that are replaced; never padding.
        predicted: Kept positions that have a next token.
        around: The contexts without padding, and which of their rows are replaced.
    """

    tokens: Int64[Tensor, "batch position"]
    replaced: Bool[Tensor, "batch position"]
    predicted: Bool[Tensor, "batch position"]
    around: Contexts


def pad(
    tokens: Sequence[Int32[np.ndarray, " _"]],
    flags: Sequence[UInt8[np.ndarray, " _"]],
    *,
    positions: Positions = "kept",
    documents: Sequence[Int64[np.ndarray, " _"]] | None = None,
) -> Batch:
    """Return contexts as one batch.

    Args:
        tokens: Token ids of each context.
        flags: Flags of each position; 0 is kept.
        positions: Which are replaced: the kept ones, or all.
        documents: Which document of its context each position belongs to; absent, all to one.
    """
    shape = (len(tokens), max(len(each) for each in tokens))
    ids = torch.zeros(shape, dtype=torch.int64)
    replaced = torch.zeros(shape, dtype=torch.bool)
    predicted = torch.zeros(shape, dtype=torch.bool)
    for row, (some, marks) in enumerate(zip(tokens, flags, strict=True)):
        ids[row, : len(some)] = torch.from_numpy(some.astype(np.int64))
        kept = torch.from_numpy(marks == 0)
        replaced[row, : len(some)] = kept if positions == "kept" else True
        predicted[row, : len(some) - 1] = kept[:-1]
    return Batch(ids, replaced, predicted, _around(tokens, replaced, documents))


def _around(
    tokens: Sequence[Int32[np.ndarray, " _"]],
    replaced: Bool[Tensor, "batch position"],
    documents: Sequence[Int64[np.ndarray, " _"]] | None,
) -> Contexts:
    """Return the contexts one after the other, without padding, the replaced rows wanted."""
    lengths = [len(each) for each in tokens]
    there = [row[:length] for row, length in zip(replaced, lengths, strict=True)]
    offsets = torch.tensor([0, *itertools.accumulate(lengths)])
    own = torch.ones(sum(lengths), dtype=torch.int64)
    if documents is not None:
        own = torch.from_numpy(np.concatenate(documents))
    return Contexts(offsets, own, torch.cat(there).nonzero()[:, 0])


class Splice:
    """Cross-entropies and divergences summed over batches.

    Args:
        model: The language model.
        reads: Hookpoints whose activations `reconstruct` takes from the model.
        reconstruct: Replaced rows by hookpoint to their reconstructions by hookpoint, raw units.
        means: Mean row of every hookpoint that is replaced; others stay as they are.
        whole: Whether it takes them in the contexts they lie in.
        named: What hookpoints are called in the model, where that is another name.
    """

    def __init__(
        self,
        model: Model,
        *,
        reads: Sequence[str],
        reconstruct: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
        means: Mapping[str, Float[Tensor, " d"]],
        whole: bool = False,
        named: Mapping[str, str] | None = None,
    ) -> None:
        self._model = model
        self._whole = whole
        self._named = named or {}
        self._reads = tuple(reads)
        self._reconstruct = reconstruct
        self._means = dict(means)
        self._nats = dict.fromkeys(INTERVENTIONS, 0.0)
        self._divergence = dict.fromkeys(INTERVENTIONS, 0.0)
        self.predictions = 0
        self.replaced = 0

    def update(
        self, batch: Batch, beside: Mapping[str, Float[Tensor, "row _"]] | None = None
    ) -> None:
        """Add one batch: four forward passes, and the unembedding of what is counted.

        Args:
            batch: Contexts.
            beside: What `reconstruct` takes of other models: rows of the positions that it reads here.
        """
        device = self._model.device
        tokens, counted = batch.tokens.to(device), batch.predicted.to(device)
        replaced = batch.replaced.to(device)
        seen = {name: rows.to(device) for name, rows in (beside or {}).items()}
        read = _there(batch).to(device) if self._whole else replaced
        recorded = {self._named.get(name, name): _record(name, read, seen) for name in self._reads}
        clean = self._model.final_rows(tokens, patches=recorded)[counted]
        others = [
            self._model.final_rows(tokens, patches=patches)[counted]
            for patches in self._interventions(replaced, self._given(batch, seen))
        ]
        found = self._model.predictions(clean, others, tokens.roll(-1, dims=1)[counted])
        for name, each in zip(INTERVENTIONS, found, strict=True):
            self._nats[name] += float(each.losses.double().sum())
            self._divergence[name] += float(each.divergences.double().sum())
        self.predictions += int(batch.predicted.sum())
        self.replaced += int(batch.replaced.sum())

    def _given(self, batch: Batch, seen: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return what was read as the dictionary takes it."""
        if not self._whole:
            return seen
        return ContextRows(seen, batch.around.to(self._model.device))

    def _interventions(
        self, replaced: Bool[Tensor, "batch position"], seen: Mapping[str, Tensor]
    ) -> list[dict[str, Patch]]:
        """Return what is put in place, in the order of `INTERVENTIONS` after the clean pass."""
        outputs = {n: out for n, out in self._reconstruct(seen).items() if n in self._means}
        zeros = {name: torch.zeros_like(out) for name, out in outputs.items()}
        means = {name: self._means[name].expand_as(out) for name, out in outputs.items()}
        return [
            {self._named.get(n, n): _replace(replaced, rows) for n, rows in by_name.items()}
            for by_name in (outputs, zeros, means)
        ]

    def scores(self) -> list[Score]:
        """Return the cross-entropies, the divergences and the recovered shares."""
        n = self.predictions
        ce = {what: nats / n if n else None for what, nats in self._nats.items()}
        kl = {what: nats / n if n else None for what, nats in self._divergence.items()}
        return [
            *(Score(f"ce[{what}]", value, n) for what, value in ce.items()),
            Score("delta_ce", difference(ce["dict"], ce["clean"]), n),
            *(
                Score(f"ce_recovered[{what}]", recovered(ce[what], ce["dict"], ce["clean"]), n)
                for what in ABLATIONS
            ),
            *(Score(f"kl[{what}]", kl[what], n) for what in INTERVENTIONS[1:]),
            *(
                Score(f"kl_recovered[{what}]", recovered(kl[what], kl["dict"], kl["clean"]), n)
                for what in ABLATIONS
            ),
        ]


def difference(left: float | None, right: float | None) -> float | None:
    """Return `left - right`, None when either is undefined."""
    return None if left is None or right is None else left - right


def recovered(ablated: float | None, replaced: float | None, clean: float | None) -> float | None:
    """Return the share of the ablation's damage that the reconstruction avoids.

    Returns:
        None when the ablation does less than 1e-6 nats.
    """
    if ablated is None or replaced is None or clean is None:
        return None
    damage = ablated - clean
    return None if abs(damage) < UNDEFINED_BELOW else (ablated - replaced) / damage


def _there(batch: Batch) -> Bool[Tensor, "batch position"]:
    """Return which positions are no padding."""
    lengths = batch.around.offsets.diff().unsqueeze(1)
    return torch.arange(batch.tokens.shape[1]) < lengths


def _record(name: str, at: Bool[Tensor, "batch position"], seen: dict[str, Tensor]) -> Patch:
    def patch(activation: Tensor) -> Tensor:
        seen[name] = activation[at].float()
        return activation

    return patch


def _replace(at: Bool[Tensor, "batch position"], rows: Tensor) -> Patch:
    def patch(activation: Tensor) -> Tensor:
        changed = activation.clone()
        changed[at] = rows.to(changed)
        return changed

    return patch
