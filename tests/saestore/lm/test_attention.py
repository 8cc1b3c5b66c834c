"""A layer's attention as matrices: they give the model's own patterns and outputs, or are refused."""

import pytest
import torch

from saestore.errors import HookpointNotFoundError, UnsupportedError
from saestore.lm import LanguageModel
from saestore_schemas.lm import LmSettings


WRITES = "blocks.1.hook_attn_out"


@pytest.fixture(scope="module", params=["gpt2", "neox", "llama", "qwen2", "qwen3"])
def model(request, tiny_models):
    return LanguageModel.load(LmSettings(model=str(tiny_models(request.param))), device="cpu")


@pytest.mark.parametrize("reads", ["blocks.1.ln1.hook_normalized", "blocks.1.ln1.hook_out"])
def test_the_matrices_and_the_patterns_give_what_attention_writes(model, reads):
    found = model.attention(reads, WRITES)
    heads = len(found.W_Q)
    values = torch.einsum("td,hdk->htk", found.rows, found.W_V)
    mixed = found.pattern @ values.repeat_interleave(heads // len(values), dim=0)
    tokens = torch.arange(len(found.rows)).mul(7).remainder(model.n_vocab).unsqueeze(0)
    wanted = model.capture(tokens, [WRITES])[WRITES][0]
    missing = wanted - torch.einsum("htk,hkd->td", mixed, found.W_O)
    # What is missing are constants: biases of values and of the output.
    torch.testing.assert_close(missing, missing[:1].expand_as(missing), rtol=1e-3, atol=1e-4)
    assert float(found.pattern.sum(dim=-1).sub(1).abs().max()) < 1e-5
    assert wanted.std() > 100 * missing.std(dim=0).mean()


def test_what_is_no_input_and_output_of_an_attention_is_refused(model):
    for reads, writes, why in (
        ("blocks.0.ln1.hook_normalized", WRITES, "not of one layer"),
        ("blocks.1.ln1.hook_normalized", "blocks.1.hook_mlp_out", "writes blocks.1.hook_attn_out"),
        ("blocks.1.hook_resid_pre", WRITES, "times a gain"),
    ):
        with pytest.raises(UnsupportedError, match=why):
            model.attention(reads, writes)
    with pytest.raises(HookpointNotFoundError):
        model.attention("blocks.9.ln1.hook_normalized", WRITES)
