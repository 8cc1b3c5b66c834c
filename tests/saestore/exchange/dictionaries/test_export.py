"""Exporting dictionaries: exact rewrites, what is refused, what the folder and the report hold."""

import json

import pytest
import safetensors.torch
import torch

from saestore import dictionaries, generate
from saestore.dictionaries import load_folder, save
from saestore.errors import ConfigError, UnsupportedError
from saestore.exchange.dictionaries import export_dictionary, exporting, import_dictionary, saelens
from saestore.exchange.dictionaries.measure import Difference, compare
from saestore.exchange.dictionaries.reference import Codes, Computed, topk
from saestore.lake import Lake
from saestore.lake.storage import Storage
from saestore.testing.far_sae import HOOKPOINT, awkward_sae
from saestore_schemas.corpus import CorpusSettings, JsonlSource
from saestore_schemas.dictionary import AbsTopK, BatchTopK, Gated, JumpRelu, Relu, TopK
from saestore_schemas.exchange import ImportDictionarySettings
from saestore_schemas.generate import GenerateSettings
from saestore_schemas.lm import LmSettings


TOOLS = ("sae-lens", "dictionary-learning", "sparsify", "llamascopium")
EXACT = {
    "sae-lens": (Relu(), TopK(k=4), AbsTopK(k=4), BatchTopK(k=3.0), JumpRelu(), Gated()),
    "dictionary-learning": (Relu(), TopK(k=4), BatchTopK(k=3.0), JumpRelu(), Gated()),
    "sparsify": (TopK(k=4),),
    "llamascopium": (Relu(), TopK(k=4), BatchTopK(k=3.0), JumpRelu(), Gated()),
}
CASES = [(tool, kind) for tool, kinds in EXACT.items() for kind in kinds]
FORMS = {
    "centred": {},
    "external": {"scale": "dataset_mean_norm", "subtract_b_dec": False},
    "plain": {"scale": "none"},
    "on lengths": {"scale": "dataset_mean_norm", "gate_on_decoder_norm": True},
}


def again(tool, folder, lake, **more):
    settings = ImportDictionarySettings(series="a", name="b", tool=tool, path=str(folder), **more)
    conversion = import_dictionary(settings, lake).conversion
    return conversion, dictionaries.load(lake, "a/b")


@pytest.mark.parametrize(("tool", "kind"), CASES, ids=lambda x: getattr(x, "kind", x))
def test_what_is_exported_is_exact_and_comes_back(tmp_path, tool, kind):
    for form, more in FORMS.items():
        if kind.kind == "gated" and form == "on lengths":
            continue
        ours = awkward_sae(kind, **more)
        report = export_dictionary(ours, tool, tmp_path / form, name="a/b")
        assert report.conversion.max_error < 2e-6
        assert report.conversion.firings > 300
        assert report.conversion.rows == 256
        assert not report.conversion.inexact
        conversion, back = again(tool, tmp_path / form, Lake.at(tmp_path / f"lake {form}"))
        assert conversion.max_error < 1e-9
        assert back.hookpoints_in == ours.hookpoints_in
        assert (back.config.model is None) == (tool == "llamascopium")
        second = export_dictionary(back, tool, tmp_path / f"{form} again", name="a/b")
        assert second.conversion.max_error < 1e-6


@pytest.mark.parametrize("tool", TOOLS)
def test_a_gated_linear_unit_goes_only_where_there_is_one(tmp_path, tool):
    ours = awkward_sae(TopK(k=4), glu=True)
    if tool == "llamascopium":
        report = export_dictionary(ours, tool, tmp_path / "out")
        assert report.conversion.max_error < 1e-6
        return
    with pytest.raises(UnsupportedError, match="gated linear unit") as caught:
        export_dictionary(ours, tool, tmp_path / "out")
    assert "llamascopium" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_what_a_tool_cannot_compute_is_refused_and_leaves_nothing(tmp_path):
    for tool, kind in (("sparsify", Relu()), ("llamascopium", AbsTopK(k=2))):
        with pytest.raises(UnsupportedError, match=kind.kind) as caught:
            export_dictionary(awkward_sae(kind), tool, tmp_path / "out")
        assert caught.value.hint
        assert list(tmp_path.iterdir()) == []


