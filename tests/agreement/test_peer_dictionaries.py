"""Dictionaries that other libraries wrote: what they computed, we compute; and the other way round.

The files and the expected numbers beside this file were written by the libraries themselves
(`dictionaries/peer.py`). The slow tests run the libraries, each in its own environment.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

from benchmarks.peers import DICTIONARY_LEARNING, HOME, LLAMASCOPIUM, SPARSIFY, python_of
from saestore import dictionaries
from saestore.errors import ConfigError, UnsupportedError
from saestore.exchange.dictionaries import export_dictionary, import_dictionary, measure
from saestore.lake import Lake
from saestore.testing.dictionaries import random_dictionary
from saestore.testing.far_sae import awkward_sae
from saestore_schemas.dictionary import (
    BatchLayerTopK,
    BatchTopK,
    Gated,
    JumpRelu,
    LayerTopK,
    Relu,
    TopK,
)
from saestore_schemas.exchange import ImportDictionarySettings
from saestore_schemas.families import DictionarySettings


HERE = Path(__file__).parent / "dictionaries"
PEERS = {
    "dictionary-learning": DICTIONARY_LEARNING,
    "sparsify": SPARSIFY,
    "llamascopium": LLAMASCOPIUM,
}
CASES = sorted(
    (tool, folder.name)
    for tool in PEERS
    for folder in (HERE / tool).iterdir()
    if (folder / "expected.safetensors").exists() and folder.name != "batchtopk"
)
settings_of = TypeAdapter(DictionarySettings).validate_python
DATASET_WISE = {"relu", "topk", "jumprelu", "transcoder"}
"""Cases of llamascopium whose config does not say whether the weights contain the normalisation."""


def imported(lake, tool, path, **more):
    settings = ImportDictionarySettings(series="a", name="b", tool=tool, path=str(path), **more)
    return import_dictionary(settings, lake).conversion, dictionaries.load(lake, "a/b")


@pytest.mark.parametrize(("tool", "name"), CASES, ids=lambda x: x)
def test_what_a_library_wrote_computes_what_the_library_computed(tool, name, tmp_path):
    more = {}
    if tool == "llamascopium" and name in DATASET_WISE:
        more["fold_state"] = "external"
    conversion, ours = imported(Lake.at(tmp_path), tool, HERE / tool / name, **more)
    # A transcoder is folded while it is read, which rounds its weights.
    assert conversion.max_error < (1e-6 if name == "transcoder" else 1e-9)
    assert conversion.firings > 300
    expected = load_file(HERE / tool / name / "expected.safetensors")
    code = ours.encode(expected["rows"])
    wanted = expected["codes"]
    torch.testing.assert_close(code.to_dense(), wanted, rtol=1e-5, atol=1e-5)
    assert (wanted != 0).sum() > 50
    found = ours.decode(code, expected["rows"])[ours.hookpoints_out[0]]
    torch.testing.assert_close(found, expected["reconstruction"], rtol=1e-5, atol=1e-4)


def test_a_batchtopk_without_threshold_is_refused_unless_it_may_differ(tmp_path):
    path = HERE / "llamascopium" / "batchtopk"
    with pytest.raises(UnsupportedError, match="without a threshold") as caught:
        imported(Lake.at(tmp_path), "llamascopium", path)
    assert "--approximate" in caught.value.hint
    assert not (tmp_path / "dictionaries" / "a" / "b" / "config.json").exists()
    conversion, ours = imported(Lake.at(tmp_path), "llamascopium", path, approximate=True)
    assert conversion.max_error > 0.01
    assert ours.config.imported.inexact == conversion.inexact != ()
    assert ours.config.imported.max_error == conversion.max_error


def test_an_unknown_fold_state_is_asked_for(tmp_path):
    with pytest.raises(ConfigError, match="nothing in the files says") as caught:
        imported(Lake.at(tmp_path), "llamascopium", HERE / "llamascopium" / "topk")
    assert "--fold-state" in caught.value.hint


@pytest.fixture(scope="module", params=sorted(PEERS))
def peer(request):
    """A tool and its interpreter, as it is; made only where tests may not skip."""
    peer = PEERS[request.param]
    folder = HOME / peer.name
    if (folder / "ready").exists():
        return request.param, folder / "bin" / "python"
    if "TESTS_REQUIRE_PARTS" in os.environ:
        return request.param, python_of(peer)
    return pytest.skip(f"{peer.name}'s environment is not made: TESTS_REQUIRE_PARTS=1 makes it")


def run(*words):
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


READS, WRITES = (tuple(f"blocks.{n}.{each}" for n in range(3)) for each in ("in", "out"))
ONE = {"hookpoint_in": READS[0], "hookpoint_out": WRITES[0]}
ROPE = {"dim": 4, "base": 50.0, "ntk": {"factor": 8.0, "context_size": 40}}
FAMILIES = {
    "transcoder": {**ONE, "family": "transcoder", "d_sae": 11},
    "transcoder-glu": {**ONE, "family": "transcoder", "d_sae": 11, "glu": True},
    "molt": {**ONE, "family": "molt", "ranks": {3: 5, 2: 2, 1: 4}},
    "lorsa": {
        **ONE, "family": "lorsa", "d_sae": 12,
        "attention": {"n_qk": 3, "d_qk": 6, "rope": ROPE, "qk_norm": "rms", "eps": 0.01, "scale": 2.0},
    },
    "lorsa-adjacent": {
        **ONE, "family": "lorsa", "d_sae": 12,
        "attention": {"n_qk": 4, "d_qk": 6, "rope": {"pairs": "adjacent"}},
    },
    "lorsa-without-places": {
        **ONE, "family": "lorsa", "d_sae": 12, "attention": {"n_qk": 4, "d_qk": 3}
    },
    "clt": {"family": "clt", "hookpoints_in": READS, "hookpoints_out": WRITES, "d_sae": 11},
    "crosscoder": {"family": "crosscoder", "hookpoints": READS, "d_sae": 11, "gating": "per_head"},
}  # fmt: skip
"""Settings of llamascopium's other families but their activation function."""


