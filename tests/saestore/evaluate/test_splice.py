"""Splicing: oracle M4 on a model whose losses are known, and what is replaced."""

import numpy as np
import pytest
import torch

from saestore.evaluate.splice import Splice, pad, recovered


class Ruler:
    """A model whose loss at a position is how far the hookpoint is from its clean value."""

    device = torch.device("cpu")

    def __init__(self):
        self.clean = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)) + 2

    def token_losses(self, _, *, patches=None):
        activation = self.clean
        for patch in (patches or {}).values():
            activation = patch(activation)
        return 1 + (activation - self.clean).square().sum(-1)


TOKENS = [np.arange(5, dtype=np.int32), np.arange(4, dtype=np.int32)]
FLAGS = [np.array([1, 0, 0, 2, 0], np.uint8), np.array([1, 0, 0, 0], np.uint8)]


def scored(reconstruct, mean=None):
    model = Ruler()
    mean = torch.zeros(3) if mean is None else mean
    splice = Splice(model, reads=["h"], reconstruct=reconstruct, means={"h": mean})
    splice.update(pad(TOKENS, FLAGS))
    return {score.metric: score.value for score in splice.scores()}, splice, model


def test_padding_and_flags_decide_what_is_replaced_and_counted():
    batch = pad(TOKENS, FLAGS)
    assert batch.tokens.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 0]]
    assert batch.kept.int().tolist() == [[0, 1, 1, 0, 1], [0, 1, 1, 1, 0]]
    assert batch.predicted.int().tolist() == [[0, 1, 1, 0, 0], [0, 1, 1, 0, 0]]


def test_m4_m12_the_identity_loses_nothing():
    scores, splice, _ = scored(lambda seen: seen)
    assert scores["delta_ce"] == 0
    assert scores["ce_recovered[zero]"] == 1
    assert (splice.predictions, splice.replaced) == (4, 6)


def test_m4_zero_recovers_nothing_of_zero_and_the_mean_nothing_of_the_mean():
    mean = torch.tensor([1.0, 2.0, 3.0])
    zero, _, _ = scored(lambda seen: {"h": torch.zeros_like(seen["h"])}, mean)
    assert zero["ce_recovered[zero]"] == 0
    middle, _, _ = scored(lambda seen: {"h": mean.expand_as(seen["h"])}, mean)
    assert middle["ce_recovered[mean]"] == 0
    assert middle["ce_recovered[zero]"] != 0


def test_cross_entropies_are_means_over_the_counted_predictions():
    scores, _, model = scored(lambda seen: {"h": seen["h"] * 0.5})
    batch = pad(TOKENS, FLAGS)
    clean = model.clean[batch.predicted].double()
    assert scores["ce[clean]"] == 1
    assert scores["ce[zero]"] == pytest.approx(1 + clean.square().sum(-1).mean().item(), rel=1e-6)
    assert scores["ce_recovered[zero]"] == pytest.approx(0.75, rel=1e-6)


def test_a_share_of_nothing_is_undefined():
    assert recovered(2.0, 2.0, 2.0 - 9e-7) is None
    assert recovered(2.0, 2.0, 1.9) == 0
    assert recovered(None, 1.0, 1.0) is None
    splice = Splice(Ruler(), reads=["h"], reconstruct=dict, means={})
    assert all(score.value is None for score in splice.scores())


def test_flagged_positions_are_never_touched():
    model, seen = Ruler(), []
    splice = Splice(
        model, reads=["h"], reconstruct=lambda rows: {"h": rows["h"] + 9}, means={"h": torch.zeros(3)}
    )  # fmt: skip
    losses = model.token_losses
    model.token_losses = lambda *a, **k: seen.append(losses(*a, **k)) or seen[-1]
    splice.update(pad(TOKENS, FLAGS))
    kept = pad(TOKENS, FLAGS).kept
    assert all((each[~kept] == 1).all() for each in seen)
    assert (seen[1][kept] > 2).all()
