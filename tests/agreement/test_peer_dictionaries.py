"""Dictionaries that other libraries wrote: what they computed, we compute; and the other way round.

The files and the expected numbers beside this file were written by the libraries themselves
(`dictionaries/peer.py`). The slow tests run the libraries, each in its own environment.
"""

import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.peers import DICTIONARY_LEARNING, HOME, LLAMASCOPIUM, SPARSIFY, python_of
from saestore import dictionaries
from saestore.errors import ConfigError, UnsupportedError
from saestore.exchange.dictionaries import export_dictionary, import_dictionary, measure
from saestore.lake import Lake
from saestore.testing.far_sae import awkward_sae
from saestore_schemas.dictionary import BatchTopK, Gated, JumpRelu, Relu, TopK
from saestore_schemas.exchange import ImportDictionarySettings


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
DATASET_WISE = {"relu", "topk", "jumprelu"}
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
    assert conversion.max_error < 1e-9
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


def exportable(tool):
    kinds = [TopK(k=4)]
    if tool != "sparsify":
        kinds += [Relu(), BatchTopK(k=3.0), JumpRelu(), Gated()]
    for kind in kinds:
        yield kind, {}
        yield kind, {"scale": "none", "subtract_b_dec": False, "seed": 1}
        if kind.kind != "gated":
            yield kind, {"gate_on_decoder_norm": True, "scale": "dataset_mean_norm", "seed": 2}
        if tool == "llamascopium" and kind.kind != "gated":
            yield kind, {"glu": True, "scale": "dataset_mean_norm", "seed": 3}


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
    for number, (kind, more) in enumerate(exportable(tool)):
        ours = awkward_sae(kind, **more)
        folder = tmp_path / str(number)
        report = export_dictionary(ours, tool, folder / "out", name="a/b")
        assert report.conversion.max_error < 1e-6
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
