"""The real sae-lens: it reads what we write, we read what it writes, and both compute the same."""

import importlib
import json
import os
import warnings

import pytest
import torch

from saestore import dictionaries
from saestore.errors import ConfigError, UnsupportedError
from saestore.exchange.dictionaries import export_dictionary, import_dictionary, measure
from saestore.lake import Lake
from saestore.testing.dictionaries import random_dictionary
from saestore.testing.far_sae import HOOKPOINT, awkward_sae
from saestore_schemas.dictionary import AbsTopK, BatchTopK, Gated, JumpRelu, Relu, TopK
from saestore_schemas.exchange import ImportDictionarySettings
from saestore_schemas.families import TranscoderSettings


pytestmark = pytest.mark.filterwarnings("ignore")

OURS = {
    "topk": {"activation": TopK(k=4)},
    "topk, many features": {"activation": TopK(k=13), "d_in": 37, "d_sae": 301},
    "topk, gate on the norm": {"activation": TopK(k=4), "gate_on_decoder_norm": True},
    "topk, nothing subtracted": {"activation": TopK(k=4), "subtract_b_dec": False},
    "relu": {"activation": Relu()},
    "relu, many features": {"activation": Relu(), "d_in": 37, "d_sae": 301},
    "abstopk": {"activation": AbsTopK(k=4)},
    "batchtopk": {"activation": BatchTopK(k=3.0)},
    "batchtopk, gate on the norm": {
        "activation": BatchTopK(k=3.0), "gate_on_decoder_norm": True, "lengths": (0.6, 3.0),
    },
    "jumprelu": {"activation": JumpRelu()},
    "jumprelu, gate on the norm": {"activation": JumpRelu(), "gate_on_decoder_norm": True},
    "jumprelu, nothing subtracted": {"activation": JumpRelu(), "subtract_b_dec": False},
    "gated": {"activation": Gated()},
}  # fmt: skip

THEIRS = {
    "standard": {},
    "topk": {"k": 3},
    "topk, rescaled": {"architecture": "topk", "k": 3, "rescale_acts_by_decoder_norm": True},
    "abstopk": {"k": 3},
    "jumprelu": {},
    "gated": {},
    "jumprelu, nothing subtracted": {"architecture": "jumprelu", "apply_b_dec_to_input": False},
    "gated, nothing subtracted": {"architecture": "gated", "apply_b_dec_to_input": False},
    "standard, layer norm": {"architecture": "standard", "normalize_activations": "layer_norm"},
    "topk, constant norm": {
        "architecture": "topk", "k": 3, "normalize_activations": "constant_norm_rescale",
    },
}  # fmt: skip


@pytest.fixture(scope="session")
def sae_lens():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies' deprecations, at import
        if os.environ.get("TESTS_REQUIRE_PARTS"):
            return importlib.import_module("sae_lens")
        return pytest.importorskip("sae_lens", reason="sae-lens is not installed")


def imported(lake, path, **more):
    settings = ImportDictionarySettings(
        series="a", name="b", tool="sae-lens", path=str(path), **more
    )
    return import_dictionary(settings, lake).conversion, dictionaries.load(lake, "a/b")


def apart(one, other, clear):
    lengths = torch.linalg.vector_norm(one[clear], dim=1)
    return (torch.linalg.vector_norm((one - other)[clear], dim=1) / lengths).max()


@pytest.mark.parametrize("case", OURS)
def test_sae_lens_computes_what_we_exported_and_gives_it_back(sae_lens, tmp_path, case):
    scales = ("dataset_centred_rms", "none", "dataset_mean_norm")
    ours = awkward_sae(scale=scales[list(OURS).index(case) % 3], **OURS[case])
    report = export_dictionary(ours, "sae-lens", tmp_path / "out", name="a/b")
    assert report.conversion.max_error < 1e-6
    assert report.conversion.firings > 300
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path / "out"))
    assert theirs.cfg.architecture() == report.conversion.architecture
    assert theirs.cfg.metadata.hook_name == HOOKPOINT
    rows = measure.fixed_batch(ours)
    mine = measure.compute(measure.in_precision(ours), rows.double())
    with torch.no_grad():
        codes, reconstruction = theirs.encode(rows), theirs(rows)
    clear = (mine.codes.values != 0).eq(codes != 0).all(dim=1)
    assert clear.double().mean() > 0.97  # the rest is decided by rounding
    assert apart(mine.reconstruction, reconstruction, clear) < 1e-5
    theirs.save_model(tmp_path / "again")
    _, back = imported(Lake.at(tmp_path / "lake"), tmp_path / "again")
    found = measure.compute(measure.in_precision(back), rows.double())
    clear = (mine.codes.values != 0).eq(found.codes.values != 0).all(dim=1)
    assert clear.double().mean() > 0.99
    assert apart(mine.reconstruction, found.reconstruction, clear) < 1e-6


