"""circuit-tracer: cross-layer transcoders in two files of each layer, and `config.yaml` (0.5.0).

    f^s = h where h = x^s W_enc_sᵀ + b_enc_s exceeds threshold_s; with no thresholds, relu(h)
    ŷ^t = Σ_{s≤t} f^s W_dec_s[:, t − s] + b_dec_t

`W_enc_{s}.safetensors` holds `W_enc_{s}` [F, d], `b_enc_{s}`, `b_dec_{s}` and, of JumpReLUs,
`threshold_{s}`; `W_dec_{s}.safetensors` holds `W_dec_{s}` [F, L − s, d], by source as ours.
`config.yaml` says where features read and write, as the end of a hookpoint's name: its layer s is
block s of the model. `--hookpoint` says which block layer 0 is where a dictionary covers some blocks
only, which circuit-tracer itself does not know.

Its sets of transcoders, one file of each layer, are as many dictionaries here: they are not read.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saestore.dictionaries import SparseDictionary, canonical, tensor_file
from saestore.errors import ConfigError, UnsupportedError
from saestore.exchange import spelling
from saestore.exchange.dictionaries import reference
from saestore.exchange.dictionaries.files import Config, Weights, one_of
from saestore.exchange.dictionaries.foreign import (
    Asked,
    Context,
    Foreign,
    Meaning,
    Written,
    WrittenFormat,
)
from saestore.exchange.dictionaries.reference import Codes, Computed
from saestore.exchange.place import listed
from saestore_schemas.dictionary import ROW_SCALES


CONFIG = "config.yaml"
KIND = "cross_layer_transcoder"
READS, WRITES = "hook_resid_mid", "hook_mlp_out"
"""Where features read and write if no config says it."""

KNOWN = frozenset(
    ["model_name", "model_kind", "feature_input_hook", "feature_output_hook", "scan", "repo_id"]
)
"""Keys that decide something, or only name things."""

_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


class CircuitTracer(WrittenFormat):
    """Cross-layer transcoders of circuit-tracer."""

    title: ClassVar[str] = "circuit-tracer"
    version: ClassVar[str] = "0.5.0"

    @override
    def read(self, place: Path, asked: Asked) -> Foreign:
        """Return what a folder holds.

        Raises:
            ConfigError: A file is missing, torn, or not of this format.
            UnsupportedError: It is a set of transcoders, or a threshold is below zero.
        """
        folder = place.parent if place.is_file() else place
        config = _config(folder)
        layers = _layers(folder, config, self.title)
        read = [_layer(folder, layer, layers, self.title) for layer in range(layers)]
        tensors = {
            f"{name}.{layer}": tensor
            for layer, (own, _) in enumerate(read)
            for name, tensor in own.items()
            if name != "threshold"
        }
        thresholds = [own["threshold"] for own, _ in read if "threshold" in own]
        kind = "jumprelu" if thresholds else "relu"
        if thresholds:
            tensors["threshold"] = _thresholds(folder, thresholds, layers)
        first, reads, writes = _places(config, asked)
        blocks = range(first, first + layers)
        return Foreign(
            architecture=f"{KIND}, {kind}",
            version=None,
            files=(*([config.path] if config.values else []), *(f for _, own in read for f in own)),
            hookpoint=None,
            model=config.get("model_name", str, default=None),
            meaning=Meaning({"kind": kind}, subtract_b_dec=False, layers=layers),
            tensors=tensors,
            compute=lambda rows: _compute(tensors, rows, layers),
            decided=(f"its layers 0 to {layers - 1} are blocks {first} to {blocks[-1]}",),
            inexact=config.unknown(KNOWN),
            family="clt",
            reads=tuple(f"blocks.{block}.{reads}" for block in blocks),
            writes=tuple(f"blocks.{block}.{writes}" for block in blocks),
        )

    @override
    def write(self, dictionary: SparseDictionary, context: Context) -> Written:
        """Return the files that circuit-tracer reads, in raw units.

        Raises:
            UnsupportedError: It has no such activation function, or features do not write to their own
                layer and later ones.
        """
        del context
        first, reads, writes = _named(dictionary, self.title)
        form = canonical(_above_thresholds(dictionary, self.title))
        files = _files(form.dictionary)
        known = dictionary.config.model
        config = {
            "model_name": None if known is None else known.name,
            "model_kind": KIND,
            "feature_input_hook": reads,
            "feature_output_hook": writes,
            "scan": None,
        }
        layers = len(dictionary.layers)
        why = (
            f"circuit-tracer takes its layers 0 to {layers - 1} for the blocks of those numbers; here "
            f"they are blocks {first} to {first + layers - 1}"
        )
        data = {
            name: tensor_file.dump(tensors, {"version": self.version})
            for name, tensors in files.items()
        }
        kind = "relu" if form.dictionary.thresholds() is None else "jumprelu"
        return Written(
            architecture=f"{KIND}, {kind}",
            files={**data, CONFIG: yaml.safe_dump(config, sort_keys=False).encode()},
            rewrites=form.rewrites,
            factors=form.factors,
            inexact=() if first == 0 else (why,),
        )


def _config(folder: Path) -> Config:
    """Return what `config.yaml` says; nothing where there is none.

    Raises:
        ConfigError: It is no YAML object.
    """
    path = folder / CONFIG
    if not path.is_file():
        return Config(path, {})
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            file=str(path),
            field="path",
            problem=f"is no YAML ({error})",
            expected="a config of circuit-tracer",
        ) from error
    if not isinstance(found, dict):
        raise ConfigError(
            file=str(path), field="path", problem="is no YAML object", expected="keys and values"
        )
    return Config(path, found)


def _layers(folder: Path, config: Config, tool: str) -> int:
    """Return how many layers a folder holds.

    Raises:
        ConfigError: None.
        UnsupportedError: They are transcoders, one by one.
    """
    kind = config.get("model_kind", str, default=KIND)
    if kind != KIND or (folder / "layer_0.safetensors").is_file():
        raise UnsupportedError(
            f"{folder} holds {kind if kind != KIND else 'a set of transcoders'}: one dictionary of each "
            "layer",
            found=kind if kind != KIND else "layer_0.safetensors",
            expected=f"model_kind: {KIND}, with W_enc_0.safetensors",
            hint="only cross-layer transcoders of circuit-tracer can be imported",
        )
    one_of(folder, "W_enc_0.safetensors", tool=tool)
    found = {
        int(match[1])
        for file in folder.iterdir()
        if (match := re.fullmatch(r"W_enc_(\d+)\.safetensors", file.name))
    }
    missing = sorted(set(range(max(found) + 1)) - found)
    if missing:
        raise ConfigError(
            field="path",
            found=str(folder),
            problem=f"{folder} lacks W_enc_{missing[0]}.safetensors; it holds {listed(folder)}",
            expected=f"every layer from 0 to {max(found)}",
            hint="download the whole folder",
        )
    return len(found)


def _layer(
    folder: Path, layer: int, layers: int, tool: str
) -> tuple[dict[str, Tensor], tuple[Path, Path]]:
    """Return a layer's weights by our names, and the files they are from."""
    encoder = Weights.safetensors(one_of(folder, f"W_enc_{layer}.safetensors", tool=tool))
    decoder = Weights.safetensors(one_of(folder, f"W_dec_{layer}.safetensors", tool=tool))
    d_sae, d_in = encoder.shape(f"W_enc_{layer}")
    found = {
        "W_enc": encoder.take(f"W_enc_{layer}", d_sae, d_in).T.contiguous(),
        "b_enc": encoder.take(f"b_enc_{layer}", d_sae),
        "b_dec": encoder.take(f"b_dec_{layer}", d_in),
        "W_dec": decoder.take(f"W_dec_{layer}", d_sae, layers - layer, d_in),
    }
    if f"threshold_{layer}" in encoder:
        found["threshold"] = encoder.take(f"threshold_{layer}", d_sae)
    encoder.done()
    decoder.done()
    return found, (encoder.path, decoder.path)


