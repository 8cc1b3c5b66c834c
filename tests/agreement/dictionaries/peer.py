"""Dictionaries of other libraries, written and computed by those libraries, each in its environment.

    .bench/sparsify/bin/python tests/agreement/dictionaries/peer.py make sparsify FOLDER
    .bench/sparsify/bin/python tests/agreement/dictionaries/peer.py compute sparsify FOLDER ROWS OUT

`make` writes the folders beside this file: each holds a dictionary as the library saves it, and
`expected.safetensors`, the rows and what the library computes from them. `compute` loads a folder and
computes other rows.
"""

import json
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


D, F, K = 7, 11, 3
HOOK = "blocks.1.hook_resid_post"
WRITTEN = "blocks.1.hook_mlp_out"
"""What a transcoder reconstructs."""


def rows():
    """Return rows of unequal lengths, away from the origin."""
    draw = torch.Generator().manual_seed(1)
    lengths = torch.exp(0.5 * torch.randn(64, 1, generator=draw))
    return torch.randn(64, D, generator=draw) * lengths + torch.linspace(-1, 2, D)


def scramble(module, seed):
    """Give every parameter random values, none of them zero, decoder lengths unequal."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.6)


def save_expected(folder, x, codes, out):
    """Write what a library computes."""
    kept = {"rows": x, "codes": codes, "reconstruction": out}
    save_file(
        {name: each.detach().float().contiguous() for name, each in kept.items()},
        str(folder / "expected.safetensors"),
    )


# dictionary_learning


def without_nnsight():
    """Let it import without nnsight, which it needs for language models alone.

    nnsight asks for torchvision, whose release on PyPI does not load beside PyTorch for CPUs.
    """
    stand_in = types.ModuleType("nnsight")
    stand_in.LanguageModel = stand_in.NNsight = object
    sys.modules.setdefault("nnsight", stand_in)


def make_dictionary_learning(root):
    """Write one trainer's folder for each of its classes."""
    without_nnsight()
    from dictionary_learning.dictionary import (
        AutoEncoder,
        AutoEncoderNew,
        GatedAutoEncoder,
        JumpReluAutoEncoder,
    )
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    made = {
        "AutoEncoder": AutoEncoder(D, F),
        "AutoEncoderNew": AutoEncoderNew(D, F),
        "GatedAutoEncoder": GatedAutoEncoder(D, F),
        "JumpReluAutoEncoder": JumpReluAutoEncoder(D, F),
        "AutoEncoderTopK": AutoEncoderTopK(D, F, K),
        "BatchTopKSAE": BatchTopKSAE(D, F, K),
        "MatryoshkaBatchTopKSAE": MatryoshkaBatchTopKSAE(D, F, K, [4, 7]),
    }
    for seed, (name, dictionary) in enumerate(made.items()):
        scramble(dictionary, seed)
        if hasattr(dictionary, "threshold"):
            like = dictionary.threshold
            dictionary.threshold.data.copy_(0.4 + 0.1 * torch.rand(like.shape))
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(dictionary.state_dict(), folder / "ae.pt")
        trainer = {
            "dict_class": name, "activation_dim": D, "dict_size": F, "layer": 1, "lm_name": "tiny",
            "submodule_name": "resid_post_layer_1", "lr": 1e-3, "norm_factor": 3.0,
        }  # fmt: skip
        if hasattr(dictionary, "k"):
            trainer["k"] = K
        config = {"trainer": trainer, "buffer": {"d_submodule": D, "io": "out", "ctx_len": 16}}
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        x = rows()
        codes = dictionary.encode(x)
        save_expected(folder, x, codes, dictionary.decode(codes))


def compute_dictionary_learning(folder, x):
    """Load a folder by its own loader and compute."""
    without_nnsight()
    from dictionary_learning.utils import load_dictionary

    dictionary, _ = load_dictionary(str(folder), device="cpu")
    codes = dictionary.encode(x)
    return codes, dictionary.decode(codes)


# sparsify


def make_sparsify(root):
    """Write a run with one hookpoint, and one of a module inside a block."""
    from sparsify import SparseCoder, SparseCoderConfig

    for seed, (run, hook) in enumerate({"run": "layers.1", "inner": "layers.1.mlp"}.items()):
        config = SparseCoderConfig(num_latents=F, k=K)
        coder = SparseCoder(D, config)
        scramble(coder, 20 + seed)
        if run == "inner":
            coder = coder.half()
        folder = root / run / hook
        coder.save_to_disk(folder)
        (root / run / "config.json").write_text(json.dumps({"model": "tiny", "ctx_len": 16}) + "\n")
        x = rows()
        save_expected(root / run, x, *_sparsify(coder.float(), x))


def compute_sparsify(folder, x):
    """Load the only hookpoint of a run and compute."""
    from sparsify import SparseCoder

    (coder,) = [
        SparseCoder.load_from_disk(each)
        for each in folder.iterdir()
        if (each / "cfg.json").exists()
    ]
    return _sparsify(coder, x)


