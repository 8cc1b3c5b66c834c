"""Write `numbers.safetensors` beside this file: what llamascopium computes with one crosscoder's weights.

    .bench/llamascopium/bin/python tests/agreement/llamascopium_crosscoder/make.py

One set of weights of unequal decoder norms at each head, non-zero biases and unequal mean lengths of rows;
for each activation function the codes of some rows and what they reconstruct, in raw units, and a checkpoint
as its trainer leaves it: with the normalisation outside of the weights, and `folded` after its own fold.
"""

from pathlib import Path

import torch
from llamascopium.models.crosscoder import Crosscoder, CrosscoderConfig
from safetensors.torch import save_file


HEADS, FEATURES, D, ROWS = 3, 11, 7, 13
HOOKS = [f"blocks.{head}.hook_resid_post" for head in range(HEADS)]
LENGTHS = dict(zip(HOOKS, (3.0, 5.5, 2.0), strict=True))
KINDS = {"topk": 3, "batchtopk": 3, "relu": None, "jumprelu": None, "folded": 3}


def main() -> None:
    draw = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    lengths = torch.linspace(0.3, 2.5, FEATURES)
    norms = torch.stack([lengths.roll(3 * head) for head in range(HEADS)]).unsqueeze(2)
    vectors = normal(HEADS, FEATURES, D)
    found = {"x": normal(ROWS, HEADS, D) * 2 + torch.linspace(-1, 2, D)}
    found["W_E"], found["b_E"] = normal(HEADS, D, FEATURES), normal(HEADS, FEATURES)
    found["W_D"] = vectors / vectors.norm(dim=2, keepdim=True) * norms
    found["b_D"] = normal(HEADS, D)
    for name, k in KINDS.items():
        config = CrosscoderConfig(
            hook_points=HOOKS, d_model=D, expansion_factor=FEATURES / D, device="cpu",
            act_fn="topk" if name == "folded" else name, dtype=torch.float32,
            sparsity_include_decoder_norm=True, use_decoder_bias=True,
            norm_activation="dataset-wise", **({} if k is None else {"top_k": k}),
        )  # fmt: skip
        made = Crosscoder(config)
        made.set_dataset_average_activation_norm(LENGTHS)
        with torch.no_grad():
            for each in ("W_E", "b_E", "W_D", "b_D"):
                getattr(made, each).copy_(found[each])
            if name == "jumprelu":
                thresholds = torch.linspace(0.5, 3, FEATURES)
                made.activation_function.log_jumprelu_threshold.copy_(thresholds.log())
            if name == "folded":
                made.standardize_parameters_of_dataset_norm()
            batch = {hook: found["x"][:, head] for head, hook in enumerate(HOOKS)}
            rows = made.prepare_input(made.normalize_activations(batch))[0]
            code = made.encode(rows)
            decoded = made.decode(code).unbind(dim=1)
            factors = [made.compute_norm_factor(batch[hook], hook) for hook in HOOKS]
        folder = Path(__file__).with_name(f"saved-{name}")
        folder.mkdir(exist_ok=True)
        config.save_hyperparameters(folder)
        made.save_pretrained(folder)
        found[f"{name}.f"] = code.contiguous()
        back = [each / factor for each, factor in zip(decoded, factors, strict=True)]
        found[f"{name}.y"] = torch.stack(back, dim=1).contiguous()
    save_file(found, Path(__file__).with_name("numbers.safetensors"))


if __name__ == "__main__":
    main()
