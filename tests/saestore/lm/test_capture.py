import pytest
import torch

from saestore.errors import HookpointNotFoundError
from saestore.testing.models import D_MODEL, N_LAYERS


CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def resid(layer):
    return f"blocks.{layer}.hook_resid_post"


def test_the_residual_stream_is_hugging_faces(models, vendors, kind, tokens):
    with torch.no_grad():
        states = vendors(kind)(tokens, output_hidden_states=True).hidden_states
    names = ["blocks.0.hook_resid_pre", *map(resid, range(N_LAYERS - 1))]
    found = models(kind).capture(tokens, names)
    assert list(found) == names
    for name, state in zip(names, states, strict=False):
        torch.testing.assert_close(found[name], state, **CLOSE)


def test_the_last_state_is_hugging_faces_after_the_final_norm(models, vendors, kind, tokens):
    vendor = vendors(kind)
    norm = next(
        module
        for name, module in vendor.named_modules()
        if name in {"transformer.ln_f", "gpt_neox.final_layer_norm", "model.norm"}
    )
    with torch.no_grad():
        last = vendor(tokens, output_hidden_states=True).hidden_states[-1]
        found = models(kind).capture(tokens, [resid(N_LAYERS - 1)])[resid(N_LAYERS - 1)]
        torch.testing.assert_close(norm(found), last, **CLOSE)


def test_what_attention_and_mlp_write_adds_up(models, kind, tokens):
    writes = ["blocks.1.hook_resid_pre", "blocks.1.hook_attn_out", "blocks.1.hook_mlp_out"]
    found = models(kind).capture(tokens, [*writes, resid(1)])
    torch.testing.assert_close(sum(found[name] for name in writes), found[resid(1)], **CLOSE)


def test_right_padding_changes_nothing_before_it(models, kind, tokens):
    model = models(kind)
    padded = tokens.clone()
    padded[:, 13:] = 0
    short = model.capture(tokens[:, :13], [resid(2)])[resid(2)]
    torch.testing.assert_close(model.capture(padded, [resid(2)])[resid(2)][:, :13], short, **CLOSE)


def test_contexts_in_a_batch_do_not_see_each_other(models, kind, tokens):
    model = models(kind)
    alone = model.capture(tokens[1:2], [resid(2)])[resid(2)]
    torch.testing.assert_close(model.capture(tokens, [resid(2)])[resid(2)][1:2], alone, **CLOSE)


def test_the_forward_stops_after_the_last_place_asked_for(models, kind, tokens):
    model = models(kind)
    ran = []
    body = model._plain.model.base_model
    handles = [
        block.mlp.register_forward_hook(lambda *_, m=m, n=n: ran.append((m, n)))
        for m, blocks in (
            ("bridge", model._bridge.blocks),
            ("plain", body.layers if hasattr(body, "layers") else body.h),
        )
        for n, block in enumerate(blocks)
    ]
    scores = "blocks.2.attn.hook_rot_q" if kind == "llama" else "blocks.2.ln1.hook_scale"
    try:
        for names, runs, last in (
            ([resid(2), "blocks.0.hook_mlp_out"], "plain", 2),
            (["blocks.2.hook_resid_pre"], "plain", 1),
            ([scores], "bridge", 1),
        ):
            model.capture(tokens, names)  # the first time, both passes run on a tiny batch
            ran.clear()
            model.capture(tokens, names)
            assert ran == [(runs, n) for n in range(last + 1)]
    finally:
        for handle in handles:
            handle.remove()


def test_no_hook_stays_behind(models, tokens):
    model = models("gpt2")
    model.capture(tokens, [resid(1)])
    with pytest.raises(HookpointNotFoundError):
        model.capture(tokens, [resid(1), "blocks.1.hook_resid"])
    with pytest.raises(ZeroDivisionError):
        model.token_losses(tokens, patches={resid(1): lambda x: x / (1 // 0)})
    assert not any(point.fwd_hooks for point in model._bridge.hook_dict.values())


def test_heads_are_flattened(models, tokens):
    found = models("qwen3").capture(tokens, ["blocks.0.attn.hook_z", "blocks.0.attn.hook_k"])
    assert [each.shape for each in found.values()] == [(3, 21, 30), (3, 21, 10)]
    info = models("qwen3").hookpoints()
    assert [info[name].width for name in found] == [30, 10]


def test_what_is_captured_is_as_wide_as_listed(models, kind, tokens):
    model = models(kind)
    listed = model.hookpoints()
    assert listed[resid(0)].width == D_MODEL
    assert listed[resid(3)].layer == 3
    assert listed["hook_embed"].layer is None
    for name, shown in model.capture(tokens, list(listed)).items():
        assert shown.shape == (3, 21, listed[name].width)


def test_names_match_exactly_by_glob_and_in_forward_order(models, kind):
    model = models(kind)
    every = [resid(layer) for layer in range(N_LAYERS)]
    assert model.match(["blocks.*.hook_resid_post"]) == every
    assert model.match([resid(3), "blocks.[01].hook_resid_post", resid(0)]) == [
        every[0], every[1], every[3],
    ]  # fmt: skip
    listed = list(model.hookpoints())
    assert model.match(["*"]) == listed
    assert listed.index(resid(0)) < listed.index("blocks.1.hook_mlp_out") < listed.index(resid(1))


def test_other_spellings_become_the_classic_one(models):
    assert models("llama").match(["blocks.2.hook_out", "blocks.2.mlp.hook_out"]) == [
        "blocks.2.hook_mlp_out", "blocks.2.hook_resid_post",
    ]  # fmt: skip


def test_a_misspelt_name_gives_the_nearest(models, tokens):
    with pytest.raises(HookpointNotFoundError, match=r"blocks\.1\.hook_resid_pots") as caught:
        models("gpt2").match(["blocks.1.hook_resid_pots"])
    assert "blocks.1.hook_resid_post" in caught.value.hint
    with pytest.raises(HookpointNotFoundError) as caught:
        models("gpt2").capture(tokens, ["blocks.9.hook_resid_post"])
    assert "resid_post" in caught.value.hint
    with pytest.raises(HookpointNotFoundError):
        models("gpt2").match(["layers.*"])


def test_a_place_that_never_fires_is_not_found(models, tokens):
    with pytest.raises(HookpointNotFoundError):
        models("gpt2").capture(tokens, ["blocks.0.attn.hook_result"])


def test_half_precision_is_honoured(models, tokens):
    half, full = models("llama", dtype="bfloat16"), models("llama")
    found = half.capture(tokens, [resid(1)])[resid(1)]
    assert (half.dtype, found.dtype) == (torch.bfloat16, torch.bfloat16)
    expected = full.capture(tokens, [resid(1)])[resid(1)]
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.gpu
def test_capturing_on_cuda_equals_the_cpu(tiny_models, models, tokens):
    from saestore.lm import LanguageModel
    from saestore_schemas.lm import LmSettings

    model = LanguageModel.load(LmSettings(model=str(tiny_models("llama"))), device="cuda")
    found = model.capture(tokens, [resid(2)])[resid(2)]
    assert found.is_cuda
    expected = models("llama").capture(tokens, [resid(2)])[resid(2)]
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)
    losses = model.token_losses(tokens).cpu()
    torch.testing.assert_close(losses, models("llama").token_losses(tokens), rtol=1e-3, atol=1e-3)
