"""A BatchTopK without a threshold, imported over a store: exact on a batch, calibrated on the rows."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from saestore import open_lake
from saestore.activations import held_out
from saestore.errors import UnsupportedError
from saestore.testing.stores import HOOKPOINT, synthetic_store


WRITTEN = Path(__file__).parents[2] / "agreement" / "dictionaries"


@pytest.fixture
def lake(tmp_path):
    opened = open_lake(tmp_path / "lake", device="cpu")
    synthetic_store(opened.lake, rows=600, width=7)
    return opened


@pytest.fixture(params=["llamascopium", "dictionary-learning"])
def given(request, tmp_path):
    """Settings of an import whose files hold no threshold, and its k."""
    if request.param == "llamascopium":
        path, k = WRITTEN / "llamascopium" / "batchtopk", 3
    else:
        path = tmp_path / "given"
        shutil.copytree(WRITTEN / "dictionary-learning" / "BatchTopKSAE", path)
        state = torch.load(path / "ae.pt", weights_only=True)  # noqa: TID251 - weights only
        torch.save(state | {"threshold": torch.tensor(-1.0)}, path / "ae.pt")
        k = int(state["k"])
    return {"series": "a", "name": "b", "tool": request.param, "path": str(path)}, k


def test_it_is_calibrated_as_training_calibrates(lake, given):
    settings, k = given
    report = lake.import_dictionary(settings, store="synthetic")
    assert not report.conversion.inexact
    assert report.conversion.max_error < 1e-6
    assert report.conversion.firings > 100
    assert any("found on" in step and "synthetic" in step for step in report.conversion.steps)
    found = lake.dictionary("a/b")
    inference = found.config.semantics.inference
    assert found.config.semantics.activation.k == k
    assert inference.source == "exact"
    # The definition: of all kept rows that training would see, the k largest scores a row exceed it.
    store = lake.activations("synthetic")
    contexts = store.contexts()
    seen = ~held_out(len(contexts), 0.05)
    inside = np.concatenate([np.arange(s, s + n) for s, n in contexts[seen]])
    kept = inside[store.flags(0, store.n_rows)[inside] == 0]
    rows = torch.tensor(store.read(HOOKPOINT, 0, store.n_rows))[kept]
    scores = torch.cat([each.clone() for each in found.gate_scores(rows)]).reshape(-1)
    ranked = scores.sort(descending=True).values
    wanted = k * len(kept)
    threshold = float(found.thresholds()[0])
    assert max(float(ranked[wanted]), 0) <= threshold < float(ranked[wanted - 1])
    assert inference.rows == len(kept)
    assert inference.l0 == pytest.approx(k)
    assert inference.l0_heldout is not None


def test_without_a_store_it_is_refused_and_says_what_helps(lake, given):
    settings, _ = given
    with pytest.raises(UnsupportedError, match=r"without a threshold.*--store"):
        lake.import_dictionary(settings)
    lake.import_dictionary({**settings, "approximate": True})
    assert lake.dictionary("a/b").config.semantics.activation.kind == "topk"
