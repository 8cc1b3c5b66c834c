import pytest
import torch

from saestore.lm import LanguageModel
from saestore.lm.unembedding import probe
from saestore_schemas.lm import LmSettings


RESID, SCALE = "blocks.3.hook_resid_post", "ln_final.hook_scale"
INTO, LOGITS = "unembed.hook_in", "hook_unembed"
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.mark.parametrize("processing", ["raw", "compatibility"])
def test_it_says_what_the_model_does(models, kind, tokens, processing):
    model = models(kind, processing=processing)
    found = model.capture(tokens, [RESID, SCALE, INTO, LOGITS], ["final_norm_scale"])
    unembedding = model.unembedding()
    assert unembedding.centred == (kind in {"gpt2", "neox"})
    torch.testing.assert_close(found["final_norm_scale"], found[SCALE])
    resid = found[RESID]
    if unembedding.centred:
        resid = resid - resid.mean(-1, keepdim=True)
    normed = resid / found["final_norm_scale"] * unembedding.gain + unembedding.norm.bias
    torch.testing.assert_close(normed, found[INTO], **CLOSE)
    torch.testing.assert_close(normed @ unembedding.W_U + unembedding.b_U, found[LOGITS], **CLOSE)
    biased = (unembedding.norm.bias != 0).any() or (unembedding.b_U != 0).any()
    assert biased == (kind in {"gpt2", "neox"})  # of the norm, or where processing folds it


@pytest.mark.parametrize("epsilon", [1e-8, 1e-6, 1e-5, 3e-4])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("width", [24, 25])
def test_epsilon_is_the_one_that_acts(epsilon, named, width):
    class Norm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.eps = epsilon if named else 0.5  # a name may lie

        def forward(self, x):
            return x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt() * 1.5 + 0.25

    norm = probe(Norm(), d_model=width, like=torch.zeros(1, width))
    assert not norm.centred
    torch.testing.assert_close(norm.gain, torch.full((width,), 1.5))
    torch.testing.assert_close(norm.bias, torch.full((width,), 0.25))
    expected = epsilon if named else pytest.approx(epsilon, rel=1e-3, abs=1e-8)
    assert norm.epsilon == expected


def test_raw_weights_are_the_published_ones(models, vendors, kind):
    vendor, unembedding = vendors(kind), models(kind).unembedding()
    gain = dict(vendor.named_parameters())[
        {"gpt2": "transformer.ln_f.weight", "neox": "gpt_neox.final_layer_norm.weight"}.get(
            kind, "model.norm.weight"
        )
    ]
    assert torch.equal(unembedding.W_U, vendor.get_output_embeddings().weight.T)
    assert torch.equal(unembedding.gain, gain)


def test_processing_folds_the_gain(models, kind):
    gain = models(kind, processing="compatibility").unembedding().gain
    torch.testing.assert_close(gain, torch.ones_like(gain), rtol=1e-3, atol=1e-3)


def test_half_precision_keeps_the_stored_weights(models):
    gain = models("llama", dtype="bfloat16").unembedding().gain
    expected = models("llama").unembedding().gain.to(torch.bfloat16).float()
    assert torch.equal(gain, expected)


def test_a_gain_written_as_one_plus_w_is_understood(tiny_gemma):
    from safetensors.torch import load_file

    model = LanguageModel.load(LmSettings(model=str(tiny_gemma)), device="cpu")
    weight = load_file(tiny_gemma / "model.safetensors")["model.norm.weight"]
    unembedding = model.unembedding()
    assert not unembedding.centred
    torch.testing.assert_close(unembedding.gain, 1 + weight)
