import pytest
import torch

from saestore.lm import LanguageModel
from saestore_schemas.lm import LmSettings


NAMES = ["blocks.3.hook_resid_post", "unembed.hook_in", "hook_unembed"]


@pytest.mark.parametrize("processing", ["raw", "compatibility"])
def test_it_says_what_the_model_does(models, kind, tokens, processing):
    """Differences between positions drop the biases, which it leaves out."""
    model = models(kind, processing=processing)
    found = model.capture(tokens, NAMES)
    unembedding = model.unembedding()
    assert unembedding.centred == (kind in {"gpt2", "neox"})
    resid = found[NAMES[0]]
    if unembedding.centred:
        resid = resid - resid.mean(-1, keepdim=True)
    scale = (resid.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    normed = resid / scale * unembedding.gain
    close = {"rtol": 1e-4, "atol": 1e-4}
    rest = found[NAMES[1]] - normed
    torch.testing.assert_close(rest, rest[:1, :1].expand_as(rest), **close)
    rest = found[NAMES[2]] - found[NAMES[1]] @ unembedding.W_U
    torch.testing.assert_close(rest, rest[:1, :1].expand_as(rest), **close)


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