def saved(sae_lens, folder, case, dtype="float32"):
    """Return a dictionary of sae-lens with random weights, after saving it."""
    given = {"architecture": case.split(",")[0], **THEIRS[case]}
    kind = given.pop("architecture")
    made, config_class = sae_lens.registry.get_sae_class(kind)
    config = config_class(d_in=7, d_sae=11, dtype=dtype, device="cpu", **given)
    config.metadata.hook_name = HOOKPOINT
    config.metadata.model_name = "tiny"
    sae = made(config)
    draw = torch.Generator().manual_seed(len(case))
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            values = 0.6 * torch.randn(parameter.shape, generator=draw)
            parameter.copy_(values.abs() if name == "threshold" else values)
    sae.save_model(folder)
    return sae


@pytest.mark.parametrize("case", THEIRS)
def test_we_compute_what_sae_lens_wrote(sae_lens, tmp_path, case):
    dtype = "float16" if case in {"topk", "jumprelu"} else "float32"
    theirs = saved(sae_lens, tmp_path / "sae", case, dtype).float()
    theirs.cfg.dtype = "float32"
    theirs.dtype = torch.float32
    conversion, ours = imported(Lake.at(tmp_path / "lake"), tmp_path / "sae")
    assert conversion.max_error < 1e-9
    assert conversion.firings > 200
    assert any("float16" in step for step in conversion.steps) == (dtype == "float16")
    assert ours.hookpoints_in == (HOOKPOINT,)
    assert ours.config.model.name == "tiny"
    draw = torch.Generator().manual_seed(5)
    rows = torch.randn(200, 7, generator=draw) * torch.exp(torch.randn(200, 1, generator=draw))
    with torch.no_grad():
        codes, reconstruction = theirs.encode(rows), theirs(rows)
    wide = measure.in_precision(ours)
    mine = measure.compute(wide, rows.double())
    factors = wide.decoder_norms() if "rescaled" in case else torch.ones(11)
    clear = (mine.codes.values != 0).eq(codes != 0).all(dim=1)
    assert clear.double().mean() > 0.97
    scaled = (mine.codes.values * factors)[clear]
    torch.testing.assert_close(scaled.detach(), codes[clear].double(), rtol=1e-5, atol=1e-5)
    assert apart(mine.reconstruction, reconstruction, clear) < 1e-5


@pytest.mark.parametrize("kind", ["batchtopk", "matryoshka_batchtopk"])
@pytest.mark.parametrize("rescaled", [True, False])
def test_a_batchtopk_is_read_from_a_checkpoint_and_as_it_is_saved_for_inference(
    sae_lens, tmp_path, kind, rescaled
):
    from sae_lens.registry import get_sae_training_class

    training, config_class = get_sae_training_class(kind)
    more = {"matryoshka_widths": [4, 11]} if kind.startswith("matryoshka") else {}
    config = config_class(
        d_in=7, d_sae=11, k=3, dtype="float32", device="cpu", rescale_acts_by_decoder_norm=rescaled,
        **more,
    )  # fmt: skip
    config.metadata.hook_name = HOOKPOINT
    sae = training(config)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(0.6 * torch.randn(parameter.shape, generator=draw))
        sae.topk_threshold.fill_(0.7)
    sae.save_model(tmp_path / "checkpoint")
    sae.save_inference_model(tmp_path / "inference")
    rows = torch.randn(200, 7, generator=draw).double()
    found = []
    for name in ("checkpoint", "inference"):
        conversion, ours = imported(Lake.at(tmp_path / f"lake-{name}"), tmp_path / name)
        assert conversion.max_error < 1e-9
        found.append(measure.compute(measure.in_precision(ours), rows).reconstruction)
        assert ours.config.semantics.activation.kind == (
            "batchtopk" if name == "checkpoint" else "jumprelu"
        )
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)
    loaded = sae_lens.SAE.load_from_disk(str(tmp_path / "inference"))
    with torch.no_grad():
        theirs = loaded(rows.float()).double()
    close = (theirs - found[1]).abs().amax(dim=1) < 1e-5
    assert close.double().mean() > 0.98