KINDS = (TopK(k=3), Relu(), BatchTopK(k=3.0))
OWN_KINDS = {
    "clt": (*KINDS, LayerTopK(k=4), BatchLayerTopK(k=4.0)),
    "crosscoder": KINDS[:2],  # thresholds of heads with unequal scales are refused
}
FAMILY_CASES = [(name, kind) for name in FAMILIES for kind in OWN_KINDS.get(name, KINDS)]


def family(name, kind):
    """A dictionary of one of llamascopium's other families, with unequal scales."""
    settings = settings_of(FAMILIES[name] | {"activation": kind})
    return random_dictionary(settings, dict.fromkeys((*READS, *WRITES), 7), dtype=torch.float32)


def raw(dictionary, rows):
    """Which features fire, and what they reconstruct side by side, in the units of the rows."""
    given = dict(
        zip(dictionary.hookpoints_in, rows.chunk(len(dictionary.hookpoints_in), 1), strict=True)
    )
    fires = dictionary.by_feature(dictionary.encode(given)).to_dense() != 0
    found = dictionary.reconstruct(given)
    return fires, torch.cat([found[hook] for hook in dictionary.hookpoints_out], dim=1)


@pytest.mark.parametrize(("name", "kind"), FAMILY_CASES, ids=lambda x: getattr(x, "kind", x))
def test_a_family_that_was_exported_and_imported_again_computes_the_same(name, kind, tmp_path):
    ours = family(name, kind)
    report = export_dictionary(ours, "llamascopium", tmp_path / "out", name="a/b")
    assert report.conversion.firings > 300
    conversion, back = imported(Lake.at(tmp_path / "lake"), "llamascopium", tmp_path / "out")
    assert conversion.max_error < 1e-9
    assert (back.hookpoints_in, back.hookpoints_out) == (ours.hookpoints_in, ours.hookpoints_out)
    rows = measure.fixed_batch(ours)[:64]
    (fires, found), (wanted_fires, wanted) = raw(back, rows), raw(ours, rows)
    assert torch.equal(fires, wanted_fires)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("name", "changes", "why"), [
    ("transcoder", {"skip": True}, "transcoder's skip"),
    ("transcoder", {"hookpoint_out": "blocks.2.wide"}, "reads width 7 and writes width 5"),
    ("molt", {"hookpoint_out": "blocks.2.wide"}, "widths 7, 5"),
    ("molt", {"activation": {"kind": "abstopk", "k": 2}}, "no counterpart of activation 'abstopk'"),
    ("lorsa", {"attention": {"n_qk": 3, "d_qk": 6, "rope": {"base": 500.5}}}, "rope.base = 500.5"),
    ("lorsa", {"attention": {"n_qk": 3, "d_qk": 6, "rope": {"scale": 2.0}}}, "rope.scale = 2"),
])  # fmt: skip
def test_what_its_files_cannot_say_of_a_family_is_not_written(tmp_path, name, changes, why):
    settings = settings_of({"activation": TopK(k=3), **FAMILIES[name], **changes})
    widths = dict.fromkeys((*READS, *WRITES), 7) | {"blocks.2.wide": 5}
    with pytest.raises(UnsupportedError, match=re.escape(why)):
        export_dictionary(random_dictionary(settings, widths), "llamascopium", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_transform_that_writes_nothing_is_not_written_where_it_divides_by_its_length(tmp_path):
    ours = family("molt", TopK(k=3))
    with torch.no_grad():
        ours.U["3"][1] = 0
    with pytest.raises(UnsupportedError, match="1 features write nothing, where"):
        export_dictionary(ours, "llamascopium", tmp_path / "out")


def exportable(tool):
    kinds = [TopK(k=4)]
    if tool != "sparsify":
        kinds += [Relu(), BatchTopK(k=3.0), JumpRelu(), Gated()]
    for kind in kinds:
        yield awkward_sae(kind)
        yield awkward_sae(kind, scale="none", subtract_b_dec=False, seed=1)
        if kind.kind != "gated":
            yield awkward_sae(kind, gate_on_decoder_norm=True, scale="dataset_mean_norm", seed=2)
        if tool == "llamascopium" and kind.kind != "gated":
            yield awkward_sae(kind, glu=True, scale="dataset_mean_norm", seed=3)
    if tool == "llamascopium":
        yield from (family(*case) for case in FAMILY_CASES)


@pytest.mark.slow
def test_a_library_computes_what_we_exported(peer, tmp_path):
    tool, python = peer
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import peer\n"
        "for folder in sys.argv[3:]:\n"
        "    peer.main('compute', sys.argv[2], folder + '/out', folder + '/rows.safetensors', "
        "folder + '/computed.safetensors')\n"
    )
    cases = []
    for number, ours in enumerate(exportable(tool)):
        folder = tmp_path / str(number)
        report = export_dictionary(ours, tool, folder / "out", name="a/b")
        # A softmax answers to the rounding of queries and keys.
        assert report.conversion.max_error < (1e-5 if ours.config.family == "lorsa" else 1e-6)
        rows = measure.fixed_batch(ours)
        save_file({"rows": rows}, folder / "rows.safetensors")
        cases.append((ours, rows, folder))
    run(python, "-c", code, HERE, tool, *(folder for _, _, folder in cases))
    for ours, rows, folder in cases:
        computed = load_file(folder / "computed.safetensors")
        mine = measure.compute(measure.in_precision(ours), rows.double())
        lengths = torch.linalg.vector_norm(mine.reconstruction, dim=1)
        apart = torch.linalg.vector_norm(mine.reconstruction - computed["reconstruction"], dim=1)
        clear = (mine.codes.values != 0).eq(computed["codes"] != 0).all(dim=1)
        assert clear.double().mean() > 0.98  # the rest is decided by rounding
        assert (apart / lengths)[clear].max() < 1e-5


@pytest.mark.slow
def test_a_library_still_writes_the_files_that_the_tests_read(peer, tmp_path):
    tool, python = peer
    run(python, HERE / "peer.py", "make", tool, tmp_path)
    for name in sorted(name for kind, name in CASES if kind == tool):
        one, other = (
            load_file(at / name / "expected.safetensors") for at in (HERE / tool, tmp_path)
        )
        for key, tensor in one.items():
            torch.testing.assert_close(tensor, other[key], rtol=1e-6, atol=1e-6)
        more = {"fold_state": "external"} if name in DATASET_WISE and tool == "llamascopium" else {}
        read = [
            imported(Lake.at(tmp_path / f"lake-{n}-{name}"), tool, at / name, **more)[1]
            for n, at in enumerate((HERE / tool, tmp_path))
        ]
        for key, tensor in read[0].tensors().items():
            assert torch.equal(tensor, read[1].tensors()[key]), key
