"""Files of other tools that are not what they should be: each is named, and nothing is left behind."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from saestore import dictionaries
from saestore.errors import ArtefactExistsError, ConfigError, UnsupportedError
from saestore.exchange.dictionaries import import_dictionary
from saestore.lake import Lake
from saestore_schemas.exchange import ImportDictionarySettings


WRITTEN = Path(__file__).parents[3] / "agreement" / "dictionaries"


@pytest.fixture
def lake(tmp_path):
    return Lake.at(tmp_path / "lake")


@pytest.fixture
def copied(tmp_path):
    """A function that copies what a library wrote."""

    def copy(tool, name):
        folder = tmp_path / "given"
        shutil.copytree(WRITTEN / tool / name, folder)
        (folder / "expected.safetensors").unlink()
        return folder

    return copy


def read(lake, tool, path, **more):
    settings = ImportDictionarySettings(series="a", name="b", tool=tool, path=str(path), **more)
    conversion = import_dictionary(settings, lake).conversion
    return conversion, dictionaries.load(lake, "a/b")


def refused(lake, tool, path, match, *, kind=ConfigError, **more):
    with pytest.raises(kind, match=match) as caught:
        read(lake, tool, path, **more)
    assert lake.refs(unfinished=True) == []
    return caught.value


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("tool", ["dictionary-learning", "openai"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(lake, tmp_path, copied, tool):
    folder = copied("dictionary-learning", "AutoEncoder")
    harm = tmp_path / "harm"
    for dump in (
        lambda path: torch.save({"encoder.weight": Harmful(harm)}, path),
        lambda path: path.write_bytes(pickle.dumps({"encoder.weight": Harmful(harm)}, protocol=2)),
    ):
        dump(folder / "ae.pt")
        error = refused(lake, tool, folder, "reading it would run code")
        assert "where you trust it" in error.hint
        assert not harm.exists()


def test_a_torn_file_is_named(lake, copied):
    folder = copied("dictionary-learning", "JumpReluAutoEncoder")
    whole = (folder / "ae.pt").read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        (folder / "ae.pt").write_bytes(whole[:length])
        refused(lake, "dictionary-learning", folder, r"ae\.pt")


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_torn_safetensors_npz_and_json_are_named(lake, copied, tmp_path, length):
    folder = copied("llamascopium", "topk-without-norm")
    weights = folder / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:length])
    refused(lake, "llamascopium", folder, r"sae_weights\.safetensors.*not whole")
    (folder / "config.json").write_text('{"sae_type": "sae"')
    refused(lake, "llamascopium", folder, r"config\.json.*no JSON")
    (folder / "config.json").write_text("[]")
    refused(lake, "llamascopium", folder, "no JSON object")
    np.savez(tmp_path / "params.npz", W_enc=np.ones((7, 11), np.float32))
    whole = (tmp_path / "params.npz").read_bytes()
    (tmp_path / "params.npz").write_bytes(whole[:length])
    refused(lake, "gemma-scope", tmp_path, r"params\.npz.*not whole")


def test_an_npz_of_objects_is_not_read(lake, tmp_path):
    harm = tmp_path / "harm"
    np.savez(tmp_path / "params.npz", W_enc=np.array([Harmful(harm)], dtype=object))
    refused(lake, "gemma-scope", tmp_path, r"no whole \.npz of numbers")
    assert not harm.exists()


def changed(folder, **tensors):
    """Change tensors of a sparsify folder; None removes one."""
    file = folder / "layers.1" / "sae.safetensors"
    found = load_file(file) | {name.replace("__", "."): each for name, each in tensors.items()}
    save_file({name: each for name, each in found.items() if each is not None}, file)


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"b_dec": None}, "b_dec: is not there"),
        ({"b_dec": torch.zeros(8)}, r"b_dec: has shape \[8\]; expected \[7\]"),
        (
            {"encoder__weight": torch.zeros(7)},
            r"encoder\.weight: has shape \[7\]; expected 2 axes",
        ),
        ({"b_dec": torch.full((7,), float("nan"))}, "b_dec: holds NaN"),
        ({"b_dec": torch.zeros(7, dtype=torch.int8)}, "b_dec: found 'torch.int8'"),
        ({"b_enc": torch.zeros(11)}, "b_enc: is not known"),
        ({"W_skip": torch.zeros(7, 7)}, "W_skip: is not known"),
    ],
)
def test_tensors_that_do_not_fit_are_named(lake, copied, tensors, match):
    folder = copied("sparsify", "run")
    changed(folder, **tensors)
    assert refused(lake, "sparsify", folder, match).hint


def test_half_precision_is_widened_exactly_and_said(lake, copied):
    folder = copied("sparsify", "run")
    before = load_file(folder / "layers.1" / "sae.safetensors")
    changed(folder, **{name.replace(".", "__"): each.bfloat16() for name, each in before.items()})
    conversion, ours = read(lake, "sparsify", folder)
    assert "weights are bfloat16, widened to float32 exactly" in conversion.steps
    assert torch.equal(ours.tensors()["W_dec"], before["W_dec"].bfloat16().float())
    assert conversion.max_error < 1e-9


@pytest.mark.parametrize(
    ("tool", "name", "change", "says"),
    [
        ("sparsify", "run", {"activation": "groupmax"}, (UnsupportedError, "groupmax")),
        ("sparsify", "run", {"transcode": True}, (UnsupportedError, "transcoder")),
        ("sparsify", "run", {"skip_connection": True}, (UnsupportedError, "skip connection")),
        ("sparsify", "run", {"signed": True}, (UnsupportedError, "negative")),
        ("sparsify", "run", {"k": "3"}, (ConfigError, "k: found '3'; expected int")),
        ("sparsify", "run", {"k": 12}, (ConfigError, "k: found 12; expected at most 11")),
        ("sparsify", "run", {"d_in": 8}, (ConfigError, "d_in: found 8")),
        ("sparsify", "run", {"novelty": 1}, (UnsupportedError, "novelty = 1, which this release")),
        ("llamascopium", "glu", {"sae_type": "temporal"}, (UnsupportedError, "family 'temporal'")),
        ("llamascopium", "glu", {"act_fn": "layertopk"}, (UnsupportedError, "layertopk")),
        ("llamascopium", "glu", {"norm_activation": "batch-wise"}, (UnsupportedError, "other rows")),
        ("llamascopium", "glu", {"hook_point_in": None}, (ConfigError, "hook_point_in: is not there")),
    ],
)  # fmt: skip
def test_what_a_config_says_is_taken_seriously(lake, copied, tool, name, change, says):
    kind, match = says
    folder = copied(tool, name)
    file = folder / ("layers.1/cfg.json" if tool == "sparsify" else "config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    refused(lake, tool, folder, match, kind=kind)


def test_unknown_keys_are_passed_over_when_that_is_allowed(lake, copied):
    folder = copied("sparsify", "run")
    file = folder / "layers.1" / "cfg.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"novelty": 1}))
    conversion, ours = read(lake, "sparsify", folder, approximate=True)
    assert conversion.max_error < 1e-9
    assert "novelty" in ours.config.imported.inexact[0]


def test_a_run_with_several_hookpoints_asks_which(lake, copied, tmp_path):
    folder = copied("sparsify", "run")
    shutil.copytree(WRITTEN / "sparsify" / "inner" / "layers.1.mlp", folder / "layers.1.mlp")
    error = refused(lake, "sparsify", folder, r"2 hookpoints: layers\.1, layers\.1\.mlp")
    assert "--hookpoint" in error.hint
    _, ours = read(lake, "sparsify", folder, hookpoint="blocks.1.hook_mlp_out")
    assert ours.hookpoints_in == ("blocks.1.hook_mlp_out",)
    _, whole = read(Lake.at(tmp_path / "two"), "sparsify", folder / "layers.1")
    assert whole.hookpoints_in == ("blocks.1.hook_resid_post",)


def test_a_threshold_never_estimated_is_no_threshold(lake, copied):
    folder = copied("dictionary-learning", "BatchTopKSAE")
    state = torch.load(folder / "ae.pt", weights_only=True)  # noqa: TID251 - weights only
    torch.save(state | {"threshold": torch.tensor(-1.0)}, folder / "ae.pt")
    refused(
        lake, "dictionary-learning", folder, "BatchTopK without a threshold", kind=UnsupportedError
    )
    conversion, ours = read(lake, "dictionary-learning", folder, approximate=True)
    assert ours.config.semantics.activation.kind == "topk"
    assert conversion.max_error > 1e-3


def test_a_checkpoint_of_dictionary_learning_finds_its_config(lake, copied):
    folder = copied("dictionary-learning", "AutoEncoderTopK")
    (folder / "checkpoints").mkdir()
    shutil.move(folder / "ae.pt", folder / "checkpoints" / "ae_500.pt")
    conversion, _ = read(lake, "dictionary-learning", folder / "checkpoints" / "ae_500.pt")
    assert conversion.max_error < 1e-9


def test_a_norm_that_was_never_set_is_refused(lake, copied):
    folder = copied("llamascopium", "relu")
    file = folder / "sae_weights.safetensors"
    key = "dataset_average_activation_norm.blocks.1.hook_resid_post"
    for value in (0.0, 1e-38, float("nan"), -3.0):
        save_file(load_file(file) | {key: torch.tensor(value)}, file)
        refused(lake, "llamascopium", folder, "nobody filled", fold_state="external")
    save_file({name: each for name, each in load_file(file).items() if name != key}, file)
    refused(lake, "llamascopium", folder, "is not there", fold_state="external")
    conversion, ours = read(lake, "llamascopium", folder, fold_state="folded")
    assert ours.config.scale[ours.hookpoints_in[0]].kind == "none"
    assert conversion.max_error < 1e-9


def test_where_llamascopium_keeps_weights(lake, copied, tmp_path):
    folder = copied("llamascopium", "topk-without-norm")
    state = load_file(folder / "sae_weights.safetensors")
    (folder / "sae_weights.safetensors").unlink()
    (folder / "sae_weights.dcp").mkdir()
    error = refused(lake, "llamascopium", folder, "sharded checkpoint of torch")
    assert "save_pretrained" in error.hint
    (folder / "checkpoints").mkdir()
    torch.save({"sae": state, "version": "2"}, folder / "checkpoints" / "final.pt")
    conversion, _ = read(lake, "llamascopium", folder)
    assert conversion.max_error < 1e-9


def test_the_same_files_are_found_imported_and_others_are_refused(lake, copied):
    folder = copied("sparsify", "run")
    _, first = read(lake, "sparsify", folder)
    conversion, again = read(lake, "sparsify", folder)
    assert conversion is None
    assert torch.equal(first.tensors()["W_enc"], again.tensors()["W_enc"])
    changed(folder, b_dec=torch.ones(7))
    with pytest.raises(ArtefactExistsError, match="digest"):
        read(lake, "sparsify", folder)
    error = refused(Lake.at(folder.parent / "two"), "sparsify", folder, "digest", digest="0")
    assert "leave `digest` out" in error.hint


HOOK = "blocks.2.hook_mlp_out"
FLAT = {
    "d_in": 7, "d_sae": 11, "dtype": "torch.float32", "hook_point": HOOK,
    "hook_point_layer": 2, "model_name": "gpt2-small", "activation_fn_str": "relu",
    "normalize_activations": False, "lr": 1e-3,
}  # fmt: skip


def flat(folder, **more):
    """Write what sae-lens wrote before 6.0."""
    folder.mkdir(exist_ok=True)
    draw = torch.Generator().manual_seed(4)
    shapes = {"W_enc": (7, 11), "b_enc": (11,), "W_dec": (11, 7), "b_dec": (7,)}
    weights = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    save_file(weights | {"scaling_factor": torch.ones(11)}, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(FLAT | more))
    return weights


def test_a_flat_config_of_before_6_is_read(lake, tmp_path):
    w = flat(tmp_path / "old")
    _, ours = read(lake, "sae-lens", tmp_path / "old")
    assert ours.hookpoints_in == (HOOK,)
    assert ours.config.model.name == "gpt2-small"
    assert ours.config.imported.version == "6.54.12"
    rows = torch.randn(20, 7, generator=torch.Generator().manual_seed(1))
    codes = ((rows - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    torch.testing.assert_close(ours.encode(rows).to_dense(), codes, rtol=1e-5, atol=1e-5)
    flat(tmp_path / "topk", activation_fn_str="topk", activation_fn_kwargs={"k": 3})
    _, topk = read(Lake.at(tmp_path / "two"), "sae-lens", tmp_path / "topk")
    assert topk.config.semantics.activation.k == 3


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"activation_fn_str": "tanh-relu"}, "tanh-relu"),
        ({"normalize_activations": True}, "activation_scaler"),
        ({"architecture": "temporal", "sae_lens_version": "6.1.0"}, "through attention"),
        (
            {"architecture": "transcoder", "sae_lens_version": "6.1.0",
             "normalize_activations": "layer_norm"},
            "what it reconstructs is not",
        ),
        ({"architecture": "gatd", "sae_lens_version": "6.1.0"}, "'gatd' is not supported"),
        (
            {"architecture": "standard", "sae_lens_version": "6.1.0",
             "normalize_activations": "covariance_whitening"},
            "whitened",
        ),
    ],
)  # fmt: skip
def test_what_sae_lens_has_and_we_have_not_is_said(lake, tmp_path, change, match):
    flat(tmp_path / "given", **change)
    error = refused(lake, "sae-lens", tmp_path / "given", match, kind=UnsupportedError)
    assert error.hint
    if "gatd" in match:
        assert "gated" in error.hint


def test_a_factor_of_features_is_refused(lake, tmp_path):
    w = flat(tmp_path / "given")
    save_file(
        w | {"scaling_factor": torch.full((11,), 2.0)},
        tmp_path / "given" / "sae_weights.safetensors",
    )
    refused(lake, "sae-lens", tmp_path / "given", "scaling_factor", kind=UnsupportedError)


def test_a_hookpoint_that_nobody_knows_is_asked_for(lake, tmp_path):
    flat(tmp_path / "given", hook_point="somewhere")
    error = refused(lake, "sae-lens", tmp_path / "given", "'somewhere', which is no hookpoint")
    assert "--hookpoint" in error.hint
    _, ours = read(lake, "sae-lens", tmp_path / "given", hookpoint="model.layers.4")
    assert ours.hookpoints_in == ("blocks.4.hook_resid_post",)
