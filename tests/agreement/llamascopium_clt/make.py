"""Write `numbers.safetensors` beside this file: what llamascopium computes with one CLT's weights.

    .bench/llamascopium/bin/python tests/agreement/llamascopium_clt/make.py

One set of weights of unequal decoder norms, non-zero biases, and for each activation function the codes
of some rows and what they reconstruct. The gate is on h times decoder length.
"""

from pathlib import Path

import torch
from llamascopium.models.clt import CLTConfig, CrossLayerTranscoder
from safetensors.torch import save_file


LAYERS, FEATURES, D, ROWS = 3, 11, 7, 13
SAVED = ("topk", "layertopk", "jumprelu")
KINDS = {
    "topk": 4,
    "layertopk": 8,
    "batchtopk": 4,
    "batchlayertopk": 8,
    "relu": None,
    "jumprelu": None,
}


def main() -> None:
    draw = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    lengths = torch.linspace(0.3, 2.5, FEATURES).view(-1, 1)
    found = {"x": normal(ROWS, LAYERS, D) + torch.linspace(-1, 2, D)}
    found["W_E"] = normal(LAYERS, D, FEATURES)
    found["b_E"], found["b_D"] = normal(LAYERS, FEATURES), normal(LAYERS, D)
    for target in range(LAYERS):
        found[f"W_D.{target}"] = normal(target + 1, FEATURES, D) * lengths
    for kind, k in KINDS.items():
        config = CLTConfig(
            hook_points_in=[f"blocks.{s}.hook_resid_mid" for s in range(LAYERS)],
            hook_points_out=[f"blocks.{s}.hook_mlp_out" for s in range(LAYERS)],
            d_model=D, expansion_factor=FEATURES / D, act_fn=kind, device="cpu",
            dtype=torch.float32, sparsity_include_decoder_norm=True,
            norm_activation="inference", **({} if k is None else {"top_k": k}),
        )  # fmt: skip
        made = CrossLayerTranscoder(config)
        with torch.no_grad():
            made.W_E.copy_(found["W_E"])
            made.b_E.copy_(found["b_E"])
            for target in range(LAYERS):
                made.W_D[target].copy_(found[f"W_D.{target}"])
                made.b_D[target].copy_(found["b_D"][target])
            if kind == "jumprelu":
                thresholds = torch.linspace(0.5, 3, LAYERS * FEATURES).view(LAYERS, FEATURES)
                made.activation_function.log_jumprelu_threshold.copy_(thresholds.log())
            code = made.encode(found["x"])
            decoded = made.decode(code)
        if kind in SAVED:
            folder = Path(__file__).with_name(f"saved-{kind}")
            folder.mkdir(exist_ok=True)
            config.save_hyperparameters(folder)
            made.save_pretrained(folder)
        whole = decoded if torch.is_tensor(decoded) else torch.stack(list(decoded))
        found[f"{kind}.f"] = code.contiguous()
        found[f"{kind}.y"] = whole.reshape(LAYERS, ROWS, D).contiguous()
    save_file(found, Path(__file__).with_name("numbers.safetensors"))


if __name__ == "__main__":
    main()
