"""What rows at a hookpoint add to the residual stream, where a matrix says it."""

import pytest
import torch

from saestore.errors import UnsupportedError
from saestore.lm import LanguageModel, residual
from saestore_schemas.lm import LmSettings


def changes(values):
    """Rows less the first one: biases are gone."""
    return values - values[:1, :1]


@pytest.mark.parametrize("processing", ["raw", "compatibility"])
def test_heads_and_hidden_units_go_through_their_matrix(models, kind, tokens, processing):
    model = models(kind, processing=processing)
    for name, added in (("attn.hook_z", "hook_attn_out"), ("mlp.hook_post", "hook_mlp_out")):
        matrix = model.into_stream(f"blocks.1.{name}")
        found = model.capture(tokens, [f"blocks.1.{name}", f"blocks.1.{added}"])
        rows, wanted = found.values()
        torch.testing.assert_close(changes(rows @ matrix), changes(wanted), rtol=1e-4, atol=1e-4)
        assert model.into_stream(f"blocks.1.{added}") is None
    assert model.into_stream("blocks.1.hook_resid_post") is None


@pytest.mark.parametrize(
    "name", ["ln1.hook_normalized", "attn.hook_q", "mlp.hook_pre", "ln2.hook_out", "attn.q.hook_in"]
)
def test_what_goes_through_more_than_a_matrix_is_refused(name):
    with pytest.raises(UnsupportedError, match="no direct path") as caught:
        residual.check(f"blocks.1.{name}")
    assert "logits = null" in caught.value.hint


def test_a_norm_after_attention_is_seen(tiny_gemma):
    """Gemma 2 norms what a layer adds: heads do not reach the stream by a matrix."""
    model = LanguageModel.load(LmSettings(model=str(tiny_gemma)), device="cpu")
    assert model.into_stream("blocks.1.hook_resid_post") is None
    for name in ("attn.hook_z", "mlp.hook_post"):
        with pytest.raises(UnsupportedError, match="no direct path"):
            model.into_stream(f"blocks.1.{name}")
