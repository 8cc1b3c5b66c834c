"""Splicing: oracle M4 on a model whose losses are known, and what is replaced."""

import numpy as np
import pytest
import torch

from saestore.evaluate.splice import Splice, pad, recovered
from saestore.lm.losses import NextTokenLoss


class Spliced:
    """A language model of one hookpoint: a random activation, and the real unembedding of it."""

    device = torch.device("cpu")

    def __init__(self):
        rng = torch.Generator().manual_seed(0)
        self.clean = torch.randn(2, 5, 3, generator=rng) + 2
        self.weight = torch.randn(7, 3, generator=rng)
        self._loss = NextTokenLoss(self.weight, None)

    def final_rows(self, _, *, patches=None):
        activation = self.clean
        for patch in (patches or {}).values():
            activation = patch(activation)
        return activation

    def predictions(self, clean, others, targets):
        return self._loss.compared(clean, others, targets)

    def distributions(self, rows):
        return torch.log_softmax(rows.double() @ self.weight.double().T, dim=1)


TOKENS = [np.arange(5, dtype=np.int32), np.arange(4, dtype=np.int32)]
FLAGS = [np.array([1, 0, 0, 2, 0], np.uint8), np.array([1, 0, 0, 0], np.uint8)]


def scored(reconstruct, mean=None, positions="kept"):
    model = Spliced()
    mean = torch.zeros(3) if mean is None else mean
    splice = Splice(model, reads=["h"], reconstruct=reconstruct, means={"h": mean})
    splice.update(pad(TOKENS, FLAGS, positions=positions))
    return {score.metric: score.value for score in splice.scores()}, splice, model


def test_padding_and_flags_decide_what_is_replaced_and_counted():
    batch = pad(TOKENS, FLAGS)
    assert batch.tokens.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 0]]
    assert batch.replaced.int().tolist() == [[0, 1, 1, 0, 1], [0, 1, 1, 1, 0]]
    assert batch.predicted.int().tolist() == [[0, 1, 1, 0, 0], [0, 1, 1, 0, 0]]


def test_all_positions_may_be_replaced_and_only_kept_ones_counted():
    batch = pad(TOKENS, FLAGS, positions="all")
    assert batch.replaced.int().tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert batch.predicted.equal(pad(TOKENS, FLAGS).predicted)
    _, splice, _ = scored(lambda seen: seen, positions="all")
    assert (splice.predictions, splice.replaced) == (4, 9)


def test_m4_m12_the_identity_loses_nothing():
    scores, splice, _ = scored(lambda seen: seen)
    assert scores["delta_ce"] == 0
    assert scores["ce_recovered[zero]"] == 1
    assert scores["kl[dict]"] == 0
    assert scores["kl_recovered[zero]"] == 1
    assert (splice.predictions, splice.replaced) == (4, 6)


def test_m4_zero_recovers_nothing_of_zero_and_the_mean_nothing_of_the_mean():
    mean = torch.tensor([1.0, 2.0, 3.0])
    zero, _, _ = scored(lambda seen: {"h": torch.zeros_like(seen["h"])}, mean)
    assert zero["ce_recovered[zero]"] == 0
    assert zero["kl_recovered[zero]"] == 0
    middle, _, _ = scored(lambda seen: {"h": mean.expand_as(seen["h"])}, mean)
    assert middle["ce_recovered[mean]"] == 0
    assert middle["kl_recovered[mean]"] == 0
    assert middle["ce_recovered[zero]"] != 0


def test_cross_entropies_and_divergences_are_means_over_the_counted_predictions():
    mean = torch.tensor([1.0, 2.0, 3.0])
    scores, _, model = scored(lambda seen: {"h": seen["h"] * 0.5}, mean)
    batch = pad(TOKENS, FLAGS)
    rows = model.clean[batch.predicted]
    targets = batch.tokens.roll(-1, 1)[batch.predicted]
    put = {"clean": rows, "dict": rows / 2, "zero": rows * 0, "mean": mean.expand_as(rows)}
    logs = {name: model.distributions(each) for name, each in put.items()}
    ce = {name: -each.gather(1, targets[:, None]).mean().item() for name, each in logs.items()}
    clean = logs["clean"]
    kl = {name: (clean.exp() * (clean - each)).sum(1).mean().item() for name, each in logs.items()}
    for name in put:
        assert scores[f"ce[{name}]"] == pytest.approx(ce[name], rel=1e-6)
    for name in ("dict", "zero", "mean"):
        assert scores[f"kl[{name}]"] == pytest.approx(kl[name], rel=1e-5)
    assert scores["delta_ce"] == pytest.approx(ce["dict"] - ce["clean"], rel=1e-5)
    for name in ("zero", "mean"):
        share = (ce[name] - ce["dict"]) / (ce[name] - ce["clean"])
        assert scores[f"ce_recovered[{name}]"] == pytest.approx(share, rel=1e-5)
        assert scores[f"kl_recovered[{name}]"] == pytest.approx(1 - kl["dict"] / kl[name], rel=1e-5)


def test_a_share_of_nothing_is_undefined():
    assert recovered(2.0, 2.0, 2.0 - 9e-7) is None
    assert recovered(2.0, 2.0, 1.9) == 0
    assert recovered(None, 1.0, 1.0) is None
    splice = Splice(Spliced(), reads=["h"], reconstruct=dict, means={})
    assert all(score.value is None for score in splice.scores())


def test_flagged_positions_are_never_touched():
    model, seen = Spliced(), []
    splice = Splice(
        model, reads=["h"], reconstruct=lambda rows: {"h": rows["h"] + 9}, means={"h": torch.zeros(3)}
    )  # fmt: skip
    rows = model.final_rows
    model.final_rows = lambda *a, **k: seen.append(rows(*a, **k)) or seen[-1]
    batch = pad(TOKENS, FLAGS)
    splice.update(batch)
    assert all(each[~batch.replaced].equal(model.clean[~batch.replaced]) for each in seen)
    assert (seen[1][batch.replaced] == model.clean[batch.replaced] + 9).all()
