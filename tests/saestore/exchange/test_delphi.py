"""delphi's cache holds every firing once, where its reader looks for it."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import saestore
from saestore.errors import ConfigError, OverflowRowError
from saestore.exchange.features.delphi import SMALLEST, Delphi
from saestore.lake import Lake
from saestore.testing.analyses import DICTIONARY, plant, planted_analysis
from saestore.testing.interpretations import Explained, interpretation_run
from saestore.testing.stores import HOOKPOINT


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    made = Lake.at(tmp_path_factory.mktemp("delphi") / "lake")
    known = plant()
    known.values[np.flatnonzero(known.values[:, 1])[0], 1] = 1e-9  # below what float16 holds
    planted_analysis(made, planted=known)
    return saestore.open_lake(made.storage.url), known


def as_delphi_reads(folder):
    """(context, position, feature) to value, by what its loader does with names and columns."""
    found, tokens = {}, None
    for path in sorted(folder.glob("*.safetensors")):
        data = load_file(path)
        first, last = map(int, path.stem.split("_"))
        places = data["locations"].astype(np.int64) + np.array([0, 0, first])
        assert data["activations"].dtype == np.float16
        assert ((places[:, 2] >= first) & (places[:, 2] <= last)).all()
        assert (np.diff(places[:, 2]) >= 0).all()
        found |= dict(zip(map(tuple, places.tolist()), data["activations"].tolist(), strict=True))
        assert tokens is None or np.array_equal(tokens, data["tokens"])
        tokens = data["tokens"]
    return found, tokens


@pytest.mark.parametrize("files", [1, 4, 9, 30])
def test_every_firing_is_there_once(lake, tmp_path, files):
    opened, known = lake
    report = opened.export_features(DICTIONARY, tmp_path, Delphi(files=files, fill=7))
    folder = tmp_path / "latents" / HOOKPOINT
    found, tokens = as_delphi_reads(folder)
    row, feature = np.nonzero(known.values)
    wanted = {
        (int(known.context[r]), int(known.position[r]), int(f)): max(
            float(np.float16(known.values[r, f])), SMALLEST
        )
        for r, f in zip(row, feature, strict=True)
    }
    assert found == wanted
    assert report.firings == len(wanted)
    size = int(opened.analysis(DICTIONARY).manifest.facts["context_size"])
    assert tokens.shape == (len(known.lengths), size)
    for context, length in enumerate(known.lengths):
        own = known.tokens[known.context == context]
        assert tokens[context].tolist() == [*own.tolist(), *[7] * (size - length)]
    config = json.loads((folder / "config.json").read_text())
    assert (config["cache_ctx_len"], config["n_splits"]) == (size, files)
    dead = (known.values == 0).all(axis=0)
    for path in folder.glob("*.safetensors"):  # an empty range ends its reader
        first, last = map(int, path.stem.split("_"))
        assert not dead[first : last + 1].all()


def test_it_is_written_anew_and_never_over_something_else(lake, tmp_path):
    opened, _ = lake
    first = opened.export_features(DICTIONARY, tmp_path / "cache", "delphi")
    before = {p: p.read_bytes() for p in (tmp_path / "cache").rglob("*") if p.is_file()}
    assert opened.export_features(DICTIONARY, tmp_path / "cache", "delphi") == first
    assert before == {p: p.read_bytes() for p in (tmp_path / "cache").rglob("*") if p.is_file()}
    (tmp_path / "mine").mkdir()
    Path(tmp_path / "mine" / "thesis.tex").write_text("years")
    with pytest.raises(ConfigError, match="no export"):
        opened.export_features(DICTIONARY, tmp_path / "mine", "delphi")
    with pytest.raises(ConfigError, match="delfi") as caught:
        opened.export_features(DICTIONARY, tmp_path / "other", "delfi")
    assert "delphi" in caught.value.hint


def test_what_it_cannot_hold_is_refused(tmp_path):
    lake = Lake.at(tmp_path / "lake")
    known = plant()
    known.values[known.kept.argmax(), 4] = 1e5
    planted_analysis(lake, planted=known)
    with pytest.raises(OverflowRowError, match="float16") as caught:
        saestore.open_lake(lake.storage.url).export_features(DICTIONARY, tmp_path / "x", "delphi")
    assert caught.value.found == "100000, of feature 4"
    assert not (tmp_path / "x" / "index.json").exists()


def test_the_best_explanation_of_each_feature_is_where_its_scorers_look(tmp_path):
    lake = Lake.at(tmp_path / "lake")
    ref, _ = planted_analysis(lake)
    explained = [
        Explained(4, "an “article”", scores={"detection": 0.9}),
        Explained(4, "worse", "top", {"detection": 0.6}),
        Explained(5, None),
    ]
    interpretation_run(lake, ref.name, "first", explained)
    saestore.open_lake(lake.storage.url).export_features(DICTIONARY, tmp_path / "out", "delphi")
    (found,) = (tmp_path / "out" / "explanations").iterdir()
    assert found.name == f"{HOOKPOINT}_latent4.txt"
    assert json.loads(found.read_text()) == "an “article”"
