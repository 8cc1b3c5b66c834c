"""A known dictionary is found again: sparse sums of planted directions, trained from random."""

import numpy as np
import pytest
import torch

from saestore import train
from saestore.lake import Lake
from saestore.testing.stores import HOOKPOINT, synthetic_store
from saestore_schemas.activations import StoreSettings
from saestore_schemas.train import TrainSettings


D, FEATURES, ACTIVE, ROWS = 24, 32, 3, 60_000


def planted():
    """Return directions and rows: about three of 32 features on, with a mean far from zero."""
    rng = np.random.default_rng(np.random.SeedSequence([0, *b"planted"]))
    directions = rng.standard_normal((FEATURES, D))
    for _ in range(50):  # push them apart: recovery is about training, not about coherence
        overlap = directions @ directions.T
        np.fill_diagonal(overlap, 0)
        directions -= 0.05 * overlap @ directions
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    on = rng.random((ROWS, FEATURES)) < ACTIVE / FEATURES
    strength = on * (3 + 0.5 * rng.standard_normal((ROWS, FEATURES)))
    return directions, (strength @ directions + np.linspace(-4, 4, D)).astype(np.float32), on


def found(decoder, directions):
    """Return the mean over planted directions of the best cosine with a decoder vector."""
    decoder = decoder / np.linalg.norm(decoder, axis=1, keepdims=True)
    return float((decoder @ directions.T).max(axis=0).mean())


@pytest.mark.parametrize(
    ("dictionary", "loss", "wanted"),
    [
        ({"activation": {"kind": "topk", "k": 4}}, {}, 0.97),
        pytest.param(
            {"activation": {"kind": "relu"}, "decoder_norm": "free"},
            {"sparsity": {"kind": "l1", "coefficient": 1.0}},
            0.97,
            marks=pytest.mark.slow,
        ),
    ],
    ids=["topk", "relu-l1"],
)
def test_planted_directions_are_found_again(tmp_path, dictionary, loss, wanted):
    directions, rows, _ = planted()
    lake = Lake.at(tmp_path)
    synthetic_store(lake, values={HOOKPOINT: rows}, store=StoreSettings(chunk_kib=32, shard_mib=2))
    settings = TrainSettings.model_validate(
        {
            "series": "s",
            "name": "planted",
            "activations": {"name": "synthetic", "batch_rows": 512},
            "dictionary": {
                "family": "sae", "hookpoint": HOOKPOINT, "d_sae": 2 * FEATURES, **dictionary
            },
            "budget": {"epochs": 6.0},
            "loss": loss,
            "optimizer": {"lr": 0.006},
            "checkpoints": {"count": 0},
        }
    )  # fmt: skip
    start = np.random.default_rng(1).standard_normal((2 * FEATURES, D))
    assert found(start, directions) < 0.7
    trained = train.run(settings, lake)
    folded = trained.folded()
    score = found(folded.W_dec.detach().numpy().astype(np.float64), directions)
    assert score > wanted
    sample = torch.from_numpy(rows[:4096])
    error = (folded.reconstruct(sample)[HOOKPOINT] - sample).square().sum()
    assert float(error / (sample - sample.mean(dim=0)).square().sum()) < 0.15