def _thresholds(
    folder: Path, found: Sequence[Tensor], layers: int
) -> Float[Tensor, "layer feature"]:
    """Return the thresholds of all layers.

    Raises:
        ConfigError: Some layers have none.
        UnsupportedError: One is below zero, so that negative activations would be firings.
    """
    if len(found) < layers:
        raise ConfigError(
            file=str(folder),
            field="threshold",
            found=f"{len(found)} layers with thresholds",
            expected=f"all {layers}, or none",
            hint="files of different dictionaries",
        )
    together = torch.stack(list(found))
    if (together < 0).any():
        raise UnsupportedError(
            f"{int((together < 0).sum())} thresholds of {folder} are below zero: negative activations "
            "would be firings",
            found=f"{float(together.min()):.3g}",
            expected="thresholds of 0 or more",
            hint="set them to 0 if nothing was meant to fire below",
        )
    return together


def _places(config: Config, asked: Asked) -> tuple[int, str, str]:
    """Return which block layer 0 is, and where in a block features read and write.

    Raises:
        ConfigError: What the user says is no place in a block, or not the config's.
    """
    said = config.get("feature_input_hook", str, default=None)
    writes = config.get("feature_output_hook", str, default=WRITES)
    if asked.hookpoint is None:
        return 0, said or READS, writes
    match = _BLOCK.fullmatch(spelling.translated(asked.hookpoint) or asked.hookpoint)
    if match is None or said not in {None, match[2]}:
        raise ConfigError(
            field="hookpoint",
            found=asked.hookpoint,
            expected=f"what layer 0 reads, such as blocks.0.{said or READS}",
            hint="say the first of its hookpoints: the others follow, block by block",
        )
    return int(match[1]), match[2], writes


