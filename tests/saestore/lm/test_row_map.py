"""An MLP as a map of single rows: it gives what the model writes, and attention is no such map."""

import pytest
import torch

from saestore.errors import UnsupportedError
from saestore.lm import row_map
from saestore.testing.models import N_LAYERS


WRITES = f"blocks.{N_LAYERS - 1}.hook_mlp_out"


@pytest.mark.parametrize("kind", ["gpt2", "neox", "llama"])  # no gate, parallel, gated
@pytest.mark.parametrize("side", ["hook_normalized", "hook_out"])
def test_it_gives_what_the_mlp_writes_for_each_row(models, kind, tokens, side, monkeypatch):
    monkeypatch.setattr(row_map, "ROWS_AT_ONCE", 5)
    model, reads = models(kind), f"blocks.{N_LAYERS - 1}.ln2.{side}"
    seen = model.capture(tokens, [reads, WRITES])
    found = model.row_map(reads, WRITES)(seen[reads].flatten(0, 1))
    torch.testing.assert_close(found, seen[WRITES].flatten(0, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("reads", "writes", "reason"),
    [
        ("blocks.1.ln1.hook_normalized", "blocks.1.hook_attn_out", "rows of a context meet"),
        ("blocks.1.hook_resid_pre", "blocks.1.hook_mlp_out", "rows of a context meet"),
        ("blocks.1.hook_mlp_out", "blocks.1.ln2.hook_normalized", "does not change with"),
    ],
)
def test_what_is_no_map_of_single_rows_is_refused(models, reads, writes, reason):
    with pytest.raises(UnsupportedError, match=reason) as caught:
        models("llama").row_map(reads, writes)
    assert "ln2.hook_normalized" in caught.value.hint
