"""A planted chain is found again: features of each layer that write to it and to all later ones.

A residual stream of three layers. New features enter at each layer; every layer's output holds a vector
of each feature that has entered so far, and is added to the stream. What entered early can therefore be
read late as well, from what it wrote: a code that is counted over all layers is cheapest where it reads
each feature once, where it enters, and writes to all layers from there.
"""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from saestore import dictionaries
from saestore.testing.dictionaries import ExactMoments
from saestore.train.trainer import Schedule, Trainer
from saestore_schemas.train import InitSettings, TrainSettings


LAYERS, D, PLANTED, FEATURES = 3, 32, 8, 12
RATE, BATCH = 0.12, 256
INS = tuple(f"blocks.{s}.hook_resid_mid" for s in range(LAYERS))
OUTS = tuple(f"blocks.{s}.hook_mlp_out" for s in range(LAYERS))


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


class Chain:
    """The planted features and the stream they make."""

    def __init__(self, seed):
        rng = np.random.default_rng(np.random.SeedSequence([seed, *b"chain"]))
        self.reads = unit(rng.standard_normal((LAYERS, PLANTED, D)))
        # By layer of entry and feature: a vector for each later layer, of unequal lengths.
        self.writes = unit(rng.standard_normal((LAYERS, PLANTED, LAYERS, D)))
        self.writes *= rng.uniform(0.5, 1.5, (LAYERS, PLANTED, LAYERS, 1))
        self.rng = rng

    def rows(self, count):
        """Strengths by layer, and the rows of every hookpoint."""
        on = self.rng.random((LAYERS, count, PLANTED)) < RATE
        strength = on * (1 + 0.3 * self.rng.random((LAYERS, count, PLANTED)))
        stream, found = np.zeros((count, D)), {}
        for t in range(LAYERS):
            stream = stream + strength[t] @ self.reads[t]
            found[INS[t]] = stream
            found[OUTS[t]] = sum(strength[s] @ self.writes[s, :, t] for s in range(t + 1))
            stream = stream + found[OUTS[t]]
        return strength, {hook: torch.from_numpy(x).float() for hook, x in found.items()}


def settings(steps):
    return TrainSettings.model_validate(
        {
            "series": "s",
            "name": "chain",
            "activations": {"name": "none", "batch_rows": BATCH},
            "dictionary": {
                "family": "clt",
                "hookpoints_in": INS,
                "hookpoints_out": OUTS,
                "d_sae": FEATURES,
                "activation": {"kind": "batchlayertopk", "k": LAYERS * PLANTED * RATE},
            },
            "budget": {"rows": steps * BATCH},
            "optimizer": {"lr": 1e-2},
            "loss": {"aux": {"dead_after_rows": 20 * BATCH}},
        }
    )


def trained(chain, steps):
    """A dictionary that learnt from the chain."""
    chosen = settings(steps)
    _, sample = chain.rows(4096)
    dictionary = dictionaries.build(
        chosen.dictionary,
        widths=dict.fromkeys(sample, D),
        moments={hook: ExactMoments(rows.double().numpy()) for hook, rows in sample.items()},
        init=InitSettings(),
        seed=0,
    )
    schedule = Schedule(steps=steps, batch_rows=BATCH, dead_after=20 * BATCH)
    trainer = Trainer(dictionary, chosen, schedule, variance=dict.fromkeys(OUTS, float(D)))
    for _ in range(steps):
        trainer.advance(chain.rows(BATCH)[1], log=False)
    return dictionary.folded()


def cosines(chain, found):
    """Of each planted feature and the learnt one it is matched with: all that they write."""
    matched = []
    for s in range(LAYERS):
        planted = unit(chain.writes[s, :, s:].reshape(PLANTED, -1))
        each = planted @ unit(found.decoders[s].detach().numpy()).T
        matched.append(each[linear_sum_assignment(-each)])
    return np.concatenate(matched)


@pytest.mark.parametrize(
    ("steps", "share", "unexplained"),
    [(160, 0.6, 0.15), pytest.param(800, 0.9, 0.05, marks=pytest.mark.slow)],
)
def test_a_planted_chain_is_found_where_it_enters(steps, share, unexplained):
    chain = Chain(0)
    found = trained(chain, steps)
    _, held_out = chain.rows(4096)
    for hook, rows in found.reconstruct(held_out).items():
        y = held_out[hook]
        left, spread = (y - rows).square().sum(), (y - y.mean(dim=0)).square().sum()
        assert float(left / spread) < unexplained, hook
    assert (cosines(chain, found) > 0.95).mean() >= share
    # Early features are not read again late: each layer fires about as often as features enter there.
    code = (found.encode(held_out).to_dense() != 0).double()
    for part in code.split(FEATURES, dim=1):
        assert float(part.sum(dim=1).mean()) == pytest.approx(PLANTED * RATE, rel=0.4)