def test_what_is_not_exact_is_written_only_when_allowed_and_says_so(tmp_path):
    ours = awkward_sae(BatchTopK(k=3.0))
    with pytest.raises(UnsupportedError, match="3 largest of each row") as caught:
        export_dictionary(ours, "sparsify", tmp_path / "out")
    assert "--approximate" in caught.value.hint
    assert list(tmp_path.iterdir()) == []
    report = export_dictionary(ours, "sparsify", tmp_path / "out", approximate=True)
    assert report.conversion.max_error > 0.01
    record = json.loads((tmp_path / "out" / exporting.RECORD).read_text())
    assert record["inexact"] == list(report.conversion.inexact) != []
    assert record["max_error_codes"] == report.conversion.max_error_codes


def test_the_config_of_sae_lens_leaves_nothing_to_defaults(tmp_path):
    export_dictionary(awkward_sae(TopK(k=3)), "sae-lens", tmp_path / "out")
    config = json.loads((tmp_path / "out" / saelens.CONFIG).read_text())
    assert config["architecture"] == "topk"
    assert config["k"] == 3
    assert config["apply_b_dec_to_input"] is True
    assert config["normalize_activations"] == "none"
    assert config["rescale_acts_by_decoder_norm"] is False
    assert config["metadata"]["sae_lens_version"] == saelens.SaeLens.version
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
    ours = awkward_sae(TopK(k=4), d_in=24)
    report = export_dictionary(ours, "sae-lens", tmp_path / "out", store=store)
    kept = int((store.flags() == 0).sum())
    assert report.conversion.rows == 256 + kept
    assert report.conversion.store == "store"
    assert report.conversion.l0 == pytest.approx(4, abs=0.5)
    assert report.conversion.explained_variance is not None
    assert report.conversion.max_error < 1e-5
    metadata = json.loads((tmp_path / "out" / saelens.CONFIG).read_text())["metadata"]
    assert metadata["context_size"] == 24
    assert metadata["prepend_bos"] is True


def test_a_folded_dictionary_exports_like_the_one_it_was(tmp_path):
    sae = awkward_sae(TopK(k=4))
    export_dictionary(sae, "sae-lens", tmp_path / "external")
    report = export_dictionary(sae.folded(), "sae-lens", tmp_path / "folded")
    assert "normalisation folded into the weights" not in report.conversion.steps
    one, other = (
        safetensors.torch.load_file(tmp_path / name / saelens.WEIGHTS)
        for name in ("external", "folded")
    )
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tool", TOOLS)
def test_exporting_twice_writes_the_same_bytes_and_changes_nothing(tmp_path, tool):
    sae = awkward_sae(TopK(k=4))
    save(sae, Storage.at(tmp_path / "before"))
    one = export_dictionary(sae, tool, tmp_path / "out", name="a/b")
    first = {name: (tmp_path / "out" / name).read_bytes() for name in one.files}
    assert export_dictionary(sae, tool, tmp_path / "out", name="a/b") == one
    assert {name: (tmp_path / "out" / name).read_bytes() for name in one.files} == first
    kept = load_folder(Storage.at(tmp_path / "before")).tensors()
    assert all(torch.equal(kept[name], tensor) for name, tensor in sae.tensors().items())
    assert sorted(each.name for each in tmp_path.iterdir()) == ["before", "out"]


