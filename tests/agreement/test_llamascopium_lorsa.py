"""A Lorsa that llamascopium saved computes here what it computes there.

`llamascopium_lorsa/make.py` wrote the files with llamascopium 2.0.0b34. Its folding leaves thresholds on z
times decoder length as they are, so that a folded jumprelu is another function; ours is the one before.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from saestore import dictionaries
from saestore.activations import ActivationStore
from saestore.errors import ConfigError, UnsupportedError
from saestore.exchange.dictionaries import import_dictionary
from saestore.lake import Lake
from saestore.testing.stores import synthetic_store
from saestore_schemas.exchange import ImportDictionarySettings


FOLDER = Path(__file__).parent / "llamascopium_lorsa"
SAVED, THEIRS = (
    load_file(FOLDER / name) for name in ("saved/sae_weights.safetensors", "numbers.safetensors")
)
READS, WRITES = "blocks.3.ln1.hook_normalized", "blocks.3.hook_attn_out"
D, FEATURES = 7, 12
THETA = {"activation_function.log_jumprelu_threshold": torch.linspace(-1.0, 0.5, FEATURES)}


def settings(path=FOLDER / "saved", fold_state="external"):
    return ImportDictionarySettings(
        series="a", name="b", tool="llamascopium", path=str(path), fold_state=fold_state
    )


def changed(folder, tensors, **config):
    """Their files with something changed."""
    known = json.loads((FOLDER / "saved" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(known | config))
    save_file(SAVED | tensors, folder / "sae_weights.safetensors")
    return folder


@pytest.mark.parametrize("kind", ["topk", "jumprelu"])
def test_a_checkpoint_it_wrote_computes_what_it_did_before_its_folding(tmp_path, kind):
    place = changed(tmp_path, THETA if kind == "jumprelu" else {}, act_fn=kind)
    conversion = import_dictionary(settings(place), Lake.at(tmp_path / "lake")).conversion
    assert conversion.max_error < 1e-6
    assert conversion.firings > 300
    found = dictionaries.load(Lake.at(tmp_path / "lake"), "a/b")
    assert (found.hookpoints_in, found.hookpoints_out) == ((READS,), (WRITES,))
    assert found.config.options.attention.rope.ntk.factor == 8
    code, y = found.encode(THEIRS["x"]).to_dense(), found.reconstruct(THEIRS["x"])[WRITES]
    torch.testing.assert_close(code, THEIRS[f"{kind}.f"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(y, THEIRS[f"{kind}.y"], rtol=1e-4, atol=1e-4)


def test_its_own_folding_is_right_where_nothing_is_compared_with_a_threshold():
    right, wrong = (
        ((THEIRS[f"{kind}.folded.f"] != 0) != (THEIRS[f"{kind}.f"] != 0)).sum()
        for kind in ("topk", "jumprelu")
    )
    assert int(right) == 0 < int(wrong)


def test_weights_that_contain_the_normalisation_read_rows_as_they_are(tmp_path):
    with pytest.raises(ConfigError, match="contain the normalisation already") as caught:
        import_dictionary(settings(fold_state=None), Lake.at(tmp_path))
    assert "--fold-state" in caught.value.hint
    a, c = (D**0.5 / length for length in (5.0, 3.0))
    by = {"W_Q": a, "W_K": a, "W_V": a, "W_O": 1 / c, "b_D": 1 / c}
    scaled = {name: SAVED[name] * factor for name, factor in by.items()}
    place = changed(tmp_path, scaled, norm_activation="inference")
    import_dictionary(settings(place, None), Lake.at(tmp_path / "lake"))
    y = dictionaries.load(Lake.at(tmp_path / "lake"), "a/b").reconstruct(THEIRS["x"])[WRITES]
    torch.testing.assert_close(y, THEIRS["topk.folded.y"], rtol=1e-4, atol=1e-4)


def test_beside_a_store_the_first_document_is_computed_on_both_sides(tmp_path):
    lake = Lake.at(tmp_path)
    synthetic_store(lake, "rows", width=D, hookpoints=(READS, WRITES))
    store = ActivationStore.open(lake, "rows")
    conversion = import_dictionary(settings(), lake, store=store).conversion
    assert conversion.max_error < 1e-6
    assert conversion.rows > 256
    assert conversion.l0 == 4
    assert conversion.explained_variance < 1


@pytest.mark.parametrize(
    ("config", "error", "reason"),
    [
        ({"rotary_scale": 2}, UnsupportedError, "rotary_scale repeats"),
        ({"normalization_type": "LN"}, UnsupportedError, "normalised by 'LN'"),
        ({"norm_activation": "token-wise"}, UnsupportedError, "no counterpart in this family"),
        ({"act_fn": "layertopk"}, UnsupportedError, "of a lorsa has no counterpart"),
        ({"rotary_dim": 8}, ConfigError, "rope turns 8 of d_qk = 6"),
    ],
)
def test_what_has_no_counterpart_is_refused(tmp_path, config, error, reason):
    with pytest.raises(error, match=reason):
        import_dictionary(settings(changed(tmp_path, {}, **config)), Lake.at(tmp_path / "lake"))
