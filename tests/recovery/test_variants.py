"""Each variant of `configs/train/` learns: some hundred steps raise its explained variance.

The files are written for a language model's stores. Here they get synthetic ones of the same names and
hookpoints, their width, sizes and k to match, no language model to start from, a short budget with a
larger learning rate, and penalties on counts in proportion to the width, as squared error is; nothing else
of what makes a variant is changed.
"""

from pathlib import Path

import numpy as np
import pytest

from saestore import train
from saestore.api import config
from saestore.lake import Lake, Ref, layout, table_file
from saestore.testing.stores import synthetic_store
from saestore_schemas.activations import StoreSettings
from saestore_schemas.train import TrainSettings


ROOT = Path(__file__).parents[2]
VARIANTS = sorted(
    path
    for path in (ROOT / "configs" / "train").glob("*.toml")
    if path.stem not in {"mix", "sweep"}  # several stores or dictionaries of the same kind
)
STORES = {
    "smollm2": (
        *(f"blocks.{n}.hook_resid_post" for n in (9, 10, 11)),
        *(f"blocks.{n}.ln2.hook_normalized" for n in (9, 10, 11)),
        *(f"blocks.{n}.hook_mlp_out" for n in (9, 10, 11)),
        "blocks.10.ln1.hook_normalized",
        "blocks.10.hook_attn_out",
    ),
    "base": ("blocks.10.hook_resid_post",),
    "tuned": ("blocks.10.hook_resid_post",),
}
"""Which hookpoints of which stores the files name."""
SIZES = {
    "lorsa": {"d_sae": 96},
    "molt": {"ranks": {"4": 16, "1": 32}, "d_sae": 48},
}
"""Of families whose files say more than an expansion."""
WIDTH = 576
"""Of the hookpoint that the files name: squared error is about this before training."""
COUNTS = {"tanh", "tanh_quad", "l0"}
"""Penalties whose price of a firing does not grow with the width by itself."""
D, FEATURES, ROWS, BATCH = 24, 32, 20_000, 256
SLOW_STEPS, FAST_STEPS = 400, 40


def filled(folder, stores):
    """A lake with sums of planted directions around a mean: each hookpoint its own, one code for all."""
    rng = np.random.default_rng(np.random.SeedSequence([0, *b"variants"]))
    on = rng.random((ROWS, FEATURES)) < 3 / FEATURES
    strength = on * (3 + 0.5 * rng.standard_normal((ROWS, FEATURES)))

    def rows():
        directions = rng.standard_normal((FEATURES, D))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        return (strength @ directions + np.linspace(-4, 4, D)).astype(np.float32)

    found = Lake.at(folder)
    small = StoreSettings(chunk_kib=32, shard_mib=2)
    for name, hookpoints in stores.items():
        synthetic_store(found, name, values={each: rows() for each in hookpoints}, store=small)
    return found


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    return filled(tmp_path_factory.mktemp("all"), STORES)


@pytest.fixture(scope="module")
def small_lake(tmp_path_factory):
    return filled(tmp_path_factory.mktemp("one"), {"smollm2": ("blocks.10.hook_resid_post",)})


def cut_down(path, name, steps):
    """The settings of a file on the synthetic stores."""
    given = config.load_settings("train", path).model_dump(mode="json", exclude_unset=True)
    given["name"] = name
    given["activations"] |= {"batch_rows": BATCH, "held_out": 0.0}
    given["dictionary"] |= SIZES.get(given["dictionary"]["family"], {"expansion": 4.0})
    if "attention" in given["dictionary"]:
        given["dictionary"]["attention"] |= {"n_qk": 8, "d_qk": 8}
    for what in ("from_host", "sign_flip"):
        given.get("init", {}).pop(what, None)
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
def test_a_variant_takes_steps(small_lake, stem):
    path = ROOT / "configs" / "train" / f"{stem}.toml"
    values = explained(small_lake, cut_down(path, f"{stem}-fast", FAST_STEPS))
    assert np.isfinite(values).all()
    assert np.mean(values[-2:]) > values[0]
