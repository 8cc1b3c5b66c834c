"""Planted transforms of low rank are found again by a mixture of linear transforms.

A row says which transforms act on it (coordinates along gates) and what they act on (the others):

    y = Σ_{t on} s_t A_t z          x = Σ_{t on} s_t e_t + z, rotated
"""

import numpy as np
import pytest
import torch

from saestore import train
from saestore.lake import Lake
from saestore.testing.stores import synthetic_store
from saestore_schemas.activations import StoreSettings
from saestore_schemas.train import TrainSettings


READS, WRITES = "blocks.0.hook_mlp_in", "blocks.0.hook_mlp_out"
RANK = 2


def planted(gates, content, d_out, rows, *, on=2):
    """Return maps, and rows of input and output; on each row `on` of the gates are open."""
    rng = np.random.default_rng(np.random.SeedSequence([0, *b"transforms"]))
    width = gates + content
    turn = np.linalg.qr(rng.standard_normal((width, width)))[0]
    maps = rng.standard_normal((gates, d_out, RANK)) @ rng.standard_normal((gates, RANK, content))
    maps /= np.linalg.norm(maps, axis=(1, 2), keepdims=True)
    open_ = rng.random((rows, gates)).argsort(axis=1) < on
    strength = open_ * rng.uniform(1, 2, (rows, gates))
    z = rng.standard_normal((rows, content))
    y = np.einsum("bt,toi,bi->bo", strength, maps, z)
    x = np.concatenate([strength, z], axis=1) @ turn
    whole = np.concatenate([np.zeros((gates, d_out, gates)), maps], axis=2) @ turn
    return whole, x.astype(np.float32), y.astype(np.float32)


def cosines(found, maps):
    """Return the best absolute cosine of each planted map with a found one."""
    one, other = (each.reshape(len(each), -1) for each in (found, maps))
    one, other = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (one, other))
    return np.abs(one @ other.T).max(axis=0)


def recovered(tmp_path, *, gates, content, d_out, rows, epochs, features, lr):
    """Return cosines before and after training, and the share of variance explained."""
    maps, x, y = planted(gates, content, d_out, rows)
    lake = Lake.at(tmp_path)
    synthetic_store(
        lake, values={READS: x, WRITES: y}, store=StoreSettings(chunk_kib=32, shard_mib=2)
    )
    settings = TrainSettings.model_validate(
        {
            "series": "s",
            "name": "planted",
            "activations": {"name": "synthetic", "batch_rows": 256},
            "dictionary": {
                "family": "molt", "hookpoint_in": READS, "hookpoint_out": WRITES,
                "ranks": {RANK: features}, "activation": {"kind": "topk", "k": 2},
            },
            "budget": {"epochs": epochs},
            "optimizer": {"lr": lr},
            "checkpoints": {"count": 0},
        }
    )  # fmt: skip
    trained = train.run(settings, lake)
    folded = trained.folded()
    t = {name: tensor.double().numpy() for name, tensor in folded.tensors().items()}
    sample = slice(0, 4096)
    error = folded.reconstruct(torch.from_numpy(x[sample]))[WRITES].numpy() - y[sample]
    spread = y[sample] - y[sample].mean(axis=0)
    start = np.random.default_rng(1).standard_normal((features, d_out, gates + content))
    return (
        cosines(start, maps),
        cosines(t[f"U.{RANK}"] @ t[f"V.{RANK}"], maps),
        1 - np.square(error).sum() / np.square(spread).sum(),
    )


def test_a_few_planted_transforms_are_found_again(tmp_path):
    before, after, explained = recovered(
        tmp_path, gates=4, content=10, d_out=8, rows=12_000, epochs=5.0, features=10, lr=0.04
    )
    assert before.mean() < 0.5
    assert after.min() > 0.95
    assert explained > 0.99


@pytest.mark.slow
def test_planted_transforms_are_found_again(tmp_path):
    before, after, explained = recovered(
        tmp_path, gates=12, content=16, d_out=14, rows=60_000, epochs=15.0, features=24, lr=0.02
    )
    assert before.mean() < 0.3
    assert after.min() > 0.99
    assert explained > 0.99
