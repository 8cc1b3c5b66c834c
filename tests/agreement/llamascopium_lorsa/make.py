"""Write the files beside this one: a Lorsa that llamascopium saved, and what it computes in raw units.

    .bench/llamascopium/bin/python tests/agreement/llamascopium_lorsa/make.py

`saved` has its own files: queries and keys with an RMS norm, rotary positions by parts, values and outputs
of unequal lengths, non-zero biases and unequal scales of input and output. `numbers.safetensors` has the codes
of one context and what they reconstruct, before and after its own folding, of a topk and of a jumprelu.
"""

from pathlib import Path

import torch
from llamascopium.models.lorsa import LorsaConfig, LowRankSparseAttention
from safetensors.torch import save_file


FOLDER = Path(__file__).parent
READS, WRITES = "blocks.3.ln1.hook_normalized", "blocks.3.hook_attn_out"
D, FEATURES, ROWS = 7, 12, 13
NORMS = {READS: 5.0, WRITES: 3.0}
THETA = "activation_function.log_jumprelu_threshold"


def made(kind: str) -> LowRankSparseAttention:
    draw = torch.Generator().manual_seed(7)
    config = LorsaConfig(
        hook_point_in=READS, hook_point_out=WRITES, d_model=D, expansion_factor=FEATURES / D,
        n_qk_heads=3, d_qk_head=6, rotary_dim=4, rotary_base=50, rotary_adjacent_pairs=False,
        use_NTK_by_parts_rope=True, NTK_by_parts_factor=8.0, NTK_by_parts_low_freq_factor=1.0,
        NTK_by_parts_high_freq_factor=4.0, old_context_len=40, n_ctx=32, use_post_qk_ln=True,
        normalization_type="RMS", eps=1e-3, act_fn=kind, top_k=4, norm_activation="dataset-wise",
        sparsity_include_decoder_norm=True, dtype=torch.float32, device="cpu",
    )  # fmt: skip
    lorsa = LowRankSparseAttention(config)
    state = lorsa.state_dict()
    for name, parameter in lorsa.named_parameters():
        if name != THETA:
            state[name].copy_(torch.randn(parameter.shape, generator=draw))
    if kind == "jumprelu":
        state[THETA].copy_(torch.linspace(-1.0, 0.5, FEATURES))
    lorsa.set_dataset_average_activation_norm(dict(NORMS))
    return lorsa


def computed(lorsa: LowRankSparseAttention, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    batch = {READS: x[None], WRITES: x[None]}
    batch, factors = lorsa.normalize_activations(batch, return_scale_factor=True)
    code = lorsa.encode(batch[READS])
    y = {WRITES: lorsa.decode(code)}
    raw = lorsa.denormalize_activations(y, {WRITES: factors[WRITES]})[WRITES]
    return code[0].contiguous(), raw[0].contiguous()


@torch.no_grad()
def main() -> None:
    x = torch.randn(ROWS, D, generator=torch.Generator().manual_seed(8)) + torch.linspace(-1, 2, D)
    found = {"x": x}
    for kind in ("topk", "jumprelu"):
        lorsa = made(kind)
        if kind == "topk":
            (FOLDER / "saved").mkdir(exist_ok=True)
            lorsa.cfg.save_hyperparameters(FOLDER / "saved")
            lorsa.save_pretrained(FOLDER / "saved")
        found[f"{kind}.f"], found[f"{kind}.y"] = computed(lorsa, x)
        lorsa.standardize_parameters_of_dataset_norm()
        found[f"{kind}.folded.f"], found[f"{kind}.folded.y"] = computed(lorsa, x)
    save_file(found, FOLDER / "numbers.safetensors")


if __name__ == "__main__":
    main()
