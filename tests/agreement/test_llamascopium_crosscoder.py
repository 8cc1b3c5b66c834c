"""A crosscoder whose heads gate by themselves computes what llamascopium computes with the same weights.

`llamascopium_crosscoder/make.py` wrote the numbers, and checkpoints as its trainer leaves them, with
llamascopium 2.0.0b34: rows of unequal lengths, decoder vectors as unequal at each head.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from saestore import dictionaries, open_lake
from saestore.errors import ConfigError, UnsupportedError
from saestore.exchange.dictionaries import export_dictionary, import_dictionary
from saestore.lake import Lake
from saestore.testing.dictionaries import random_dictionary, raw_rows
from saestore.testing.stores import synthetic_store
from saestore_schemas.dictionary import BatchTopK, JumpRelu, Relu, ThresholdInference, TopK
from saestore_schemas.exchange import ImportDictionarySettings
from saestore_schemas.families import CrossCoderSettings


HERE = Path(__file__).parent / "llamascopium_crosscoder"
THEIRS = load_file(HERE / "numbers.safetensors")
HEADS, D, FEATURES = THEIRS["W_E"].shape
HOOKS = tuple(f"blocks.{head}.hook_resid_post" for head in range(HEADS))
ROWS = {hook: THEIRS["x"][:, head] for head, hook in enumerate(HOOKS)}


def imported(lake, path, **more):
    settings = ImportDictionarySettings(
        series="a", name="b", tool="llamascopium", path=str(path), **more
    )
    conversion = import_dictionary(settings, lake).conversion
    return conversion, dictionaries.load(lake, "a/b")


def computes(found, kind, code=None):
    code = found.encode(ROWS) if code is None else code
    wanted = THEIRS[f"{kind}.f"].flatten(1)
    assert ((code.to_dense() != 0) == (wanted != 0)).all()
    torch.testing.assert_close(code.to_dense(), wanted, rtol=1e-5, atol=1e-5)
    for head, hook in enumerate(HOOKS):
        theirs = THEIRS[f"{kind}.y"][:, head]
        torch.testing.assert_close(found.decode(code)[hook], theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["topk", "relu", "jumprelu", "folded"])
def test_a_checkpoint_it_wrote_is_read(tmp_path, kind):
    state = {} if kind == "folded" else {"fold_state": "external"}
    conversion, found = imported(Lake.at(tmp_path), HERE / f"saved-{kind}", **state)
    assert conversion.max_error < 1e-9
    assert conversion.firings > 500
    assert found.config.options.gating == "per_head"
    computes(found, kind)
    if kind != "folded":  # and folded our way it still does
        computes(found.folded(), kind)


def test_its_batchtopk_ranks_all_heads_together(tmp_path):
    path = HERE / "saved-batchtopk"
    with pytest.raises(UnsupportedError, match="without a threshold"):
        imported(Lake.at(tmp_path), path, fold_state="external")
    conversion, found = imported(Lake.at(tmp_path), path, fold_state="external", approximate=True)
    assert "calibrates one" in conversion.inexact[0]
    assert found.config.semantics.activation == TopK(k=3)
    semantics = found.config.semantics.model_copy(
        update={
            "activation": BatchTopK(k=3, rank_over="heads"),
            "inference": ThresholdInference(source="ema"),
        }
    )
    config = found.config.model_copy(update={"semantics": semantics})
    tensors = {**found.tensors(), "threshold": torch.zeros(HEADS, FEATURES)}
    batch = found.restore(config, found.scales, tensors)
    computes(batch, "batchtopk", batch(batch.normalise(ROWS)).code.to_sparse())


def test_over_a_store_its_batchtopk_gets_one_threshold_of_all_heads(tmp_path):
    lake = open_lake(tmp_path, device="cpu")
    synthetic_store(lake.lake, rows=300, width=D, hookpoints=HOOKS)
    settings = {"series": "a", "name": "b", "tool": "llamascopium", "fold_state": "external"}
    settings["path"] = str(HERE / "saved-batchtopk")
    conversion = lake.import_dictionary(settings, store="synthetic").conversion
    assert not conversion.inexact
    assert conversion.max_error < 1e-6
    found = lake.dictionary("a/b")
    assert found.config.semantics.activation == BatchTopK(k=3, rank_over="heads")
    assert found.config.semantics.inference.l0 == pytest.approx(3 * HEADS)
    assert len(found.thresholds().unique()) == 1


def test_what_its_files_do_not_say_is_asked_or_refused(tmp_path):
    shutil.copytree(HERE / "saved-topk", tmp_path / "saved")
    path = tmp_path / "saved" / "config.json"
    plain = json.loads(path.read_text())

    def read(changes, **more):
        path.write_text(json.dumps(plain | changes))
        return imported(Lake.at(tmp_path / "lake"), tmp_path / "saved", **more)

    with pytest.raises(ConfigError, match="contain the normalisation already"):
        read({})
    with pytest.raises(UnsupportedError, match="token-wise"):
        read({"norm_activation": "token-wise"})
    with pytest.raises(UnsupportedError, match="'gelu' of a crosscoder"):
        read({"act_fn": "gelu"}, fold_state="folded")
    with pytest.raises(ConfigError, match="W_E"):
        read({"hook_points": list(HOOKS[:2])}, fold_state="folded")
    with pytest.raises(ConfigError, match=r"dataset_average_activation_norm\.blocks\.7"):
        read({"hook_points": [*HOOKS[:2], "blocks.7.hook_resid_post"]}, fold_state="external")


def trained(activation, widths=(7, 7, 7), **more):
    settings = CrossCoderSettings.model_validate(
        {"family": "crosscoder", "hookpoints": HOOKS, "d_sae": FEATURES, "activation": activation}
        | more
    )
    return random_dictionary(settings, dict(zip(HOOKS, widths, strict=True)), dtype=torch.float32)


WRITTEN = {
    "topk": lambda: trained(TopK(k=3), gating="per_head"),
    "relu": lambda: trained(Relu(), gating="per_head"),
    "shared-relu": lambda: trained(Relu()),
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_what_is_written_for_it_is_the_same_in_raw_units(tmp_path, kind):
    ours = WRITTEN[kind]()
    report = export_dictionary(ours, "llamascopium", tmp_path / "out", name="a/ours")
    assert report.conversion.max_error < 1e-5
    assert report.conversion.firings > 500
    _, back = imported(Lake.at(tmp_path / "lake"), tmp_path / "out")
    rows = {
        hook: torch.from_numpy(raw_rows(9, 7, seed=number)).float()
        for number, hook in enumerate(HOOKS)
    }
    code = ours.by_feature(ours.encode(rows)).to_dense()
    found = back.by_feature(back.encode(rows)).to_dense()
    torch.testing.assert_close(found, code, rtol=1e-4, atol=1e-4)
    for hook, wanted in ours.reconstruct(rows).items():
        torch.testing.assert_close(back.reconstruct(rows)[hook], wanted, rtol=1e-4, atol=1e-4)


def test_what_its_files_cannot_say_is_not_written(tmp_path):
    for dictionary, why in (
        (trained(JumpRelu(), gating="per_head"), "differ from head to head"),
        (trained(TopK(k=3)), "not as long at one head"),
        (trained(Relu(), (7, 4, 5)), "widths 7, 4, 5"),
        (trained({"kind": "abstopk", "k": 3}, gating="per_head"), "no counterpart of activation"),
    ):
        with pytest.raises(UnsupportedError, match=why):
            export_dictionary(dictionary, "llamascopium", tmp_path / "out", name="a/b")
