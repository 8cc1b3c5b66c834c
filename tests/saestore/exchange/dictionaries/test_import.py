"""Imported dictionaries: rows normalised one by one, fold states measured, and life in the lake."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from saestore import analyze, dictionaries, evaluate
from saestore.dictionaries import Scale
from saestore.errors import ConfigError, UnsupportedError
from saestore.exchange.dictionaries import export_dictionary, import_dictionary, reference
from saestore.lake import Lake, Ref
from saestore.testing.stores import synthetic_store
from saestore_schemas.analyze import AnalyzeSettings
from saestore_schemas.dictionary import ScaleRecord
from saestore_schemas.evaluate import EvaluateSettings
from saestore_schemas.exchange import ImportDictionarySettings


WRITTEN = Path(__file__).parents[3] / "agreement" / "dictionaries"
HOOK = "blocks.1.hook_resid_post"


@pytest.fixture
def lake(tmp_path):
    return Lake.at(tmp_path / "lake")


def read(lake, tool, path, *, store=None, **more):
    settings = ImportDictionarySettings(series="a", name="b", tool=tool, path=str(path), **more)
    conversion = import_dictionary(settings, lake, store=store).conversion
    return conversion, dictionaries.load(lake, "a/b")


def openai(path, *, activation="TopK", after="ReLU", k=3):
    """Write what openai/sparse_autoencoder saves; return the weights."""
    draw = torch.Generator().manual_seed(8)
    state = {
        "pre_bias": torch.randn(7, generator=draw),
        "encoder.weight": torch.randn(11, 7, generator=draw),
        "latent_bias": 0.3 * torch.randn(11, generator=draw),
        "decoder.weight": torch.randn(7, 11, generator=draw),
        "stats_last_nonzero": torch.zeros(11, dtype=torch.long),
        "latents_activation_frequency": torch.ones(11),
        "latents_mean_square": torch.zeros(11),
        "activation": activation,
        "activation_state_dict": {"k": k, "postact_fn": after} if activation == "TopK" else {},
    }
    torch.save(state, path)
    return state


def test_openai_topk_normalises_each_row_as_its_code_does(lake, tmp_path):
    w = openai(tmp_path / "8.pt")
    conversion, ours = read(lake, "openai", tmp_path / "8.pt", hookpoint=HOOK)
    assert conversion.max_error < 1e-9
    assert conversion.firings > 500
    assert ours.config.scale[HOOK].kind == "token_layer_norm"
    rows = 5 * torch.randn(40, 7, generator=torch.Generator().manual_seed(1)) + 3
    # As its model.py says, line by line.
    mu = rows.mean(dim=-1, keepdim=True)
    x = rows - mu
    std = x.std(dim=-1, keepdim=True)
    x = x / (std + 1e-5)
    latents = (x - w["pre_bias"]) @ w["encoder.weight"].T + w["latent_bias"]
    top = latents.topk(3, dim=-1)
    codes = torch.zeros_like(latents).scatter_(-1, top.indices, top.values.relu())
    out = (codes @ w["decoder.weight"].T + w["pre_bias"]) * std + mu
    torch.testing.assert_close(ours.encode(rows).to_dense(), codes, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.reconstruct(rows)[HOOK], out, rtol=1e-5, atol=1e-4)


def test_openai_relu_has_no_normalisation_and_folders_have_one_file(lake, tmp_path):
    folder = tmp_path / "autoencoders"
    folder.mkdir()
    openai(folder / "8.pt", activation="ReLU")
    conversion, ours = read(lake, "openai", folder, hookpoint=HOOK)
    assert conversion.max_error < 1e-9
    assert ours.config.semantics.activation.kind == "relu"
    openai(folder / "9.pt")
    with pytest.raises(ConfigError, match=r"holds 2 \.pt files"):
        read(lake, "openai", folder, hookpoint=HOOK)


def test_openai_says_what_it_cannot_have(lake, tmp_path):
    openai(tmp_path / "8.pt")
    with pytest.raises(ConfigError, match="do not say what it reads") as caught:
        read(lake, "openai", tmp_path / "8.pt")
    assert "--hookpoint" in caught.value.hint
    for more in ({"activation": "Identity"}, {"after": "Identity"}):
        openai(tmp_path / "8.pt", **more)
        with pytest.raises(UnsupportedError, match="negative values"):
            read(lake, "openai", tmp_path / "8.pt", hookpoint=HOOK)
    assert lake.refs(unfinished=True) == []


@pytest.mark.parametrize("kind", ["token_norm", "token_layer_norm"])
def test_a_scale_of_each_row_is_what_the_libraries_compute(kind):
    record = ScaleRecord(kind=kind, a=1.7, mean=None, rows=0, excluded=(), state="external")
    scale = Scale(record, None)
    draw = torch.Generator().manual_seed(2)
    rows = torch.randn(13, 7, generator=draw, dtype=torch.float64) * 4 + 1
    out = torch.randn(13, 7, generator=draw, dtype=torch.float64)
    wanted, back = reference.NORMALISATIONS[kind](rows, 1.7)
    torch.testing.assert_close(scale.normalise(rows), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(scale.denormalise(out, rows), back(out), rtol=1e-12, atol=1e-12)
    nothing = torch.zeros(2, 7, dtype=torch.float64)
    assert torch.equal(scale.normalise(nothing), nothing)
    with pytest.raises(UnsupportedError, match="one by one") as caught:
        scale.denormalise(out)
    assert "decode(code, inputs)" in caught.value.hint


def test_no_weights_can_hold_a_scale_of_each_row(lake, tmp_path):
    openai(tmp_path / "8.pt")
    _, ours = read(lake, "openai", tmp_path / "8.pt", hookpoint=HOOK)
    with pytest.raises(UnsupportedError, match="one by one"):
        ours.folded()
    assert ours.in_raw_units() is ours
    with pytest.raises(UnsupportedError, match="one by one") as caught:
        export_dictionary(ours, "sae-lens", tmp_path / "out")
    assert caught.value.hint
    assert not (tmp_path / "out").exists()
    rows = torch.randn(4, 7)
    with pytest.raises(UnsupportedError, match="a code alone"):
        ours.decode(ours.encode(rows))


FACTOR = 10.0


def sparse_rows(folder):
    """Write a dictionary of llamascopium; return rows that it explains in normalised units.

    On rows ten times smaller nothing fires; on rows ten times larger too much does.
    """
    draw = torch.Generator().manual_seed(6)
    decoder = torch.nn.functional.normalize(torch.randn(64, 16, generator=draw))
    folder.mkdir()
    weights = {
        "W_E": decoder.T.contiguous(), "b_E": torch.full((64,), -1.8), "W_D": 2.5 * decoder,
        "b_D": torch.zeros(16),
        f"dataset_average_activation_norm.{HOOK}": torch.tensor(4 / FACTOR),
    }  # fmt: skip
    save_file(weights, folder / "sae_weights.safetensors")
    config = {
        "sae_type": "sae", "d_model": 16, "expansion_factor": 4, "hook_point_in": HOOK,
        "hook_point_out": HOOK, "act_fn": "relu", "norm_activation": "dataset-wise",
        "sparsity_include_decoder_norm": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return 3 * decoder[torch.randint(64, (600,), generator=draw)]


@pytest.mark.parametrize("state", ["external", "folded"])
def test_a_fold_state_is_decided_by_the_rows_of_a_store(lake, tmp_path, state):
    rows = sparse_rows(tmp_path / "scope")
    values = (rows / FACTOR if state == "external" else rows).numpy()
    store = synthetic_store(lake, "rows", values={HOOK: values})
    conversion, ours = read(lake, "llamascopium", tmp_path / "scope", store=store)
    assert f"fold state {state}, measured on 256 rows" in " ".join(conversion.steps)
    assert conversion.store == "rows"
    assert conversion.explained_variance > 0.6
    assert conversion.l0 > 1
    record = ours.config.scale[HOOK]
    external = ("dataset_mean_norm", pytest.approx(FACTOR))
    assert (record.kind, record.a) == (external if state == "external" else ("none", 1.0))
    manifest = lake.manifest(Ref("dictionary", "a/b"))
    assert manifest.facts["explained_variance"] == conversion.explained_variance
    assert manifest.facts["imported"]["store"] == "rows"


def test_rows_that_decide_nothing_are_not_decided_by(lake, tmp_path):
    rows = sparse_rows(tmp_path / "scope")
    store = synthetic_store(lake, "rows", values={HOOK: rows.numpy() / 1000})
    with pytest.raises(ConfigError, match="both readings") as caught:
        read(lake, "llamascopium", tmp_path / "scope", store=store)
    assert "--fold-state" in caught.value.hint


CASES = {
    "folded": ("llamascopium", WRITTEN / "llamascopium" / "topk", {"fold_state": "folded"}),
    "external": ("llamascopium", WRITTEN / "llamascopium" / "topk", {"fold_state": "external"}),
    "glu": ("llamascopium", WRITTEN / "llamascopium" / "glu", {}),
    "batchtopk": ("dictionary-learning", WRITTEN / "dictionary-learning" / "BatchTopKSAE", {}),
    "by row": ("openai", None, {"hookpoint": HOOK}),
}


@pytest.mark.parametrize("case", CASES)
def test_an_imported_dictionary_is_evaluated_and_analyzed_like_any_other(lake, tmp_path, case):
    tool, path, more = CASES[case]
    if path is None:
        path = tmp_path / "8.pt"
        openai(path)
    store = synthetic_store(lake, "rows", hookpoints=(HOOK,))
    conversion, ours = read(lake, tool, path, store=store, **more)
    assert conversion.max_error < 1e-9
    settings = EvaluateSettings(dictionary="a/b", activations="rows", split="all", splice=None)
    values = evaluate.run(settings, lake, device="cpu").values
    kept = torch.tensor(store.read(HOOK, 0, store.n_rows))[torch.tensor(store.flags()) == 0]
    code = ours.encode(kept)
    l0 = float((code.to_dense() != 0).sum(dim=1).double().mean())
    assert values["l0"] == pytest.approx(l0)
    out = ours.decode(code, kept)[HOOK]
    spread = (kept - kept.mean(dim=0)).double().square().sum()
    wanted = 1 - float((kept - out).double().square().sum() / spread)
    assert values["explained_variance"] == pytest.approx(wanted, rel=1e-4)
    ref = analyze.run(
        AnalyzeSettings(dictionary="a/b", activations="rows", logits=None), lake, device="cpu"
    )
    assert lake.manifest(ref).counts
