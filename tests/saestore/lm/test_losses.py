import pytest
import torch
from torch.nn import functional as F

from saestore.errors import HookpointNotFoundError
from saestore.lm import LanguageModel
from saestore.lm.losses import CHUNK, NextTokenLoss
from saestore.testing.models import N_VOCAB
from saestore_schemas.lm import LmSettings


RESID = "blocks.2.hook_resid_post"
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def cross_entropy(logits, tokens):
    flat = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return F.pad(flat.view(len(tokens), -1), (0, 1))


def test_clean_losses_are_hugging_faces(models, vendors, kind, tokens):
    vendor = vendors(kind)
    with torch.no_grad():
        output = vendor(tokens, labels=tokens)
    losses = models(kind).token_losses(tokens)
    torch.testing.assert_close(losses, cross_entropy(output.logits, tokens), **CLOSE)
    torch.testing.assert_close(losses[:, :-1].mean(), output.loss, **CLOSE)
    assert not losses[:, -1].any()


def test_more_rows_than_a_chunk_are_no_different(models, vendors):
    tokens = torch.randint(0, N_VOCAB, (5, CHUNK // 2))
    with torch.no_grad():
        logits = vendors("gpt2")(tokens).logits
    expected = cross_entropy(logits, tokens)
    torch.testing.assert_close(models("gpt2").token_losses(tokens), expected, **CLOSE)


def test_the_logits_of_a_batch_are_never_held(models):
    model = models("llama")
    model.token_losses(torch.randint(0, N_VOCAB, (8, 100)))
    assert model._loss._buffer.shape == (CHUNK, N_VOCAB)


def test_predictions_beside_clean_ones_have_their_losses_and_divergences(models, kind):
    tokens = torch.randint(0, N_VOCAB, (3, CHUNK // 2))
    model = models(kind)
    patched = {RESID: lambda x: x.flip(-1)}
    rows = [model.final_rows(tokens, patches=p)[:, :-1].flatten(0, 1) for p in (None, patched)]
    found = model.predictions(rows[0], [rows[1], rows[0]], tokens[:, 1:].flatten())
    expected = [model.token_losses(tokens, patches=p)[:, :-1].flatten() for p in (None, patched)]
    torch.testing.assert_close(found[0].losses, expected[0], **CLOSE)
    torch.testing.assert_close(found[1].losses, expected[1], **CLOSE)
    with torch.inference_mode():
        logs = [model._loss.logits(each[:7]).double().log_softmax(1) for each in rows]
    divergence = (logs[0].exp() * (logs[0] - logs[1])).sum(1).float()
    torch.testing.assert_close(found[1].divergences[:7], divergence, **CLOSE)
    assert not found[0].divergences.any()
    assert not found[2].divergences.any()  # equal rows: exactly 0
    assert (found[1].divergences > 0).all()


@pytest.mark.parametrize(
    "place", [RESID, "blocks.1.hook_mlp_out", "blocks.1.hook_attn_out", "blocks.1.attn.hook_z"]
)
def test_an_identity_patch_changes_nothing(models, kind, tokens, place):
    model = models(kind)
    losses = model.token_losses(tokens, patches={place: lambda x: x})
    torch.testing.assert_close(losses, model.token_losses(tokens), rtol=0, atol=1e-6)


def test_a_patch_decides_what_is_predicted(models, vendors, kind, tokens):
    """With another text's residual stream spliced in, the model predicts that text's tokens."""
    other = tokens.flip(0)
    model = models(kind)
    spliced = model.capture(other, [RESID])[RESID]
    with torch.no_grad():
        logits = vendors(kind)(other).logits
    losses = model.token_losses(tokens, patches={RESID: lambda _: spliced})
    torch.testing.assert_close(losses, cross_entropy(logits, tokens), **CLOSE)


def test_a_patch_sees_what_capture_gives_and_later_patches_see_it(models, kind, tokens):
    model = models(kind)
    seen = {}

    def note(name, value):
        seen[name] = value.clone()
        return torch.zeros_like(value)

    places = ["blocks.1.hook_mlp_out", "blocks.1.hook_resid_post"]
    model.token_losses(tokens, patches={name: lambda x, n=name: note(n, x) for name in places})
    names = [*places, "blocks.1.hook_resid_pre", "blocks.1.hook_attn_out"]
    clean = model.capture(tokens, names)
    torch.testing.assert_close(seen[places[0]], clean[places[0]], **CLOSE)
    expected = clean[places[1]] - clean[places[0]]
    torch.testing.assert_close(seen[places[1]], expected, **CLOSE)


def test_patches_are_gone_afterwards(models, tokens):
    model = models("neox")
    clean = model.token_losses(tokens)
    patched = model.token_losses(tokens, patches={RESID: torch.zeros_like})
    assert (patched - clean).abs().max() > 0.1
    torch.testing.assert_close(model.token_losses(tokens), clean, rtol=0, atol=0)


def test_an_unknown_place_cannot_be_patched(models, tokens):
    with pytest.raises(HookpointNotFoundError):
        models("gpt2").token_losses(tokens, patches={"blocks.7.hook_resid_post": torch.zeros_like})


def test_processed_weights_predict_the_same(models, kind, tokens):
    processed = models(kind, processing="compatibility")
    expected = models(kind).token_losses(tokens)
    torch.testing.assert_close(processed.token_losses(tokens), expected, rtol=1e-4, atol=1e-4)


def test_half_precision_is_close(models, tokens):
    losses = models("gpt2", dtype="bfloat16").token_losses(tokens)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, models("gpt2").token_losses(tokens), rtol=0.02, atol=0.05)


def test_capped_logits_are_capped(tiny_gemma):
    from transformers import AutoModelForCausalLM

    tokens = torch.randint(0, N_VOCAB, (2, 12))
    vendor = AutoModelForCausalLM.from_pretrained(tiny_gemma, attn_implementation="eager").eval()
    with torch.no_grad():
        logits = vendor(tokens).logits
    assert logits.abs().max() <= 3
    model = LanguageModel.load(LmSettings(model=str(tiny_gemma)), device="cpu")
    torch.testing.assert_close(model.token_losses(tokens), cross_entropy(logits, tokens), **CLOSE)


def test_bias_factor_and_cap_apply_in_order():
    rows, weight, bias = torch.randn(7, 5), torch.randn(11, 5), torch.randn(11)
    loss = NextTokenLoss(weight, bias, soft_cap=2.0, factor=0.5)
    expected = 2 * torch.tanh((rows @ weight.T + bias) * 0.5 / 2)
    torch.testing.assert_close(loss.logits(rows), expected)
    targets = torch.arange(7)
    torch.testing.assert_close(
        loss(rows, targets), F.cross_entropy(expected, targets, reduction="none")
    )
