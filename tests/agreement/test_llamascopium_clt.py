"""A cross-layer transcoder computes what llamascopium computes with the same weights.

`llamascopium_clt/make.py` wrote the numbers with llamascopium 2.0.0b34.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from saestore.testing.dictionaries import random_dictionary
from saestore_schemas.families import CltSettings


THEIRS = load_file(Path(__file__).parent / "llamascopium_clt" / "numbers.safetensors")
LAYERS, D, FEATURES = THEIRS["W_E"].shape
INS = tuple(f"blocks.{s}.hook_resid_mid" for s in range(LAYERS))
OUTS = tuple(f"blocks.{s}.hook_mlp_out" for s in range(LAYERS))
KINDS = {"topk": 4, "layertopk": 8, "batchtopk": 4, "batchlayertopk": 8, "relu": None}


def ours(kind, k):
    """The dictionary of their weights: theirs are by target, ours by source."""
    settings = CltSettings(
        family="clt",
        hookpoints_in=INS,
        hookpoints_out=OUTS,
        d_sae=FEATURES,
        activation={"kind": kind} | ({} if k is None else {"k": k}),
        scale="none",
    )
    plain = random_dictionary(settings, dict.fromkeys((*INS, *OUTS), D), dtype=torch.float32)
    tensors = plain.tensors()
    for s in range(LAYERS):
        tensors[f"W_enc.{s}"] = THEIRS["W_E"][s]
        tensors[f"b_enc.{s}"] = THEIRS["b_E"][s]
        tensors[f"b_dec.{s}"] = THEIRS["b_D"][s]
        targets = [THEIRS[f"W_D.{t}"][s] for t in range(s, LAYERS)]
        tensors[f"W_dec.{s}"] = torch.stack(targets, dim=1)
    return plain.restore(plain.config, plain.scales, tensors)


@pytest.mark.parametrize("kind", KINDS)
def test_codes_and_reconstructions_are_theirs(kind):
    dictionary = ours(kind, KINDS[kind])
    output = dictionary({hook: THEIRS["x"][:, s] for s, hook in enumerate(INS)})
    code = output.code.to_dense().detach().view(-1, LAYERS, FEATURES)
    torch.testing.assert_close(code, THEIRS[f"{kind}.f"], rtol=1e-5, atol=1e-5)
    assert ((code != 0) == (THEIRS[f"{kind}.f"] != 0)).all()
    for t, hook in enumerate(OUTS):
        found = output.reconstruction[hook].detach()
        torch.testing.assert_close(found, THEIRS[f"{kind}.y"][t], rtol=1e-5, atol=1e-5)
