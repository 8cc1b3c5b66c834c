"""Planted features are found again by a crosscoder: those of both hookpoints, and those of one alone.

Two hookpoints of unequal widths and scales hold sparse sums of planted vectors. Some features have a
vector at both, of unequal lengths, some at one only: a crosscoder has to find them once each, and how long
they are at each head says which kind they are.
"""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from saestore import dictionaries
from saestore.testing.dictionaries import ExactMoments
from saestore.train.trainer import Schedule, Trainer
from saestore_schemas.train import InitSettings, TrainSettings


WIDTHS = {"blocks.1.hook_resid_post": 32, "blocks.2.hook_resid_post": 40}
SCALES = dict(zip(WIDTHS, (1.0, 7.0), strict=True))
SHARED, ALONE = 12, 6
"""Features of both hookpoints, and of each by itself."""
PLANTED, FEATURES = SHARED + 2 * ALONE, 32
RATE, BATCH = 0.1, 256


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


class Planted:
    """The planted features, and rows made of them."""

    def __init__(self, seed):
        rng = np.random.default_rng(np.random.SeedSequence([seed, *b"heads"]))
        lengths = rng.uniform(0.7, 1.4, (2, PLANTED, 1))
        lengths[1, SHARED : SHARED + ALONE] = 0  # of the first hookpoint alone
        lengths[0, SHARED + ALONE :] = 0
        self.vectors = {
            hook: own * unit(rng.standard_normal((PLANTED, width)))
            for own, (hook, width) in zip(lengths, WIDTHS.items(), strict=True)
        }
        self.rng = rng

    def rows(self, count):
        """Return the rows of both hookpoints, with means far from zero."""
        strength = (self.rng.random((count, PLANTED)) < RATE) * self.rng.uniform(1, 1.5, (count, 1))
        return {
            hook: torch.from_numpy(SCALES[hook] * (strength @ vectors + 3)).float()
            for hook, vectors in self.vectors.items()
        }


def trained(planted, steps, **how):
    """A crosscoder that learnt from the rows, and its decoder vectors at the planted ones' scale."""
    chosen = TrainSettings.model_validate(
        {
            "series": "s",
            "name": "planted",
            "activations": {"name": "none", "batch_rows": BATCH},
            "dictionary": {
                "family": "crosscoder",
                "hookpoints": tuple(WIDTHS),
                "d_sae": FEATURES,
                "activation": {"kind": "batchtopk", "k": PLANTED * RATE},
            }
            | how,
            "budget": {"rows": steps * BATCH},
            "optimizer": {"lr": 1e-2},
            "loss": {"aux": {"dead_after_rows": 20 * BATCH}},
        }
    )
    sample = planted.rows(4096)
    dictionary = dictionaries.build(
        chosen.dictionary,
        widths=WIDTHS,
        moments={hook: ExactMoments(rows.double().numpy()) for hook, rows in sample.items()},
        init=InitSettings(),
        seed=0,
    )
    schedule = Schedule(steps=steps, batch_rows=BATCH, dead_after=20 * BATCH)
    variance = {hook: float(width) for hook, width in WIDTHS.items()}
    trainer = Trainer(dictionary, chosen, schedule, variance=variance)
    for _ in range(steps):
        trainer.advance(planted.rows(BATCH), log=False)
    folded = dictionary.in_raw_units()
    vectors = folded.writes.split(folded.decoder_vectors().detach())
    return folded, {hook: part.double().numpy() / SCALES[hook] for hook, part in vectors.items()}


AT_EACH = {"kind": "batchtopk", "k": (SHARED + ALONE) * RATE}
HOW = {
    "l1": {"head_norm": "l1"},
    "l2": {"head_norm": "l2"},
    "per_head": {"gating": "per_head", "activation": AT_EACH},
}


SLOW = HOW.keys() - {"l1"}


@pytest.mark.parametrize(
    "how", [pytest.param(h, marks=pytest.mark.slow) if h in SLOW else h for h in HOW]
)
def test_shared_features_and_those_of_one_hookpoint_are_found(how):
    planted = Planted(0)
    found, vectors = trained(planted, 300, **HOW[how])
    held_out = planted.rows(4096)
    for hook, rows in found.reconstruct(held_out).items():
        y = held_out[hook]
        left, spread = (y - rows).square().sum(), (y - y.mean(dim=0)).square().sum()
        assert float(left / spread) < 0.01, hook
    theirs, ours = (
        np.concatenate(list(each.values()), axis=1) for each in (planted.vectors, vectors)
    )
    cosines = unit(theirs) @ unit(ours).T
    _, matched = linear_sum_assignment(-cosines)
    assert (cosines[np.arange(PLANTED), matched] > 0.99).all()
    lengths = np.stack([np.linalg.norm(vectors[h], axis=1)[matched] for h in WIDTHS])
    relative = lengths[0] / lengths.sum(axis=0)
    kinds = np.repeat(["both", "first", "second"], [SHARED, ALONE, ALONE])
    told = np.where(relative > 0.9, "first", np.where(relative < 0.1, "second", "both"))
    assert told.tolist() == kinds.tolist()
