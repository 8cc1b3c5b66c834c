"""SAELens: `cfg.json` and `sae_weights.safetensors`, as sae-lens 6.54 reads them.

    h = (x - b_dec) W_enc + b_enc         f = relu(h), of the k largest if topk
    x̂ = f W_dec + b_dec

Its files cannot hold a mean or a factor of the input, so both are folded into the weights. Of the
two exact ways to write the encoder bias we take the one that subtracts `b_dec` first: a folded
`b_dec` holds the mean of the data, and products of the mean would cancel in float32.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from saestore.activations import ActivationStore
from saestore.dictionaries import SparseDictionary
from saestore.errors import UnsupportedError
from saestore.exchange import measure
from saestore.exchange.canonical import Canonical, canonical
from saestore.exchange.report import ExportReport
from saestore.lake.storage import Storage
from saestore_schemas.dictionary import Activation, TopK


VERSION = "6.54.12"
"""The release whose format this is. Loaders take a folder without it for one of before 6.0."""

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"

ARCHITECTURES = {"topk": "topk", "relu": "standard"}
"""Our activation functions by SAELens' names for what has them."""


def export_saelens(
    dictionary: SparseDictionary,
    folder: str | os.PathLike[str],
    *,
    store: ActivationStore | None = None,
) -> ExportReport:
    """Write a dictionary as SAELens reads it, and measure how exactly.

    Args:
        dictionary: Any dictionary whose codes SAELens can compute.
        folder: Where to write; made if it is not there. Files of an earlier export are replaced.
        store: The store it was trained on: some of its rows are measured too, and its settings
            fill in the metadata.

    Raises:
        UnsupportedError: SAELens has no exact counterpart, and why.
        StorageError: The folder cannot be written.
    """
    kind = dictionary.config.semantics.activation.kind
    if kind not in ARCHITECTURES:
        raise UnsupportedError(
            f"SAELens {VERSION} has no exact counterpart of activation {kind!r}",
            found=kind,
            expected=f"one of {', '.join(ARCHITECTURES)}",
            hint="train or convert to one of these before exporting",
        )
    form = canonical(dictionary, tool="SAELens")
    weights = {
        "W_enc": form.W_enc,
        "b_enc": form.b_enc + form.b_dec @ form.W_enc,
        "W_dec": form.W_dec,
        "b_dec": form.b_dec,
    }
    stored = {name: tensor.float().contiguous() for name, tensor in weights.items()}
    config = _config(dictionary, store)
    target = Storage.at(Path(folder).absolute())
    target.write(WEIGHTS, safetensors.torch.save(stored, metadata={"format": "pt"}))
    target.write(CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    # What is measured is what was written, read back.
    written = SaeLensForward(safetensors.torch.load(target.read(WEIGHTS)), form.activation)
    found = _difference(dictionary, form, written, measure.fixed_batch(dictionary))
    if store is not None and store.n_rows > 0:
        hook = dictionary.hookpoints_in[0]
        rows = store.read(hook, 0, min(store.n_rows, measure.ROWS))
        found = found.worse(_difference(dictionary, form, written, torch.tensor(rows)))
    return ExportReport(
        format=f"SAELens {VERSION}",
        architecture=ARCHITECTURES[kind],
        folder=Path(folder),
        files=(CONFIG, WEIGHTS),
        rewrites=form.rewrites,
        rows=found.rows,
        tied_rows=found.tied,
        max_error_codes=found.codes,
        max_error_reconstruction=found.reconstruction,
    )


@dataclass(frozen=True)
class SaeLensForward:
    """What sae-lens computes from the files, in float32."""

    weights: dict[str, Tensor]
    activation: Activation

    def pre_activations(self, rows: Float32[Tensor, "row d_in"]) -> Float32[Tensor, "row d_sae"]:
        """Return h."""
        return (rows - self.weights["b_dec"]) @ self.weights["W_enc"] + self.weights["b_enc"]

    def encode(self, rows: Float32[Tensor, "row d_in"]) -> Float32[Tensor, "row d_sae"]:
        """Return f."""
        h = self.pre_activations(rows)
        if not isinstance(self.activation, TopK):
            return h.relu()
        values, indices = h.topk(self.activation.k, dim=1, sorted=False)
        return torch.zeros_like(h).scatter_(1, indices, values.relu())

    def decode(self, codes: Float32[Tensor, "row d_sae"]) -> Float32[Tensor, "row d_out"]:
        """Return the reconstruction."""
        return codes @ self.weights["W_dec"] + self.weights["b_dec"]


def _difference(
    dictionary: SparseDictionary,
    form: Canonical,
    written: SaeLensForward,
    rows: Float[Tensor, "row d_in"],
) -> measure.Difference:
    code = dictionary.encode(rows)
    reconstruction = dictionary.decode(code, rows)[dictionary.hookpoints_out[0]].cpu()
    ours = code.to_dense().cpu().double() * form.factors
    theirs = written.encode(rows)
    tied = torch.zeros(len(rows), dtype=torch.bool)
    if isinstance(form.activation, TopK):
        tied = measure.ties(written.pre_activations(rows), form.activation.k)
    return measure.compare((ours, reconstruction), (theirs, written.decode(theirs)), tied)


def _config(dictionary: SparseDictionary, store: ActivationStore | None) -> dict[str, Any]:
    ours = dictionary.config
    activation = ours.semantics.activation
    hookpoint = dictionary.hookpoints_in[0]
    model = ours.model
    lm = store.record.lm if store is not None else None
    config: dict[str, Any] = {
        "architecture": ARCHITECTURES[activation.kind],
        "d_in": ours.d_in[0],
        "d_sae": ours.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "hook_z" if hookpoint.endswith("hook_z") else "none",
        "metadata": {
            "sae_lens_version": VERSION,
            "sae_lens_training_version": None,
            "model_name": model.name if model else None,
            "model_class_name": "HookedTransformer",
            "hook_name": hookpoint,
            "hook_name_out": None,
            "hook_head_index": None,
            "hf_hook_name": None,
            "context_size": store.record.context_size if store is not None else None,
            "prepend_bos": lm.prepend_bos if lm is not None else None,
            "seqpos_slice": None,
            "model_from_pretrained_kwargs": {},
            "dataset_path": None,
            "exclude_special_tokens": None,
            "sequence_separator_token": None,
            "disable_concat_sequences": None,
            "neuronpedia_id": None,
            "l0": None,
            "training_architecture": ARCHITECTURES[activation.kind],
            "exported_by": f"saestore {ours.versions.get('saestore', '')}".strip(),
            "weight_processing": model.processing if model else None,
        },
    }
    if isinstance(activation, TopK):
        config |= {"k": activation.k, "rescale_acts_by_decoder_norm": False}
    return config
