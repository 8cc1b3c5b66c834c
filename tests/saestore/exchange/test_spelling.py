import pytest

from saestore.errors import ConfigError
from saestore.exchange.spelling import chosen, layer_of, translated


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("blocks.3.hook_resid_post", "blocks.3.hook_resid_post"),
        ("blocks.3.attn.hook_z", "blocks.3.attn.hook_z"),
        ("hook_embed", "hook_embed"),
        ("blocks.3.hook_in", "blocks.3.hook_resid_pre"),
        ("blocks.3.hook_out", "blocks.3.hook_resid_post"),
        ("blocks.3.mlp.hook_out", "blocks.3.hook_mlp_out"),
        ("layers.11", "blocks.11.hook_resid_post"),
        ("model.layers.11.mlp", "blocks.11.hook_mlp_out"),
        ("gpt_neox.layers.2.attention", "blocks.2.hook_attn_out"),
        ("transformer.h.0", "blocks.0.hook_resid_post"),
        ("model.embed_tokens", "hook_embed"),
        ("resid_post_3", None),
        ("layers.3.input_layernorm", None),
        ("layers", None),
    ],
)
def test_spellings(theirs, ours):
    assert translated(theirs) == ours
    if ours:
        assert translated(ours) == ours


def test_two_names_for_one_hookpoint_are_refused():
    with pytest.raises(ConfigError, match=r"both become 'blocks\.1\.hook_resid_post'"):
        chosen([], ["layers.1", "blocks.1.hook_out"], where="x")


def test_a_name_with_an_equals_sign_is_itself():
    assert chosen(["a=b=blocks.0.hook_z"], ["a"], where="x") == {"b=blocks.0.hook_z": "a"}
    assert chosen(["a=b"], ["a=b", "c"], where="x") if translated("a=b") else True


def test_layers():
    assert layer_of("blocks.12.hook_resid_post") == 12
    assert layer_of("hook_embed") is None
