"""circuit-tracer's cross-layer transcoders: what is written comes back, what cannot be said is refused."""

import pytest
import torch
import yaml
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

from saestore import dictionaries
from saestore.errors import ConfigError, UnsupportedError
from saestore.exchange.dictionaries import export_dictionary, import_dictionary
from saestore.lake import Lake
from saestore.testing.dictionaries import random_dictionary
from saestore_schemas.dictionary import BatchLayerTopK, JumpRelu, Relu, TopK
from saestore_schemas.exchange import ImportDictionarySettings
from saestore_schemas.families import CltSettings, DictionarySettings, TranscoderSettings


L, F, D = 3, 11, 7
KINDS = {
    "relu": Relu(),
    "jumprelu": JumpRelu(bandwidth=0.5),
    "batchlayertopk": BatchLayerTopK(k=7.5),
}


def clt(activation, first=0, **more):
    """A dictionary of unequal norms and scales that layers first, first + 1 and so on have."""
    blocks = range(first, first + L)
    settings = CltSettings(
        family="clt",
        hookpoints_in=tuple(f"blocks.{b}.hook_resid_mid" for b in blocks),
        hookpoints_out=tuple(f"blocks.{b}.hook_mlp_out" for b in blocks),
        d_sae=F,
        activation=activation,
        **more,
    )
    return random_dictionary(settings, dict.fromkeys(settings.involved, D), dtype=torch.float32)


def again(folder, tmp_path, **more):
    settings = ImportDictionarySettings(
        series="a", name="b", tool="circuit-tracer", path=str(folder), **more
    )
    lake = Lake.at(tmp_path / "lake")
    return import_dictionary(settings, lake).conversion, dictionaries.load(lake, "a/b")


@pytest.mark.parametrize(
    ("kind", "on_lengths"),
    [("relu", False), ("jumprelu", True), ("jumprelu", False), ("batchlayertopk", True)],
)
def test_what_is_exported_is_exact_and_comes_back(tmp_path, kind, on_lengths):
    ours = clt(KINDS[kind], gate_on_decoder_norm=on_lengths)
    found = export_dictionary(ours, "circuit-tracer", tmp_path / "out", name="a/b").conversion
    assert found.max_error < 2e-6
    assert found.firings > 500
    assert not found.inexact
    conversion, back = again(tmp_path / "out", tmp_path)
    assert conversion.max_error < 1e-9
    assert (back.hookpoints_in, back.hookpoints_out) == (ours.hookpoints_in, ours.hookpoints_out)
    assert back.config.semantics.decoder_norm == "unit"
    generator = torch.Generator().manual_seed(1)
    rows = {hook: 2 * torch.randn(40, D, generator=generator) for hook in ours.hookpoints_in}
    wanted = ours.reconstruct(rows)
    assert len(ours.encode(rows).values) > 100
    for hook, each in back.reconstruct(rows).items():
        torch.testing.assert_close(each, wanted[hook], rtol=1e-5, atol=5e-5)


def test_a_transcoder_is_one_of_one_layer(tmp_path):
    settings = TranscoderSettings(
        family="transcoder", hookpoint_in="blocks.0.hook_resid_mid",
        hookpoint_out="blocks.0.hook_mlp_out", d_sae=F, activation=Relu(),
    )  # fmt: skip
    ours = random_dictionary(settings, dict.fromkeys(settings.involved, D), dtype=torch.float32)
    assert export_dictionary(ours, "circuit-tracer", tmp_path / "out").conversion.max_error < 2e-6
    assert again(tmp_path / "out", tmp_path)[1].family == "clt"
    skip = random_dictionary(settings.model_copy(update={"skip": True}), dict.fromkeys(settings.involved, D))  # fmt: skip
    with pytest.raises(UnsupportedError, match="no counterpart of skip"):
        export_dictionary(skip, "circuit-tracer", tmp_path / "other")


