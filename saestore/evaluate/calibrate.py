"""The threshold at which a BatchTopK dictionary fires k times on a row: found on the store's rows.

Training keeps the k largest a row over a batch; afterwards a row's code must not depend on its mates,
so features fire where their gate score exceeds one threshold. It is exact on the calibration rows,
two passes over up to `ROWS` rows of the contexts that trained, spread evenly over them, of each
source by its weight. Where k counts in each layer or at each head, each has a threshold of its own. How well it carries over is measured on contexts that training held out.

Source: Bussmann et al. 2024 (arXiv:2412.06410) for the threshold; the exact order statistic is
`dictionaries.calibration`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from saestore.activations import (
    ActivationStore,
    RowChoice,
    Split,
    with_contexts,
)
from saestore.dictionaries import Calibrated, Calibration, SparseDictionary
from saestore.evaluate.intervals import context_interval
from saestore.evaluate.rows import read_blocks
from saestore.evaluate.selection import Block, blocks, spread
from saestore.lake import Lake
from saestore.progress import Progress, Silent
from saestore_schemas.activations import FLAG_BITS
from saestore_schemas.dictionary import ThresholdInference
from saestore_schemas.train import ActivationsSettings


ROWS = 1 << 18
"""Rows of calibration, at most: L0 is then known to about a third of a percent, as rows of a context
are alike."""

HELD_OUT_ROWS = 1 << 17
"""Held-out rows on which L0 is measured, at most."""

_SILENT = Silent()


@dataclass(frozen=True)
class HeldOut:
    """L0 on rows that were not calibrated on.

    Attributes:
        rows: How many.
        l0: Firings per row.
        interval: 95 % interval over contexts; None of fewer than two.
    """

    rows: int
    l0: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Part:
    """Contexts of one store."""

    store: ActivationStore
    contexts: Int64[np.ndarray, "context 2"]
    chosen: Int64[np.ndarray, " _"]
    limit: int
    flags: int

    def blocks(self) -> Iterator[Block]:
        """Yield its rows block by block."""
        return blocks(self.store, self.contexts, self.chosen, limit=self.limit, allowed=self.flags)


def calibrate(
    dictionary: SparseDictionary,
    settings: ActivationsSettings,
    lake: Lake,
    *,
    rows: int = ROWS,
    progress: Progress = _SILENT,
) -> SparseDictionary:
    """Return the dictionary with the threshold that makes k features fire on a row on average.

    Args:
        dictionary: Trained, on the device that computes.
        settings: Which rows trained it.
        lake: Where they lie.
        rows: Most rows of calibration.
        progress: Where to report.

    Raises:
        UnsupportedError: Its activation function needs no threshold.
        ArtefactNotFoundError: A store is not there.
        DamagedArtefactError: A store's bytes are not what they should be.
    """
    before = dictionary.thresholds()
    tracked = None if before is None else float(before.mean())
    parts = parts_of(settings, lake, "train", rows)
    found = exact_thresholds(dictionary, parts, progress)
    record = ThresholdInference(
        source="exact",
        rows=found[0].rows,
        l0=sum(each.l0 for each in found),
        l0_heldout=None,
        threshold_ema=tracked,
    )
    thresholds = [each.threshold for each in found]
    finished = dictionary.with_threshold(thresholds, record)
    unseen = held_out_l0(finished, parts_of(settings, lake, "held_out", HELD_OUT_ROWS))
    progress.note(_said(found, tracked, unseen, dictionary.config.semantics.l0_scope))
    if unseen is None:
        return finished
    measured = record.model_copy(update={"l0_heldout": unseen.l0})
    return finished.with_threshold(thresholds, measured)


def exact_thresholds(
    dictionary: SparseDictionary, parts: Sequence[Part], progress: Progress
) -> list[Calibrated]:
    """Return the thresholds at which k features a row fire on the rows of some contexts.

    One of each of `SparseDictionary.ranked`.
    """
    calibrations = [(own, Calibration(k)) for own, k in dictionary.ranked]
    total = sum(len(block.rows) for part in parts for block in part.blocks())
    with progress.task("calibrate", total=total * Calibration.PASSES, unit="row") as task:
        for _ in range(Calibration.PASSES):
            for block, inputs in read(parts, dictionary):
                for scores in dictionary.gate_scores(inputs):
                    for own, calibration in calibrations:
                        calibration.add(scores[:, own])
                task.advance(len(block.rows))
            for _, calibration in calibrations:
                calibration.end_pass()
    return [calibration.found() for _, calibration in calibrations]


def held_out_l0(dictionary: SparseDictionary, parts: Sequence[Part]) -> HeldOut | None:
    """Return how often features fire on the rows of some contexts; None without any."""
    firings: list[Int64[np.ndarray, " _"]] = []
    owners: list[Int64[np.ndarray, " _"]] = []
    shift = 0  # contexts of different sources are different ones
    for part in parts:
        for block, inputs in read([part], dictionary):
            firings.append(dictionary.encode(inputs).l0().cpu().numpy())
            owners.append(block.contexts + shift)
        shift += len(part.contexts)
    if not firings:
        return None
    per_row = np.concatenate(firings)
    _, owner = np.unique(np.concatenate(owners), return_inverse=True)
    totals = np.bincount(owner, weights=per_row)
    bounds = context_interval(totals, np.bincount(owner))
    return HeldOut(len(per_row), float(per_row.mean()), bounds)


def parts_of(settings: ActivationsSettings, lake: Lake, split: Split, rows: int) -> list[Part]:
    """Return the contexts of each source, as many rows of it as its weight says."""
    weights = sum(source.weight for source in settings.mixed)
    flags = sum(FLAG_BITS[flag] for flag in set(settings.flags))
    found = []
    for source in settings.mixed:
        store, within = with_contexts(lake, source.name, source.rows, settings.heads)
        contexts = RowChoice(split, settings.held_out, within).contexts(store)
        limit = max(1, round(rows * source.weight / weights))
        total = int(contexts[:, 1].sum())
        wanted = len(contexts) if total <= limit else max(1, len(contexts) * limit // total)
        if len(contexts):
            chosen = spread(len(contexts), wanted)
            found.append(Part(store, contexts, chosen, limit, flags))
    return found


def read(
    parts: Sequence[Part], dictionary: SparseDictionary
) -> Iterator[tuple[Block, Mapping[str, Tensor]]]:
    """Yield blocks of the parts' contexts with what the dictionary reads there."""
    for part in parts:
        yield from read_blocks(part.store, dictionary, dictionary.hookpoints_in, part.blocks())


def _said(
    found: Sequence[Calibrated], tracked: float | None, unseen: HeldOut | None, scope: str
) -> str:
    """Return what calibration found, in a sentence."""
    running = "" if tracked is None else f" (running mean {tracked:.4g})"
    low, high = (pick(each.threshold for each in found) for pick in (min, max))
    what, where = f"threshold {low:.4g}", ""
    if len(found) > 1:
        what, where = f"thresholds {low:.4g} to {high:.4g}", f" in each of {len(found)} {scope}s"
    said = (
        f"{what}{running}: L0 {sum(each.l0 for each in found):.4g} for k {found[0].wanted:g}{where} on "
        f"{found[0].rows} rows"
    )
    if unseen is None:
        return f"{said}; no context was held out"
    low, high = unseen.interval or (unseen.l0, unseen.l0)
    return f"{said}, {unseen.l0:.4g} [{low:.4g}, {high:.4g}] on {unseen.rows} held-out rows"