IN, OUT = "blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out"


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("kind", [Relu(), JumpRelu()], ids=["relu", "jumprelu"])
def test_a_transcoder_goes_there_and_comes_back(sae_lens, tmp_path, kind, skip):
    settings = TranscoderSettings(
        family="transcoder",
        hookpoint_in=IN,
        hookpoint_out=OUT,
        d_sae=11,
        skip=skip,
        activation=kind,
    )
    ours = random_dictionary(settings, {IN: 7, OUT: 5}, dtype=torch.float32)
    report = export_dictionary(ours, "sae-lens", tmp_path / "out", name="a/b").conversion
    assert report.max_error < 1e-6
    assert report.firings > 300
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path / "out"))
    name = ("jumprelu_" if kind.kind == "jumprelu" else "") + ("skip_" if skip else "")
    assert theirs.cfg.architecture() == f"{name}transcoder" == report.architecture
    rows = measure.fixed_batch(ours)
    mine = measure.compute(measure.in_precision(ours), rows.double())
    with torch.no_grad():
        codes, reconstruction = theirs.encode(rows), theirs(rows)
    clear = (mine.codes.values != 0).eq(codes != 0).all(dim=1)
    assert clear.double().mean() > 0.97
    assert apart(mine.reconstruction, reconstruction, clear) < 1e-5
    theirs.save_model(tmp_path / "again")
    conversion, back = imported(Lake.at(tmp_path / "lake"), tmp_path / "again")
    assert conversion.max_error < 1e-9
    assert (back.hookpoints_in, back.hookpoints_out) == ((IN,), (OUT,))
    found = measure.compute(measure.in_precision(back), rows.double())
    assert apart(mine.reconstruction, found.reconstruction, clear) < 1e-6
    config = tmp_path / "again" / "cfg.json"
    given = json.loads(config.read_text())
    del given["metadata"]["hook_name_out"]
    config.write_text(json.dumps(given))
    with pytest.raises(ConfigError, match="do not say what it reconstructs"):
        imported(Lake.at(tmp_path / "other"), tmp_path / "again")
    _, named = imported(Lake.at(tmp_path / "third"), tmp_path / "again", hookpoint_out=OUT)
    assert named.hookpoints_out == (OUT,)


def test_a_transcoder_that_ranks_features_has_no_counterpart(tmp_path):
    settings = TranscoderSettings(
        family="transcoder", hookpoint_in=IN, hookpoint_out=OUT, d_sae=11, activation=TopK(k=3)
    )
    ours = random_dictionary(settings, {IN: 7, OUT: 5}, dtype=torch.float32)
    with pytest.raises(UnsupportedError, match="'topk' in transcoders"):
        export_dictionary(ours, "sae-lens", tmp_path / "out", name="a/b")


