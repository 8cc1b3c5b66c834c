"""Write a folder of circuit-tracer's beside this file, and what it computes; or compute one of ours.

    pip install circuit-tracer==0.5.0        # in an environment of its own
    python tests/agreement/circuit_tracer_clt/make.py [FOLDER]

Without a folder: a cross-layer transcoder of unequal decoder lengths, as `to_safetensors` writes it, with
rows, codes and reconstructions in `numbers.safetensors`. With one: the codes and reconstructions of that
folder for its `rows.safetensors`, into its `theirs.safetensors`.
"""

import sys
from pathlib import Path

import torch
import yaml
from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder, load_clt
from safetensors.torch import load_file, save_file


LAYERS, FEATURES, D, ROWS = 3, 11, 7, 13
HERE = Path(__file__).parent


def computed(clt: CrossLayerTranscoder, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return codes and reconstructions, both by layer."""
    code = torch.stack([clt.encode_layer(rows[s], s) for s in range(clt.n_layers)])
    with torch.no_grad():
        return {"f": code.detach().contiguous(), "y": clt.decode(code.detach()).contiguous()}


def main(folder: Path | None) -> None:
    torch.set_grad_enabled(False)
    if folder is not None:
        clt = load_clt(str(folder), device=torch.device("cpu"), dtype=torch.float32)
        save_file(
            computed(clt, load_file(folder / "rows.safetensors")["x"]),
            folder / "theirs.safetensors",
        )
        return
    draw = torch.Generator().manual_seed(7)
    clt = CrossLayerTranscoder(
        LAYERS, FEATURES, D, "jump_relu", lazy_decoder=False,
        device=torch.device("cpu"), dtype=torch.float32,
    )  # fmt: skip
    lengths = torch.linspace(0.3, 2.5, FEATURES)
    for parameter in clt.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=draw))
    for decoder in clt.W_dec:
        decoder.mul_(lengths.view(-1, 1, 1))
    clt.activation_function.threshold.copy_(
        torch.rand(LAYERS, 1, FEATURES, generator=draw) + lengths / 2
    )
    rows = 2 * torch.randn(LAYERS, ROWS, D, generator=draw)
    clt.to_safetensors(str(HERE / "theirs"))
    config = {
        "model_name": "tiny",
        "model_kind": "cross_layer_transcoder",
        "feature_input_hook": "hook_resid_mid",
        "feature_output_hook": "hook_mlp_out",
        "scan": "tiny",
    }
    (HERE / "theirs" / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    save_file({"x": rows, **computed(clt, rows)}, HERE / "numbers.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
