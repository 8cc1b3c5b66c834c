"""A mixture of linear transforms computes what llamascopium computes from the file that it saved.

`llamascopium_molt/make.py` wrote the files with llamascopium 2.0.0b34. Its features are in the order of
ascending rank, ours of descending; its thresholds are stored as logarithms. Its folding is another
function (`b_E/a`, `U V a/c`: a factor of the input is missing), ours is the one before.
"""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from saestore import dictionaries
from saestore.dictionaries import Scale
from saestore.errors import ConfigError
from saestore.exchange.dictionaries import import_dictionary
from saestore.lake import Lake
from saestore.testing.dictionaries import random_dictionary
from saestore_schemas.exchange import ImportDictionarySettings
from saestore_schemas.families import MoltSettings


FOLDER = Path(__file__).parent / "llamascopium_molt"
SAVED, THEIRS = (
    load_file(FOLDER / name) for name in ("saved/sae_weights.safetensors", "numbers.safetensors")
)
READS, WRITES = "blocks.3.ln2.hook_normalized", "blocks.3.hook_mlp_out"
NORM = "dataset_average_activation_norm."
D, FEATURES = SAVED["W_E"].shape
RANKS = {
    int(name.split(".")[1]): len(tensor)
    for name, tensor in sorted(SAVED.items())
    if name.startswith("U_matrices.")
}
KINDS = {"topk": 4, "batchtopk": 4, "relu": None, "jumprelu": None}
ORDER = torch.cat(list(reversed(torch.arange(FEATURES).split(list(RANKS.values())))))
"""Of our features, which of theirs."""


def ours(kind, scale="none"):
    """The dictionary of their file."""
    k = KINDS[kind]
    settings = MoltSettings(
        family="molt",
        hookpoint_in=READS,
        hookpoint_out=WRITES,
        ranks=RANKS,
        activation={"kind": kind} | ({} if k is None else {"k": k}),
        scale=scale,
        scale_out=scale,
    )
    plain = random_dictionary(settings, {READS: D, WRITES: D}, dtype=torch.float32)
    tensors = plain.tensors()
    tensors |= {
        "W_enc": SAVED["W_E"][:, ORDER],
        "b_enc": SAVED["b_E"][ORDER],
        "b_dec": SAVED["b_D"],
    }
    for rank in RANKS:
        tensors[f"U.{rank}"] = SAVED[f"U_matrices.{rank}"]
        tensors[f"V.{rank}"] = SAVED[f"V_matrices.{rank}"]
    if kind == "jumprelu":
        tensors["threshold"] = torch.linspace(-1.0, 0.5, FEATURES).exp()[ORDER]
    scales = {}
    for hook, each in plain.scales.items():
        a = 1.0 if scale == "none" else math.sqrt(D) / float(SAVED[NORM + hook])
        scales[hook] = Scale(each.record.model_copy(update={"a": a}), None)
    records = {hook: each.record for hook, each in scales.items()}
    return plain.restore(plain.config.model_copy(update={"scale": records}), scales, tensors)


@pytest.mark.parametrize("kind", KINDS)
def test_codes_and_reconstructions_are_theirs(kind):
    output = ours(kind)({READS: THEIRS["x"]})
    code, wanted = output.code.to_dense().detach(), THEIRS[f"{kind}.f"][:, ORDER]
    assert ((code != 0) == (wanted != 0)).all()
    torch.testing.assert_close(code, wanted, rtol=1e-5, atol=1e-5)
    found = output.reconstruction[WRITES].detach()
    torch.testing.assert_close(found, THEIRS[f"{kind}.y"], rtol=1e-5, atol=1e-4)


def test_a_checkpoint_it_wrote_is_read(tmp_path):
    plain = ImportDictionarySettings(
        series="a", name="b", tool="llamascopium", path=str(FOLDER / "saved")
    )
    lake = Lake.at(tmp_path)
    with pytest.raises(ConfigError, match="contain the normalisation already"):
        import_dictionary(plain, lake)
    external = plain.model_copy(update={"fold_state": "external"})
    conversion = import_dictionary(external, lake).conversion
    assert conversion.max_error < 1e-6
    assert conversion.firings > 500
    found = dictionaries.load(lake, "a/b")
    assert (found.hookpoints_in, found.hookpoints_out) == ((READS,), (WRITES,))
    assert found.ranks().tolist() == [3] * 5 + [2] * 2 + [1] * 4
    y = found.reconstruct(THEIRS["x"])[WRITES]
    torch.testing.assert_close(y, THEIRS["raw.y"], rtol=1e-4, atol=1e-4)
    folded = plain.model_copy(update={"name": "c", "fold_state": "folded"})
    assert import_dictionary(folded, lake).conversion.max_error < 1e-9
    code = dictionaries.load(lake, "a/c").encode(THEIRS["x"]).to_dense()
    torch.testing.assert_close(code, THEIRS["topk.f"][:, ORDER], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("on_lengths", [True, False])
def test_thresholds_of_a_saved_jumprelu_follow_the_scales(tmp_path, on_lengths):
    config = json.loads((FOLDER / "saved" / "config.json").read_text())
    config |= {"act_fn": "jumprelu", "sparsity_include_decoder_norm": on_lengths}
    (tmp_path / "config.json").write_text(json.dumps(config))
    theta = {"activation_function.log_jumprelu_threshold": torch.linspace(-1.0, 0.5, FEATURES)}
    save_file(SAVED | theta, tmp_path / "sae_weights.safetensors")
    settings = ImportDictionarySettings(
        series="a", name="b", tool="llamascopium", path=str(tmp_path), fold_state="external"
    )
    conversion = import_dictionary(settings, Lake.at(tmp_path / "lake")).conversion
    assert conversion.max_error < 1e-6
    assert conversion.firings > 500


def test_in_raw_units_it_is_theirs_and_stays_so_when_folded_which_theirs_does_not():
    dictionary = ours("topk", "dataset_mean_norm")
    for each in (dictionary, dictionary.folded()):
        found = each.reconstruct(THEIRS["x"])[WRITES]
        torch.testing.assert_close(found, THEIRS["raw.y"], rtol=1e-4, atol=1e-4)
    assert (THEIRS["folded.y"] - THEIRS["raw.y"]).norm() > 0.1 * THEIRS["raw.y"].norm()
