"""Write weights and codes of llamascopium's own Lorsa (2.0.0b34, in its own environment).

    .bench/llamascopium/bin/python tests/agreement/lorsa/make.py

float64, random weights without a normalisation, topk on pre-activation times decoder length. Its RMS norm
needs a fork of TransformerLens and is not among them.
"""

from pathlib import Path

import torch
from llamascopium.models.lorsa import LorsaConfig, LowRankSparseAttention
from safetensors.torch import save_file


VARIANTS = {
    "adjacent": {"rotary_adjacent_pairs": True, "rotary_dim": 4},
    "halves": {"rotary_adjacent_pairs": False, "rotary_dim": 6},
    "ntk": {
        "rotary_adjacent_pairs": False, "rotary_dim": 6, "rotary_base": 50, "old_context_len": 40,
        "use_NTK_by_parts_rope": True, "NTK_by_parts_factor": 8.0,
        "NTK_by_parts_low_freq_factor": 1.0, "NTK_by_parts_high_freq_factor": 4.0,
    },
}  # fmt: skip


@torch.no_grad()
def main():
    """Write them beside this file."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(1, 13, 7, generator=draw, dtype=torch.float64)
    found = {"rows": rows[0]}
    for name, rotary in VARIANTS.items():
        config = LorsaConfig(
            sae_type="lorsa", hook_point_in="in", hook_point_out="out", d_model=7,
            expansion_factor=12 / 7, n_qk_heads=3, d_qk_head=6, n_ctx=16, act_fn="topk", top_k=4,
            norm_activation="inference", sparsity_include_decoder_norm=True,
            dtype=torch.float64, device="cpu", **rotary,
        )  # fmt: skip
        lorsa = LowRankSparseAttention(config)
        for weight, parameter in lorsa.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64))
            found[f"{name}.{weight}"] = parameter.clone()
        codes, z = lorsa.encode(rows, return_hidden_pre=True)
        found |= {f"{name}.z": z[0], f"{name}.f": codes[0], f"{name}.y": lorsa.decode(codes)[0]}
    here = Path(__file__).parent / "lorsa.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, here)


if __name__ == "__main__":
    main()
