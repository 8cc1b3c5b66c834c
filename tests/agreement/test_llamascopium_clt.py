"""A cross-layer transcoder computes what llamascopium computes with the same weights.

`llamascopium_clt/make.py` wrote the numbers, and checkpoints as its trainer leaves them, with
llamascopium 2.0.0b34.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from saestore import dictionaries
from saestore.errors import ConfigError, UnsupportedError
from saestore.exchange.dictionaries import import_dictionary
from saestore.lake import Lake
from saestore.testing.dictionaries import random_dictionary
from saestore_schemas.exchange import ImportDictionarySettings
from saestore_schemas.families import CltSettings


HERE = Path(__file__).parent / "llamascopium_clt"
THEIRS = load_file(HERE / "numbers.safetensors")
LAYERS, D, FEATURES = THEIRS["W_E"].shape
INS = tuple(f"blocks.{s}.hook_resid_mid" for s in range(LAYERS))
OUTS = tuple(f"blocks.{s}.hook_mlp_out" for s in range(LAYERS))
KINDS = {"topk": 4, "layertopk": 8, "batchtopk": 4, "batchlayertopk": 8, "relu": None}


def ours(kind, k):
    """The dictionary of their weights: theirs are by target, ours by source."""
    settings = CltSettings(
        family="clt",
        hookpoints_in=INS,
        hookpoints_out=OUTS,
        d_sae=FEATURES,
        activation={"kind": kind} | ({} if k is None else {"k": k}),
        scale="none",
    )
    plain = random_dictionary(settings, dict.fromkeys((*INS, *OUTS), D), dtype=torch.float32)
    tensors = plain.tensors()
    for s in range(LAYERS):
        tensors[f"W_enc.{s}"] = THEIRS["W_E"][s]
        tensors[f"b_enc.{s}"] = THEIRS["b_E"][s]
        tensors[f"b_dec.{s}"] = THEIRS["b_D"][s]
        targets = [THEIRS[f"W_D.{t}"][s] for t in range(s, LAYERS)]
        tensors[f"W_dec.{s}"] = torch.stack(targets, dim=1)
    return plain.restore(plain.config, plain.scales, tensors)


@pytest.mark.parametrize("kind", KINDS)
def test_codes_and_reconstructions_are_theirs(kind):
    dictionary = ours(kind, KINDS[kind])
    output = dictionary({hook: THEIRS["x"][:, s] for s, hook in enumerate(INS)})
    code = output.code.to_dense().detach().view(-1, LAYERS, FEATURES)
    torch.testing.assert_close(code, THEIRS[f"{kind}.f"], rtol=1e-5, atol=1e-5)
    assert ((code != 0) == (THEIRS[f"{kind}.f"] != 0)).all()
    for t, hook in enumerate(OUTS):
        found = output.reconstruction[hook].detach()
        torch.testing.assert_close(found, THEIRS[f"{kind}.y"][t], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["topk", "layertopk", "jumprelu"])
def test_a_checkpoint_it_wrote_is_read(tmp_path, kind):
    settings = ImportDictionarySettings(
        series="a", name="b", tool="llamascopium", path=str(HERE / f"saved-{kind}")
    )
    lake = Lake.at(tmp_path)
    conversion = import_dictionary(settings, lake).conversion
    assert conversion.max_error < 1e-9
    assert conversion.firings > 500
    found = dictionaries.load(lake, "a/b")
    rows = {hook: THEIRS["x"][:, s] for s, hook in enumerate(INS)}
    code = found.encode(rows).to_dense().view(-1, LAYERS, FEATURES)
    torch.testing.assert_close(code, THEIRS[f"{kind}.f"], rtol=1e-5, atol=1e-5)
    for hook, theirs in zip(OUTS, THEIRS[f"{kind}.y"], strict=True):
        torch.testing.assert_close(found.reconstruct(rows)[hook], theirs, rtol=1e-5, atol=1e-5)


def test_what_its_files_do_not_say_is_asked_or_refused(tmp_path):
    shutil.copytree(HERE / "saved-topk", tmp_path / "saved")
    path = tmp_path / "saved" / "config.json"
    plain = json.loads(path.read_text())

    def read(changes, **more):
        path.write_text(json.dumps(plain | changes))
        settings = ImportDictionarySettings(
            series="a", name="b", tool="llamascopium", path=str(tmp_path / "saved"), **more
        )
        return import_dictionary(settings, Lake.at(tmp_path / "lake")).conversion

    with pytest.raises(ConfigError, match="contain the normalisation already"):
        read({"norm_activation": "dataset-wise"})
    with pytest.raises(UnsupportedError, match="outside of its weights"):
        read({"norm_activation": "dataset-wise"}, fold_state="external")
    with pytest.raises(UnsupportedError, match="holds no threshold"):
        read({"act_fn": "batchlayertopk"})
    with pytest.raises(ConfigError, match="hook_points_out"):
        read({"hook_points_out": ["a", "b", "c"]})
    assert read({"norm_activation": "dataset-wise"}, fold_state="folded").max_error < 1e-9