def test_the_factor_beside_a_checkpoint_is_applied(sae_lens, tmp_path):
    theirs = saved(sae_lens, tmp_path / "sae", "standard")
    config = tmp_path / "sae" / "cfg.json"
    given = json.loads(config.read_text())
    given["normalize_activations"] = "expected_average_only_in"
    config.write_text(json.dumps(given))
    (tmp_path / "sae" / "activation_scaler.json").write_text('{"scaling_factor": 0.3}')
    _, ours = imported(Lake.at(tmp_path / "lake"), tmp_path / "sae")
    assert ours.config.scale[HOOKPOINT].kind == "dataset_mean_norm"
    rows = torch.randn(50, 7, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = theirs(rows * 0.3) / 0.3
    torch.testing.assert_close(ours.reconstruct(rows)[HOOKPOINT], wanted, rtol=1e-5, atol=1e-5)


GEMMA = "google/gemma-scope-2b-pt-res"
GEMMA_2 = "google/gemma-scope-2-1b-pt"
LLAMA = "fnlp/Llama3_1-8B-Base-LXR-8x"


@pytest.fixture
def hub(sae_lens, tmp_path, monkeypatch):
    """A folder that sae-lens takes for the hub: ORG/REPO/FILE."""
    from sae_lens.loading import pretrained_sae_loaders as loaders
    from safetensors import safe_open

    def download(repo_id, filename, subfolder="", **_):
        found = tmp_path / "hub" / repo_id / subfolder / filename
        if not found.exists():
            raise loaders.EntryNotFoundError(filename)
        return str(found)

    def shapes(repo_id, filename):
        with safe_open(download(repo_id, filename), framework="pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118

    monkeypatch.setattr(loaders, "hf_hub_download", download)
    monkeypatch.setattr(loaders, "get_safetensors_tensor_shapes", shapes)
    return tmp_path / "hub"


def released(hub, kind):
    """Write what a release holds; return repository, folder and sae-lens' loader of it."""
    import numpy as np
    from sae_lens.loading import pretrained_sae_loaders as loaders
    from safetensors.torch import save_file

    draw = torch.Generator().manual_seed(9)
    d, f = 7, 11
    w = {
        "W_enc": torch.randn(d, f, generator=draw), "W_dec": torch.randn(f, d, generator=draw),
        "b_enc": 0.3 * torch.randn(f, generator=draw), "b_dec": torch.randn(d, generator=draw),
        "threshold": 0.5 + torch.rand(f, generator=draw),
    }  # fmt: skip
    if kind.startswith("npz"):
        folder = (
            "embedding/width_4k/average_l0_6"
            if "embedding" in kind
            else ("layer_3/width_16k/average_l0_71")
        )
        place = hub / GEMMA / folder
        place.mkdir(parents=True)
        lower = {"W_enc": "w_enc", "W_dec": "w_dec"} if "lower" in kind else {}
        arrays = {lower.get(name, name): each.numpy() for name, each in w.items()}
        if "factor" in kind:
            arrays["scaling_factor"] = np.ones(f, np.float32)
        np.savez(place / "params.npz", **arrays)
        return "gemma-scope", GEMMA, folder, loaders.gemma_2_sae_huggingface_loader
    if kind == "safetensors":
        folder = "resid_post/layer_5_width_16k_l0_small"
        place = hub / GEMMA_2 / folder
        place.mkdir(parents=True)
        small = {name.replace("W_", "w_"): each for name, each in w.items()}
        save_file(small, place / "params.safetensors")
        return "gemma-scope", GEMMA_2, folder, loaders.gemma_3_sae_huggingface_loader
    folder = "Llama3_1-8B-Base-L8R-8x"
    place = hub / LLAMA / folder
    (place / "checkpoints").mkdir(parents=True)
    config = {
        "d_model": d, "d_sae": f, "hook_point_in": "blocks.8.hook_resid_post",
        "hook_point_out": "blocks.8.hook_resid_post", "jump_relu_threshold": 1.1,
        "dataset_average_activation_norm": {"in": 5.0, "out": 5.0},
    }  # fmt: skip
    (place / "hyperparams.json").write_text(json.dumps(config))
    weights = {
        "encoder.weight": w["W_enc"].T.contiguous(), "encoder.bias": w["b_enc"],
        "decoder.weight": w["W_dec"].T.contiguous(), "decoder.bias": w["b_dec"],
    }  # fmt: skip
    save_file(weights, place / "checkpoints" / "final.safetensors")
    return "llama-scope", LLAMA, folder, loaders.llama_scope_sae_huggingface_loader


@pytest.mark.parametrize(
    "kind", ["npz", "npz, lower", "npz, factor", "npz, embedding", "safetensors", "llama"]
)
def test_releases_are_read_as_sae_lens_reads_them(sae_lens, hub, tmp_path, kind):
    tool, repo, folder, loader = released(hub, kind)
    override = {"dtype": "float32", "d_in": 7, "d_sae": 11}
    config, state, _ = loader(repo, folder, "cpu", cfg_overrides=override)
    settings = ImportDictionarySettings(
        series="a", name="b", tool=tool, path=str(hub / repo / folder)
    )
    conversion = import_dictionary(settings, Lake.at(tmp_path / "lake")).conversion
    assert conversion.max_error < (1e-6 if "embedding" in kind else 1e-9)  # times √d, rounded
    assert conversion.firings > 200
    ours = dictionaries.load(Lake.at(tmp_path / "lake"), "a/b")
    assert ours.hookpoints_in == (config["hook_name"],)
    assert ours.config.model.name.endswith(config["model_name"].rsplit("/", 1)[-1])
    from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig

    theirs = JumpReLUSAE(JumpReLUSAEConfig(d_in=7, d_sae=11, apply_b_dec_to_input=False))
    theirs.load_state_dict({name: each.float() for name, each in state.items()})
    if config["normalize_activations"] == "expected_average_only_in":
        theirs.fold_activation_norm_scaling_factor(7**0.5 / 5.0)
    rows = 2 * torch.randn(200, 7, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = theirs(rows)
    found = ours.reconstruct(rows)[config["hook_name"]]
    close = (found - wanted).abs().amax(dim=1) < 1e-4
    assert close.double().mean() > 0.97
    assert (ours.encode(rows).to_dense() > 0).sum() > 100
