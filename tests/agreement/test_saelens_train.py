"""Same weights, same batch: codes, loss and every gradient are those of the real sae-lens.

Known differences are not hidden: sae-lens' AuxK is not normalised, so it is compared with no dead
features, where both are 0.
"""

import importlib
import os
import warnings

import pytest
import torch

from saestore.testing.dictionaries import D_IN, D_SAE, HOOK, random_sae, raw_rows
from saestore.train.objectives import AuxK, DecoderWeightedL1, Pass, SquaredError
from saestore_schemas.dictionary import Relu, TopK
from saestore_schemas.objective import AuxSettings, L1Settings


pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def sae_lens():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies' deprecations, at import
        if os.environ.get("TESTS_REQUIRE_PARTS"):
            return importlib.import_module("sae_lens")
        return pytest.importorskip("sae_lens", reason="sae-lens is not installed")


def theirs_like(ours, sae_class, config):
    result = sae_class(config)
    with torch.no_grad():
        for name, tensor in ours.tensors().items():
            getattr(result, name).copy_(tensor)
    return result


def rows():
    return torch.from_numpy(raw_rows(40))


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("k", [1, 4, 11])
def test_top_k_encodes_and_decodes_alike(sae_lens, k, subtract):
    ours = random_sae(TopK(k=k), scale="none", subtract_b_dec=subtract)
    config = sae_lens.TopKSAEConfig(
        d_in=D_IN, d_sae=D_SAE, dtype="float64", k=k, apply_b_dec_to_input=subtract
    )
    theirs = theirs_like(ours, sae_lens.TopKSAE, config)
    with torch.no_grad():
        codes = theirs.encode(rows())
        torch.testing.assert_close(ours.encode(rows()).to_dense(), codes, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            ours.reconstruct(rows())[HOOK], theirs.decode(codes), rtol=1e-12, atol=1e-12
        )


def compare(ours, theirs, terms, coefficients):
    x = rows()
    inputs = {HOOK: x}
    nothing = torch.zeros(0, dtype=torch.int64)
    seen = Pass(ours, inputs, inputs, ours(inputs), nothing, 0)
    mine = torch.stack([term(seen) for term in terms]).sum()
    mine.backward()
    from sae_lens.saes.sae import TrainStepInput

    dead = torch.zeros(D_SAE, dtype=torch.bool)
    step = TrainStepInput(
        sae_in=x, coefficients=coefficients, dead_neuron_mask=dead, n_training_steps=0,
        is_logging_step=False,
    )  # fmt: skip
    output = theirs.training_forward_pass(step)
    output.loss.backward()
    torch.testing.assert_close(mine, output.loss, rtol=1e-10, atol=1e-10)
    pairs = {
        "W_enc": (ours.encoder.grad.T, theirs.W_enc.grad),
        "b_enc": (ours.b_enc.grad, theirs.b_enc.grad),
        "W_dec": (ours.W_dec.grad, theirs.W_dec.grad),
        "b_dec": (ours.b_dec.grad, theirs.b_dec.grad),
    }
    for name, (a, b) in pairs.items():
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("gated", [False, True])
def test_a_top_k_training_step_has_the_same_loss_and_gradients(sae_lens, gated):
    ours = random_sae(TopK(k=1), scale="none", gate_on_decoder_norm=gated)
    config = sae_lens.TopKTrainingSAEConfig(
        d_in=D_IN, d_sae=D_SAE, dtype="float64", k=1, apply_b_dec_to_input=True,
        rescale_acts_by_decoder_norm=gated,
    )  # fmt: skip
    theirs = theirs_like(ours, sae_lens.TopKTrainingSAE, config)
    compare(ours, theirs, [SquaredError(), AuxK(AuxSettings(), k=3, variance=1.0)], {})


def test_an_l1_training_step_has_the_same_loss_and_gradients(sae_lens):
    ours = random_sae(Relu(), scale="none")
    config = sae_lens.StandardTrainingSAEConfig(
        d_in=D_IN, d_sae=D_SAE, dtype="float64", apply_b_dec_to_input=True, l1_coefficient=0.7
    )
    theirs = theirs_like(ours, sae_lens.StandardTrainingSAE, config)
    penalty = DecoderWeightedL1(L1Settings(coefficient=0.7, warmup=0), 10)
    compare(ours, theirs, [SquaredError(), penalty], {"l1": 0.7})