def test_nothing_else_is_ever_overwritten(tmp_path):
    sae = awkward_sae(TopK(k=4))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "cfg.json").write_text("{}")
    with pytest.raises(ConfigError, match="no export of ours"):
        export_dictionary(sae, "sae-lens", mine, name="a/b")
    assert (mine / "cfg.json").read_text() == "{}"
    with pytest.raises(ConfigError, match="is a file"):
        export_dictionary(sae, "sae-lens", mine / "cfg.json", name="a/b")
    out = tmp_path / "out"
    export_dictionary(sae, "sae-lens", out, name="a/b")
    with pytest.raises(ConfigError, match="an export of a/b"):
        export_dictionary(sae, "sae-lens", out, name="a/c")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"beside the export: notes\.txt"):
        export_dictionary(sae, "sae-lens", out, name="a/b")
    (out / "notes.txt").unlink()
    (out / "cfg.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"changed since: cfg\.json"):
        export_dictionary(sae, "sae-lens", out, name="a/b")
    (out / exporting.RECORD).write_text("[]")
    with pytest.raises(ConfigError, match="no record of ours"):
        export_dictionary(sae, "sae-lens", out, name="a/b")


def test_an_earlier_export_stays_when_the_next_one_fails(tmp_path, monkeypatch):
    sae = awkward_sae(TopK(k=4))
    report = export_dictionary(sae, "sae-lens", tmp_path / "out", name="a/b")
    before = {name: (tmp_path / "out" / name).read_bytes() for name in report.files}
    rename = exporting.Path.rename

    def fail(self, target):
        if target == tmp_path / "out" and "before" not in self.name:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(exporting.Path, "rename", fail)
    with pytest.raises(OSError, match="No space left"):
        export_dictionary(sae, "sae-lens", tmp_path / "out", name="a/b")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in report.files} == before
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


def test_names_of_any_alphabet_are_paths_like_others(tmp_path):
    folder = tmp_path / "словарь 辞書" / "дальше"
    folder.parent.mkdir()
    for tool in TOOLS:
        export_dictionary(awkward_sae(TopK(k=4)), tool, folder / tool, name="a/b")
        conversion, _ = again(tool, folder / tool, Lake.at(tmp_path / f"озеро {tool}"))
        assert conversion.max_error < 1e-9


@pytest.mark.parametrize(("tool", "kind"), CASES, ids=lambda x: getattr(x, "kind", x))
def test_decoder_vectors_of_zero_make_no_nan(tmp_path, tool, kind):
    for on_lengths in (False, True):
        if on_lengths and kind.kind == "gated":
            continue
        sae = awkward_sae(kind, gate_on_decoder_norm=on_lengths)
        sae.W_dec.data[3] = 0
        out = tmp_path / f"out {on_lengths}"
        report = export_dictionary(sae, tool, out)
        assert report.conversion.max_error_reconstruction < 2e-6
        for path in out.rglob("*.safetensors"):
            weights = safetensors.torch.load_file(path)
            assert not any(each.isnan().any() for each in weights.values())


def test_a_unit_decoder_is_unit_after_the_export(tmp_path):
    sae = awkward_sae(TopK(k=4), lengths=(1.0, 1.0))
    report = export_dictionary(sae, "sae-lens", tmp_path / "out")
    weights = safetensors.torch.load_file(tmp_path / "out" / saelens.WEIGHTS)
    lengths = torch.linalg.vector_norm(weights["W_dec"], dim=1)
    torch.testing.assert_close(lengths, torch.ones(11))
    assert "unit decoder" in report.conversion.steps


def test_entries_on_the_line_are_counted_not_compared():
    h = torch.tensor([[3.0, 2, 2, 1], [3, 2.5, 2, 1], [1, -1, -1, -2]])
    theirs = topk(h, 2)
    assert theirs.values.tolist() == [[3, 2, 0, 0], [3, 2.5, 0, 0], [1, 0, 0, 0]]
    mine = theirs.values.clone()
    mine[0] = torch.tensor([3.0, 0, 2, 0])  # the other of two equal ones
    out = torch.eye(3)
    found = compare(Computed(Codes(mine), out), Computed(theirs, out), None)
    assert found == Difference(3, 1, 3, 0.0, 0.0)
    mine[1] = torch.tensor([3.0, 0, 2, 0])  # a clear mistake
    found = compare(Computed(Codes(mine), out), Computed(theirs, out), None)
    assert (found.tied, found.codes) == (1, pytest.approx(2.5 / 3))
    doubled = Codes(2 * theirs.values, theirs.margin)
    found = compare(Computed(theirs, out), Computed(doubled, 2 * out), torch.full((4,), 2.0))
    assert (found.codes, found.reconstruction) == (0, 1)
    assert found.worse(Difference(2, 1, 5, 0.5, 0.3)) == Difference(5, 1, 10, 0.5, 1.0)
