"""Exporting to SAELens: exact rewrites, what is refused, and what the report says."""

import json

import pytest
import safetensors.torch
import torch

from saestore import generate
from saestore.dictionaries import load_folder, save
from saestore.errors import UnsupportedError
from saestore.exchange import canonical as canonical_form, export_saelens, saelens
from saestore.exchange.canonical import canonical
from saestore.exchange.measure import Difference, compare, fixed_batch, ties
from saestore.lake import Lake
from saestore.lake.storage import Storage
from saestore.testing.far_sae import HOOKPOINT, awkward_sae
from saestore_schemas.corpus import CorpusSettings, JsonlSource
from saestore_schemas.dictionary import Relu, TopK
from saestore_schemas.generate import GenerateSettings
from saestore_schemas.lm import LmSettings


KINDS = ["none", "dataset_mean_norm", "dataset_rms", "dataset_centred_rms"]
ACTIVATIONS = [Relu(), TopK(k=4)]


@pytest.mark.parametrize("scale", KINDS)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.kind)
def test_the_canonical_form_computes_the_same(activation, subtract, gated, scale):
    sae = awkward_sae(activation, scale=scale, subtract_b_dec=subtract, gate_on_decoder_norm=gated)
    form = canonical(sae, tool="a test")
    rows = fixed_batch(sae).double()
    h = rows @ form.W_enc + form.b_enc
    codes = h.relu()
    if activation.kind == "topk":
        keep = h.topk(4, dim=1).indices
        codes = torch.zeros_like(h).scatter(1, keep, codes.gather(1, keep))
    double = sae.double()
    code = double.encode(rows)
    torch.testing.assert_close(codes, code.to_dense() * form.factors, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        codes @ form.W_dec + form.b_dec, double.decode(code)[HOOKPOINT], rtol=1e-9, atol=1e-9
    )
    lengths = torch.linalg.vector_norm(form.W_dec, dim=1)
    unit = activation.kind == "relu" or gated
    assert torch.allclose(lengths, torch.ones_like(lengths)) == unit


@pytest.mark.parametrize("scale", KINDS)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.kind)
def test_an_export_is_exact_and_says_so(tmp_path, activation, scale):
    report = export_saelens(awkward_sae(activation, scale=scale), tmp_path / "out")
    assert report.max_error < 1e-5
    assert report.rows == 256
    assert report.tied_rows < 5
    assert report.architecture == {"relu": "standard", "topk": "topk"}[activation.kind]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(report.files)
    weights = safetensors.torch.load_file(tmp_path / "out" / saelens.WEIGHTS)
    assert {name: tuple(each.shape) for name, each in weights.items()} == {
        "W_enc": (7, 11), "b_enc": (11,), "W_dec": (11, 7), "b_dec": (7,),
    }  # fmt: skip
    assert all(each.dtype == torch.float32 for each in weights.values())


def test_the_config_leaves_nothing_to_defaults(tmp_path):
    export_saelens(awkward_sae(TopK(k=3)), tmp_path)
    config = json.loads((tmp_path / saelens.CONFIG).read_text())
    assert config["architecture"] == "topk"
    assert config["k"] == 3
    assert config["apply_b_dec_to_input"] is True
    assert config["normalize_activations"] == "none"
    assert config["rescale_acts_by_decoder_norm"] is False
    assert config["metadata"]["sae_lens_version"] == saelens.VERSION
    assert config["metadata"]["hook_name"] == HOOKPOINT
    assert config["metadata"]["model_name"] == "tiny"


def test_a_store_is_measured_too_and_fills_in_the_metadata(tmp_path, tiny_gpt2, tiny_jsonl):
    settings = GenerateSettings(
        name="store",
        lm=LmSettings(model=str(tiny_gpt2)),
        corpus=CorpusSettings(sources=(JsonlSource(path=str(tiny_jsonl)),), context_size=24),
        hookpoints=(HOOKPOINT,),
        tokens=100,
    )
    store = generate.run(settings, Lake.at(tmp_path / "lake"), device="cpu")
    report = export_saelens(awkward_sae(TopK(k=4), d_in=24), tmp_path / "out", store=store)
    assert report.rows == 356
    assert report.max_error < 1e-5
    metadata = json.loads((tmp_path / "out" / saelens.CONFIG).read_text())["metadata"]
    assert metadata["context_size"] == 24
    assert metadata["prepend_bos"] is True


def test_a_folded_dictionary_exports_like_the_one_it_was(tmp_path):
    sae = awkward_sae(TopK(k=4))
    export_saelens(sae, tmp_path / "external")
    report = export_saelens(sae.folded(), tmp_path / "folded")
    assert "normalisation folded into the weights" not in report.rewrites
    one, other = (
        safetensors.torch.load_file(tmp_path / name / saelens.WEIGHTS)
        for name in ("external", "folded")
    )
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-4)


def test_exporting_twice_writes_the_same_bytes_and_changes_nothing(tmp_path):
    sae = awkward_sae(Relu())
    save(sae, Storage.at(tmp_path / "before"))
    one = export_saelens(sae, tmp_path / "out")
    first = [(tmp_path / "out" / name).read_bytes() for name in one.files]
    assert export_saelens(sae, tmp_path / "out") == one
    assert [(tmp_path / "out" / name).read_bytes() for name in one.files] == first
    kept = load_folder(Storage.at(tmp_path / "before")).tensors()
    assert all(torch.equal(kept[name], tensor) for name, tensor in sae.tensors().items())


def test_a_unit_decoder_is_unit_after_the_export(tmp_path):
    report = export_saelens(awkward_sae(TopK(k=4), lengths=(1.0, 1.0)), tmp_path)
    weights = safetensors.torch.load_file(tmp_path / saelens.WEIGHTS)
    lengths = torch.linalg.vector_norm(weights["W_dec"], dim=1)
    torch.testing.assert_close(lengths, torch.ones(11))
    assert "unit decoder" in report.rewrites


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.kind)
def test_decoder_vectors_of_zero_make_no_nan(tmp_path, activation):
    sae = awkward_sae(activation, gate_on_decoder_norm=True)
    sae.W_dec.data[3] = 0
    report = export_saelens(sae, tmp_path)
    assert report.max_error_reconstruction < 1e-5
    weights = safetensors.torch.load_file(tmp_path / saelens.WEIGHTS)
    assert all(torch.isfinite(each).all() for each in weights.values())
    assert any("zero" in line for line in report.rewrites)


def test_what_sae_lens_cannot_compute_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(saelens, "ARCHITECTURES", {"relu": "standard"})
    with pytest.raises(UnsupportedError, match="topk") as caught:
        export_saelens(awkward_sae(TopK(k=4)), tmp_path / "out")
    assert caught.value.hint
    monkeypatch.setattr(canonical_form, "TENSORS", {"W_enc", "W_skip"})
    with pytest.raises(UnsupportedError, match="family 'sae' with tensors W_dec"):
        export_saelens(awkward_sae(Relu()), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ties_are_counted_not_compared():
    h = torch.tensor([[3.0, 2, 2, 1], [3, 2.5, 2, 1], [1, -1, -1, -2]])
    assert ties(h, 2).tolist() == [True, False, False]
    assert not ties(h, 4).any()
    ours = (torch.eye(3), torch.eye(3))
    theirs = (torch.eye(3) * torch.tensor([[9.0], [1.125], [1]]), torch.eye(3))
    found = compare(ours, theirs, torch.tensor([True, False, False]))
    assert found == Difference(3, 1, 0.125, 0.0)
    assert found.worse(Difference(2, 0, 0.05, 0.3)) == Difference(5, 1, 0.125, 0.3)
