"""The real sae-lens reads what we write and computes what we compute."""

import importlib
import os
import warnings

import pytest
import torch

from saestore.exchange import export_saelens
from saestore.exchange.canonical import canonical
from saestore.exchange.measure import fixed_batch, ties
from saestore.testing.far_sae import HOOKPOINT, awkward_sae
from saestore_schemas.dictionary import Relu, TopK


CASES = {
    "topk": {"activation": TopK(k=4)},
    "topk, many features": {"activation": TopK(k=13), "d_in": 37, "d_sae": 301},
    "topk, gate on the norm": {"activation": TopK(k=4), "gate_on_decoder_norm": True},
    "topk, nothing subtracted": {"activation": TopK(k=4), "subtract_b_dec": False},
    "relu": {"activation": Relu()},
    "relu, many features": {"activation": Relu(), "d_in": 37, "d_sae": 301},
    "relu, nothing subtracted": {"activation": Relu(), "subtract_b_dec": False},
}


@pytest.fixture(scope="session")
def sae_lens():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies' deprecations, at import
        if os.environ.get("TESTS_REQUIRE_PARTS"):
            return importlib.import_module("sae_lens")
        return pytest.importorskip("sae_lens", reason="sae-lens is not installed")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scale", ["none", "dataset_mean_norm", "dataset_centred_rms"])
@pytest.mark.parametrize("case", CASES)
def test_sae_lens_gives_the_same_reconstruction_and_codes(sae_lens, tmp_path, case, scale):
    ours = awkward_sae(**CASES[case], scale=scale)
    report = export_saelens(ours, tmp_path)
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path))
    form = canonical(ours, tool="a test")
    rows = fixed_batch(ours)
    with torch.no_grad():
        codes, reconstruction = theirs.encode(rows), theirs(rows)
    code = ours.encode(rows)
    expected = ours.decode(code)[HOOKPOINT]
    clear = torch.ones(len(rows), dtype=torch.bool)
    if "topk" in case:
        h = rows.double() @ form.W_enc + form.b_enc
        clear = ~ties(h, ours.config.semantics.activation.k)
    assert clear.sum() > 250
    lengths = torch.linalg.vector_norm(expected[clear], dim=1)
    error = torch.linalg.vector_norm((reconstruction - expected)[clear], dim=1)
    assert (error / lengths).max() < 1e-5
    wanted = code.to_dense() * form.factors
    assert (codes - wanted)[clear].abs().max() / wanted.abs().max() < 1e-5
    assert report.max_error < 1e-5
    assert theirs.cfg.architecture() == report.architecture
    assert theirs.cfg.metadata.hook_name == HOOKPOINT