def _compute(tensors: Mapping[str, Tensor], rows: Float[Tensor, "row _"], layers: int) -> Computed:
    """Return what circuit-tracer computes from rows of all layers side by side."""
    w = {name: tensor.to(rows.dtype) for name, tensor in tensors.items()}
    written = [w[f"b_dec.{t}"].expand(len(rows), -1) for t in range(layers)]
    codes = []
    for s, own in enumerate(rows.chunk(layers, dim=1)):
        h = own @ w[f"W_enc.{s}"] + w[f"b_enc.{s}"]
        found = reference.above(h, w["threshold"][s]) if "threshold" in w else reference.relu(h)
        codes.append(found)
        for t in range(s, layers):
            written[t] = written[t] + found.values @ w[f"W_dec.{s}"][:, t - s]
    margins = [each.margin for each in codes if each.margin is not None]
    together = Codes(
        torch.cat([each.values for each in codes], dim=1),
        torch.cat(margins, dim=1) if margins else None,
    )
    return Computed(together, torch.cat(written, dim=1))


def _named(dictionary: SparseDictionary, tool: str) -> tuple[int, str, str]:
    """Return the first block that a dictionary reads, and where in a block it reads and writes.

    Raises:
        UnsupportedError: Its features do not read one place in each of successive blocks.
    """
    config = dictionary.config
    reads, writes = config.hookpoints_in, config.hookpoints_out
    found = [_BLOCK.fullmatch(hook) for hook in (*reads, *writes)]
    places = [(int(match[1]), match[2]) for match in found if match is not None]
    each = len(dictionary.layers)
    if len(places) == 2 * each and len(reads) == each and not set(reads) & set(writes):
        first = places[0][0]
        inside, outside = {name for _, name in places[:each]}, {name for _, name in places[each:]}
        blocks = [block for block, _ in places]
        if len(inside) == len(outside) == 1 and blocks == 2 * list(range(first, first + each)):
            return _plain(dictionary, tool, (first, inside.pop(), outside.pop()))
    raise UnsupportedError(
        f"{tool} has no counterpart of family {config.family!r} from {', '.join(reads)} to "
        f"{', '.join(writes)}",
        found=config.family,
        expected="features that read one place in each of successive blocks and write to another",
        hint="export a cross-layer transcoder of blocks that follow each other",
    )


def _plain(
    dictionary: SparseDictionary, tool: str, found: tuple[int, str, str]
) -> tuple[int, str, str]:
    """Return what was found, if its weights can say all that it computes.

    Raises:
        UnsupportedError: It has a skip or a GLU, transforms or attention, or rows normalised one by one.
    """
    options = dictionary.config.options
    kinds = {scale.record.kind for scale in dictionary.scales.values()} & ROW_SCALES
    others = [name for name in ("glu", "skip") if getattr(options, name)]
    if options.ranks is not None or options.attention is not None:  # a code alone does not decode
        others.append(f"family {dictionary.config.family!r}")
    if kinds or others:
        raise UnsupportedError(
            f"{tool} has no counterpart of {', '.join([*others, *sorted(kinds)])}",
            found=", ".join([*others, *sorted(kinds)]),
            expected="encoder and decoder matrices, and rows as they are",
            hint="export a cross-layer transcoder without it",
        )
    return found


def _above_thresholds(dictionary: SparseDictionary, tool: str) -> SparseDictionary:
    """Return a dictionary in float64 whose features each compare with a number.

    Raises:
        UnsupportedError: It ranks a row's features.
    """
    wide = copy.deepcopy(dictionary).cpu().double()
    kind: str = dictionary.config.semantics.activation.kind
    if kind == "relu":
        return wide
    try:
        return wide.as_jumprelu()
    except UnsupportedError as error:
        raise UnsupportedError(
            f"{tool} has no counterpart of activation {kind!r}: its cross-layer transcoders are ReLU or "
            "JumpReLU",
            found=kind,
            expected="one of relu, jumprelu, batchtopk, batchlayertopk",
            hint="train with activation.kind = 'batchtopk'",
        ) from error


def _files(dictionary: SparseDictionary) -> dict[str, dict[str, Any]]:
    """Return the tensors of each file of a dictionary in canonical form."""
    layers = [layer.features for layer in dictionary.layers]
    encoder, bias = dictionary.encoder_vectors(), dictionary.encoder_bias()
    thresholds, outputs = dictionary.thresholds(), dictionary.without_features({})
    decoders: list[list[Tensor]] = [[] for _ in layers]
    for t, hook in enumerate(dictionary.hookpoints_out):
        vectors = dictionary.decoder_vectors_at(hook).float()
        for s, own in enumerate(layers[: t + 1]):
            decoders[s].append(vectors[own])
    found: dict[str, dict[str, Any]] = {}
    for s, (own, hook) in enumerate(zip(layers, dictionary.hookpoints_out, strict=True)):
        tensors = {
            f"W_enc_{s}": encoder[own], f"b_enc_{s}": bias[own], f"b_dec_{s}": outputs[hook].detach()
        }  # fmt: skip
        if thresholds is not None:
            tensors[f"threshold_{s}"] = thresholds[own]
        found[f"W_enc_{s}.safetensors"] = {
            name: tensor.detach().float().contiguous() for name, tensor in tensors.items()
        }
        found[f"W_dec_{s}.safetensors"] = {f"W_dec_{s}": torch.stack(decoders[s], dim=1)}
    return found
