"""Write the files beside this one: a molt that llamascopium saved, and what it computes.

    .bench/llamascopium/bin/python tests/agreement/llamascopium_molt/make.py

`saved` has its own files, with transforms of unequal norm, non-zero biases and unequal scales
of input and output. `numbers.safetensors` has, for each activation function, the codes of some rows and
what they reconstruct in the units of the weights; of the saved one, in raw units too, before and after its
own folding. The gate is on h times ‖U V‖.
"""

from pathlib import Path

import torch
from llamascopium.models.molt import MixtureOfLinearTransform, MOLTConfig
from safetensors.torch import save_file


FOLDER = Path(__file__).parent
READS, WRITES = "blocks.3.ln2.hook_normalized", "blocks.3.hook_mlp_out"
D, ROWS = 7, 13
RANKS = {1: 4, 2: 2, 3: 5}
FEATURES = sum(RANKS.values())
KINDS = {"topk": 4, "batchtopk": 4, "relu": None, "jumprelu": None}
DRAW = torch.Generator().manual_seed(5)
THETA = "activation_function.log_jumprelu_threshold"


def weights() -> dict[str, torch.Tensor]:
    found = {"W_E": (D, FEATURES), "b_E": (FEATURES,), "b_D": (D,)}
    for rank, count in RANKS.items():
        found[f"U_matrices.{rank}"] = (count, D, rank)
        found[f"V_matrices.{rank}"] = (count, rank, D)
    return {name: torch.randn(shape, generator=DRAW) for name, shape in found.items()}


def made(kind: str, norm: str, tensors: dict[str, torch.Tensor]) -> MixtureOfLinearTransform:
    k = KINDS[kind]
    config = MOLTConfig(
        hook_point_in=READS, hook_point_out=WRITES, d_model=D, expansion_factor=FEATURES / D,
        rank_counts=RANKS, act_fn=kind, device="cpu", dtype=torch.float32,
        sparsity_include_decoder_norm=True, norm_activation=norm, **({} if k is None else {"top_k": k}),
    )  # fmt: skip
    molt = MixtureOfLinearTransform(config)
    state = molt.state_dict()
    for name, tensor in tensors.items():
        state[name].copy_(tensor)
    if kind == "jumprelu":
        state[THETA].copy_(torch.linspace(-1.0, 0.5, FEATURES))
    return molt


@torch.no_grad()
def raw(molt: MixtureOfLinearTransform, x: torch.Tensor) -> torch.Tensor:
    batch, factors = molt.normalize_activations({READS: x, WRITES: x}, return_scale_factor=True)
    read = batch[READS]
    y = molt.decode(molt.encode(read), original_x=read)
    return molt.denormalize_activations({WRITES: y}, {WRITES: factors[WRITES]})[WRITES]


@torch.no_grad()
def main() -> None:
    tensors = weights()
    x = torch.randn(ROWS, D, generator=DRAW) + torch.linspace(-1, 2, D)
    found = {"x": x}
    for kind in KINDS:
        molt = made(kind, "inference", tensors)
        code = molt.encode(x)
        found[f"{kind}.f"] = code.contiguous()
        found[f"{kind}.y"] = molt.decode(code, original_x=x).contiguous()
    saved = made("topk", "dataset-wise", tensors)
    saved.set_dataset_average_activation_norm({READS: 5.0, WRITES: 3.0})
    (FOLDER / "saved").mkdir(exist_ok=True)
    saved.cfg.save_hyperparameters(FOLDER / "saved")
    saved.save_pretrained(FOLDER / "saved")
    found["raw.y"] = raw(saved, x)
    saved.standardize_parameters_of_dataset_norm()
    found["folded.y"] = raw(saved, x)
    save_file(found, FOLDER / "numbers.safetensors")


if __name__ == "__main__":
    main()
