"""Ours and llamascopium's Lorsa compute the same from the same weights; `lorsa/make.py` wrote theirs."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from saestore.testing.dictionaries import random_dictionary
from saestore_schemas.dictionary import TopK
from saestore_schemas.families import LorsaSettings


READS, WRITES = "blocks.1.ln1.hook_normalized", "blocks.1.hook_attn_out"
THEIRS = load_file(Path(__file__).parent / "lorsa" / "lorsa.safetensors")
NTK = {"factor": 8.0, "low": 1.0, "high": 4.0, "context_size": 40}
VARIANTS = {
    "adjacent": ({"pairs": "adjacent", "dim": 4}, 1e-12),
    "halves": ({"pairs": "halves", "dim": 6}, 1e-12),
    # Its frequencies by parts are float32.
    "ntk": ({"pairs": "halves", "dim": 6, "base": 50.0, "ntk": NTK}, 1e-5),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_codes_and_reconstructions_are_theirs(name):
    rope, tolerance = VARIANTS[name]
    settings = LorsaSettings(
        family="lorsa", hookpoint_in=READS, hookpoint_out=WRITES, d_sae=12, scale="none",
        activation=TopK(k=4), attention={"n_qk": 3, "d_qk": 6, "rope": rope},
    )  # fmt: skip
    plain = random_dictionary(settings, {READS: 7, WRITES: 7})
    weights = {
        each: THEIRS[f"{name}.{'b_D' if each == 'b_dec' else each}"] for each in plain.tensors()
    }
    ours, rows = plain.restore(plain.config, plain.scales, weights), THEIRS["rows"]
    found = {
        "z": ours.pre_activations({READS: rows}),
        "f": ours.encode(rows).to_dense(),
        "y": ours.reconstruct(rows)[WRITES],
    }
    for what, tensor in found.items():
        torch.testing.assert_close(tensor, THEIRS[f"{name}.{what}"], rtol=tolerance, atol=tolerance)