@pytest.mark.parametrize("own", [
    {"family": "molt", "ranks": {2: 3, 1: 4}},
    {"family": "lorsa", "d_sae": F, "attention": {"n_qk": 1, "d_qk": 4}},
], ids=lambda each: each["family"])  # fmt: skip
def test_what_reads_more_than_its_codes_to_decode_is_refused_even_approximately(tmp_path, own):
    place = {"hookpoint_in": "blocks.0.hook_resid_mid", "hookpoint_out": "blocks.0.hook_mlp_out"}
    settings = TypeAdapter(DictionarySettings).validate_python(
        {**own, **place, "activation": Relu()}
    )
    ours = random_dictionary(settings, dict.fromkeys(place.values(), D), dtype=torch.float32)
    with pytest.raises(UnsupportedError, match=f"no counterpart of family '{own['family']}'"):
        export_dictionary(ours, "circuit-tracer", tmp_path / "out", approximate=True)


def test_blocks_that_do_not_begin_at_0_are_written_when_allowed(tmp_path):
    ours = clt(JumpRelu(), first=9)
    with pytest.raises(UnsupportedError, match="they are blocks 9 to 11"):
        export_dictionary(ours, "circuit-tracer", tmp_path / "out")
    report = export_dictionary(ours, "circuit-tracer", tmp_path / "out", approximate=True)
    assert report.conversion.max_error < 2e-6
    _, back = again(tmp_path / "out", tmp_path, hookpoint="blocks.9.hook_resid_mid")
    assert back.hookpoints_in == ours.hookpoints_in
    with pytest.raises(ConfigError, match=r"blocks\.0\.hook_resid_mid"):
        again(tmp_path / "out", tmp_path / "other", hookpoint="blocks.9.ln2.hook_normalized")


def test_what_it_cannot_compute_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(UnsupportedError, match="activation 'topk'"):
        export_dictionary(clt(TopK(k=3)), "circuit-tracer", tmp_path / "out")
    gap = clt(Relu())
    hooks = ("blocks.0.hook_mlp_out", "blocks.2.hook_mlp_out", "blocks.3.hook_mlp_out")
    scales = {
        **gap.scales,
        **dict(zip(hooks, map(gap.scales.get, gap.hookpoints_out), strict=True)),
    }
    records = {hook: scale.record for hook, scale in scales.items()}
    config = gap.config.model_copy(update={"hookpoints_out": hooks, "scale": records})
    with pytest.raises(UnsupportedError, match="no counterpart of family"):
        export_dictionary(
            gap.restore(config, scales, gap.tensors()), "circuit-tracer", tmp_path / "out"
        )
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_not_what_they_should_be_say_so(tmp_path):
    folder = tmp_path / "out"
    export_dictionary(clt(JumpRelu()), "circuit-tracer", folder)
    first = load_file(folder / "W_enc_0.safetensors")

    def refused(match, error=ConfigError):
        with pytest.raises(error, match=match):
            again(folder, tmp_path)

    save_file({**first, "threshold_0": -torch.ones(F)}, folder / "W_enc_0.safetensors")
    refused("below zero", UnsupportedError)
    without = {name: each for name, each in first.items() if name != "threshold_0"}
    save_file(without, folder / "W_enc_0.safetensors")
    refused("2 layers with thresholds")
    save_file({**first, "W_skip_0": torch.ones(D, D)}, folder / "W_enc_0.safetensors")
    refused("W_skip_0")
    save_file(first, folder / "W_enc_0.safetensors")
    (folder / "W_enc_1.safetensors").rename(folder / "elsewhere")
    refused("lacks W_enc_1")
    (folder / "elsewhere").rename(folder / "W_enc_1.safetensors")
    said = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**said, "model_kind": "transcoder_set"}))
    refused("one dictionary of each layer", UnsupportedError)
    (folder / "config.yaml").write_text("- 1")
    refused("no YAML object")
    (folder / "config.yaml").unlink()
    assert again(folder, tmp_path)[0].max_error < 1e-9
