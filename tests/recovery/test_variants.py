"""Each variant of `configs/train/` learns: some hundred steps raise its explained variance.

The files are written for a language model's store. Here they get the synthetic one, its width and k, a
short budget with a larger learning rate, and penalties on counts in proportion to the width, as squared
error is; nothing else of what makes a variant is changed.
"""

from pathlib import Path

import numpy as np
import pytest

from saestore import train
from saestore.api import config
from saestore.lake import Lake, Ref, layout, table_file
from saestore.testing.stores import HOOKPOINT, synthetic_store
from saestore_schemas.activations import StoreSettings
from saestore_schemas.train import TrainSettings


ROOT = Path(__file__).parents[2]
VARIANTS = sorted(
    path
    for path in (ROOT / "configs" / "train").glob("*.toml")
    # Other stores, several dictionaries or hookpoints: tested elsewhere.
    if path.stem not in {"mix", "sweep", "transcoder", "crosscoder", "clt", "molt"}
)
WIDTH = 576
"""Of the hookpoint that the files name: squared error is about this before training."""
COUNTS = {"tanh", "tanh_quad", "l0"}
"""Penalties whose price of a firing does not grow with the width by itself."""
D, FEATURES, ROWS, BATCH = 24, 32, 20_000, 256
SLOW_STEPS, FAST_STEPS = 400, 40


def planted():
    """Sparse sums of planted directions around a mean."""
    rng = np.random.default_rng(np.random.SeedSequence([0, *b"variants"]))
    directions = rng.standard_normal((FEATURES, D))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    on = rng.random((ROWS, FEATURES)) < 3 / FEATURES
    strength = on * (3 + 0.5 * rng.standard_normal((ROWS, FEATURES)))
    return (strength @ directions + np.linspace(-4, 4, D)).astype(np.float32)


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    found = Lake.at(tmp_path_factory.mktemp("lake"))
    small = StoreSettings(chunk_kib=32, shard_mib=2)
    synthetic_store(found, values={HOOKPOINT: planted()}, store=small)
    return found


def cut_down(path, name, steps):
    """The settings of a file on the synthetic store."""
    given = config.load_settings("train", path).model_dump(mode="json", exclude_unset=True)
    given["name"] = name
    given["activations"] = {"name": "synthetic", "batch_rows": BATCH}
    given["dictionary"] |= {"hookpoint": HOOKPOINT, "expansion": 4.0}
    if "k" in given["dictionary"]["activation"]:
        given["dictionary"]["activation"]["k"] = 4
    if "initial" in given.get("loss", {}).get("k_schedule", {}):
        given["loss"]["k_schedule"]["initial"] = 8
    if "target" in given.get("loss", {}).get("sparsity", {}):
        given["loss"]["sparsity"]["target"] = 4.0
    sparsity = given.get("loss", {}).get("sparsity", {})
    if sparsity.get("kind") in COUNTS:
        sparsity["coefficient"] *= D / WIDTH
    given["budget"] = {"rows": steps * BATCH}
    given["optimizer"] = {**given.get("optimizer", {}), "lr": 3e-3}
    given["checkpoints"] = {"count": 0}
    given["log"] = {"every": 10}
    return TrainSettings.model_validate(given)


def explained(lake, settings):
    """Explained variance of the batch at each logged step."""
    train.run(settings, lake)
    folder = lake.artefact(Ref("dictionary", f"{settings.series}/{settings.name}"))
    table = table_file.from_bytes(folder.read(layout.METRICS)).to_pylist()
    return [row["value"] for row in table if row["name"] == "ev_batch"]


@pytest.mark.slow
@pytest.mark.parametrize("path", VARIANTS, ids=lambda path: path.stem)
def test_a_variant_learns(lake, path):
    values = explained(lake, cut_down(path, f"{path.stem}-slow", SLOW_STEPS))
    start, end = values[0], np.mean(values[-5:])
    assert end > max(start + 0.1, 0.4)


@pytest.mark.parametrize("stem", ["batchtopk", "jumprelu", "gated", "matryoshka"])
def test_a_variant_takes_steps(lake, stem):
    path = ROOT / "configs" / "train" / f"{stem}.toml"
    values = explained(lake, cut_down(path, f"{stem}-fast", FAST_STEPS))
    assert np.isfinite(values).all()
    assert np.mean(values[-2:]) > values[0]