def _sparsify(coder, x):
    found = coder.encode(x)
    codes = torch.zeros(len(x), coder.num_latents)
    codes.scatter_(1, found.top_indices, found.top_acts)
    return codes, coder.decode(found.top_acts, found.top_indices)


# llamascopium


def make_llamascopium(root):
    """Write one folder for each activation function, with and without what may be missing."""
    from llamascopium.models.sae import SAEConfig, SparseAutoEncoder

    cases = {
        "relu": {"act_fn": "relu", "norm_activation": "dataset-wise"},
        "topk": {"act_fn": "topk", "norm_activation": "dataset-wise"},
        "topk-without-norm": {
            "act_fn": "topk", "norm_activation": "inference", "sparsity_include_decoder_norm": False,
        },
        "jumprelu": {"act_fn": "jumprelu", "norm_activation": "dataset-wise"},
        "glu": {"act_fn": "jumprelu", "norm_activation": "inference", "use_glu_encoder": True},
        "token-wise": {"act_fn": "topk", "norm_activation": "token-wise"},
        "no-bias": {"act_fn": "relu", "norm_activation": "inference", "use_decoder_bias": False},
        "batchtopk": {"act_fn": "batchtopk", "norm_activation": "inference"},
        "transcoder": {
            "act_fn": "jumprelu", "norm_activation": "dataset-wise", "hook_point_out": WRITTEN,
            "use_glu_encoder": True,
        },
    }  # fmt: skip
    for seed, (name, case) in enumerate(cases.items()):
        config = SAEConfig(
            d_model=D, expansion_factor=F / D, hook_point_in=HOOK, top_k=K, device="cpu",
            dtype=torch.float32, **{"hook_point_out": HOOK, **case},
        )  # fmt: skip
        sae = SparseAutoEncoder(config)
        scramble(sae, 40 + seed)
        if case["norm_activation"] == "dataset-wise":
            norms = {HOOK: 4.0, WRITTEN: 2.5}
            of = config.associated_hook_points
            sae.set_dataset_average_activation_norm({hook: norms[hook] for hook in of})
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        sae.save_pretrained(folder)
        config.save_hyperparameters(folder)
        x = rows()
        save_expected(folder, x, *_llamascopium(sae, x))


def compute_llamascopium(folder, x):
    """Load a folder and compute; what several hookpoints have stands side by side."""
    from llamascopium.models.sparse_dictionary import SparseDictionary

    found = SparseDictionary.from_pretrained(str(folder))
    return FAMILIES[found.cfg.sae_type](found, x)


@torch.no_grad()
def _molt(molt, x):
    """Its features by descending rank."""
    codes = molt.encode(x)
    counts = [molt.cfg.rank_counts[rank] for rank in sorted(molt.cfg.rank_counts)]
    return torch.cat(codes.split(counts, dim=1)[::-1], dim=1), molt.decode(codes, original_x=x)


@torch.no_grad()
def _lorsa(lorsa, x):
    """The rows are one context."""
    codes = lorsa.encode(x[None])
    return codes[0], lorsa.decode(codes)[0]


@torch.no_grad()
def _clt(clt, x):
    codes = clt.encode(torch.stack(x.chunk(clt.cfg.n_layers, dim=1), dim=1))
    out = clt.decode(codes)
    return codes.flatten(1), torch.cat(list(out), dim=1)


@torch.no_grad()
def _crosscoder(crosscoder, x):
    heads = len(crosscoder.cfg.hook_points)
    codes = crosscoder.encode(torch.stack(x.chunk(heads, dim=1), dim=1))
    return codes.flatten(1), crosscoder.decode(codes).flatten(1)


@torch.no_grad()
def _llamascopium(sae, x):
    reads, writes = sae.cfg.hook_point_in, sae.cfg.hook_point_out
    batch = {reads: x, writes: x}
    batch, factors = sae.normalize_activations(batch, return_scale_factor=True)
    codes = sae.encode(batch[reads])
    out = sae.denormalize_activations({writes: sae.decode(codes)}, {writes: factors[writes]})
    return codes, out[writes]


FAMILIES = {
    "sae": _llamascopium, "molt": _molt, "lorsa": _lorsa, "clt": _clt, "crosscoder": _crosscoder
}  # fmt: skip


def main(what, library, folder, *rest):
    """Make or compute."""
    torch.manual_seed(0)
    name = library.replace("-", "_")
    if what == "make":
        globals()[f"make_{name}"](Path(folder))
        return
    x = load_file(rest[0])["rows"]
    with torch.no_grad():
        codes, out = globals()[f"compute_{name}"](Path(folder), x)
    kept = {"codes": codes.contiguous(), "reconstruction": out.contiguous()}
    save_file(kept, rest[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
