"""Hugging Face's own pass stands in for TransformerLens' where, and only where, they agree."""

import pytest
import torch

from saestore.lm import LanguageModel
from saestore.lm.plain import Place, agree
from saestore.testing.models import N_LAYERS
from saestore_schemas.lm import LmSettings


CLOSE = {"rtol": 1e-5, "atol": 1e-5}

BOUNDARIES = ("hook_resid_pre", "hook_resid_post", "hook_attn_out", "hook_mlp_out")


@pytest.fixture
def fresh(tiny_models):
    """A function from family to a model that nothing was compared on yet."""

    def load(kind, **more):
        return LanguageModel.load(LmSettings(model=str(tiny_models(kind)), **more), device="cpu")

    return load


def through_the_bridge(model, tokens, names):
    plain, model._plain = model._plain, None
    try:
        return model.capture(tokens, names)
    finally:
        model._plain = plain


def test_both_passes_give_every_hookpoint_the_same_values(fresh, kind, tokens):
    model = fresh(kind)
    names = list(model.hookpoints())
    expected = through_the_bridge(model, tokens, names)
    for name in names:
        found = model.capture(tokens, [name])[name]
        torch.testing.assert_close(found, expected[name], **CLOSE)


def test_the_ends_of_blocks_attention_and_mlps_are_read_plainly(fresh, kind, tokens):
    model = fresh(kind)
    ran = []
    names = [f"blocks.1.{name}" for name in BOUNDARIES if f"blocks.1.{name}" in model.hookpoints()]
    handles = [
        module.register_forward_hook(lambda *_, m=m: ran.append(m))
        for m, module in (("bridge", model._bridge.blocks[0]), ("plain", _blocks(model)[0]))
    ]
    try:
        model.capture(tokens, names)  # the first time, both run on a tiny batch
        ran.clear()
        model.capture(tokens, names)
        assert ran == ["plain"]
    finally:
        for handle in handles:
            handle.remove()


def test_the_twin_holds_no_weights_of_its_own(fresh, kind):
    model = fresh(kind)
    bridged = {id(p) for p in model._bridge.original_model.parameters()}
    assert {id(p) for p in model._plain.model.parameters()} <= bridged


def test_a_place_that_gives_other_values_is_not_trusted(fresh, tokens):
    model = fresh("llama")
    name, other = "blocks.1.hook_resid_post", "blocks.2.hook_resid_post"
    places = dict(model._plain.places)
    places[id(model._points[name])] = places[id(model._points[other])]
    model._plain.places = places
    found = model.capture(tokens, [name])[name]
    torch.testing.assert_close(found, through_the_bridge(model, tokens, [name])[name], **CLOSE)
    assert model._plain.trusted[id(model._points[name])] is False


def test_a_place_that_is_never_passed_is_not_trusted(fresh, tokens):
    model = fresh("llama")
    name = "blocks.1.hook_resid_post"
    places = dict(model._plain.places)
    places[id(model._points[name])] = Place(torch.nn.Identity(), "out")
    model._plain.places = places
    found = model.capture(tokens, [name])[name]
    torch.testing.assert_close(found, through_the_bridge(model, tokens, [name])[name], **CLOSE)


def test_capped_attention_scores_stay_capped(tmp_path, tokens):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    from saestore.lm.quiet import quiet
    from saestore.testing.models import N_VOCAB, randomise_, tiny_tokenizer

    config = Gemma2Config(
        vocab_size=N_VOCAB, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, head_dim=8, intermediate_size=56, sliding_window=16,
        attn_logit_softcapping=0.5, query_pre_attn_scalar=1, bos_token_id=1, eos_token_id=2,
        pad_token_id=0,
    )  # fmt: skip
    vendor = Gemma2ForCausalLM(config)
    randomise_(vendor, seed=3)
    with quiet():
        vendor.save_pretrained(tmp_path)
        tiny_tokenizer().save_pretrained(tmp_path)
        vendor = Gemma2ForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    model = LanguageModel.load(LmSettings(model=str(tmp_path)), device="cpu")
    name = "blocks.0.hook_resid_post"
    with torch.no_grad():
        expected = vendor(tokens, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(model.capture(tokens, [name])[name], expected, **CLOSE)
    assert model._plain.model.config._attn_implementation == "eager"


def test_processed_weights_go_through_the_bridge(fresh, tokens):
    model = fresh("gpt2", processing="compatibility")
    assert model._plain is None
    assert model.capture(tokens, ["blocks.1.hook_resid_post"])


def test_patched_losses_are_the_same_through_both(fresh, kind, tokens):
    model = fresh(kind)
    name = f"blocks.{N_LAYERS // 2}.hook_mlp_out"
    patches = {name: lambda x: 0.5 * x - 0.25, "blocks.0.hook_resid_pre": lambda x: 1.5 * x}
    found = model.token_losses(tokens, patches=patches)
    plain, model._plain = model._plain, None
    assert plain is not None
    torch.testing.assert_close(found, model.token_losses(tokens, patches=patches), **CLOSE)
    assert not torch.allclose(found, model.token_losses(tokens))


def test_agreement_is_relative_and_by_type():
    x = torch.linspace(1, 2, 12).reshape(3, 4)
    assert agree(x * (1 + 1e-6), x)
    assert not agree(x * (1 + 1e-3), x)
    assert agree((x * (1 + 1e-3)).bfloat16(), x.bfloat16())
    assert not agree(x[:2], x)
    assert not agree(x * float("nan"), x)


def _blocks(model):
    body = model._plain.model.base_model
    return body.layers if hasattr(body, "layers") else body.h
