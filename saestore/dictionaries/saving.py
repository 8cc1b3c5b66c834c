"""Dictionaries on disk: `config.json` and `weights.safetensors`.

Saving is pure and byte-deterministic: the same dictionary gives the same bytes. Loading computes
exactly what training computed, or refuses and says why.
"""

import json
from collections.abc import Mapping

import torch
from pydantic import JsonValue, ValidationError
from torch import Tensor

from saestore.dictionaries import precision, tensor_file
from saestore.dictionaries.base import SparseDictionary
from saestore.dictionaries.families import FAMILIES
from saestore.dictionaries.scale import Scale
from saestore.errors import DamagedArtefactError, FormatVersionError, UnsupportedError
from saestore.fingerprint import canonical
from saestore.lake import Lake, Ref, Storage, checkpoint, layout, manifest as manifests
from saestore.lake.lock import writing
from saestore_schemas.dictionary import DictionaryConfig
from saestore_schemas.manifest import ArrayInfo


FORMAT = "saestore.dictionary"
FORMAT_VERSION = 1
METADATA = {"format": FORMAT, "format_version": str(FORMAT_VERSION)}
"""Stands in the header of `weights.safetensors`."""


def save(dictionary: SparseDictionary, folder: Storage) -> None:
    """Write config and weights into a folder.

    Raises:
        UnsupportedError: The weights have another type than the config says.
        StorageError: The folder cannot be written.
    """
    tensors = dictionary.tensors()
    for name, tensor in tensors.items():
        kind = precision.of_tensor(dictionary.config.dtype, name, tuple(tensor.shape))
        if tensor.dtype != kind:
            raise UnsupportedError(
                f"{name} is {tensor.dtype}; the config says {dictionary.config.dtype}",
                found=str(tensor.dtype),
                expected=str(kind),
                hint="convert the dictionary back before saving it, float32 with .float()",
            )
    for scale in dictionary.scales.values():
        if scale.record.mean is not None and scale.mean is not None:
            tensors[scale.record.mean] = scale.mean
    folder.write(layout.WEIGHTS, *tensor_file.parts(tensors, METADATA))
    folder.write(layout.CONFIG, (canonical(dictionary.config) + "\n").encode())


def keep(
    dictionary: SparseDictionary, lake: Lake, run: manifests.Run, *, facts: Mapping[str, JsonValue]
) -> None:
    """Write a dictionary that no training made, with its manifest; one that is there is left as it is.

    Args:
        dictionary: It.
        lake: Where.
        run: What made it.
        facts: What its manifest says of that.

    Raises:
        ArtefactExistsError: The name is taken by other settings.
        ArtefactBusyError: Another process is writing it.
    """
    artefact = lake.artefact(run.ref)
    with writing(artefact, name=run.ref.name):
        if manifests.begin(artefact, run) is None:
            save(dictionary, artefact)
            manifests.finish(
                artefact,
                run,
                arrays=arrays(dictionary),
                counts={"d_sae": dictionary.d_sae},
                facts=facts,
            )


def arrays(dictionary: SparseDictionary) -> dict[str, ArrayInfo]:
    """Return shape and type of each of its tensors, for its manifest."""
    return {
        name: ArrayInfo(shape=tuple(tensor.shape), dtype=str(tensor.dtype).rsplit(".")[-1])
        for name, tensor in dictionary.tensors().items()
    }


def load(lake: Lake, name: str) -> SparseDictionary:
    """Return a finished dictionary of the lake, or a checkpoint of one.

    Args:
        lake: The lake.
        name: `series/name`; of a checkpoint `series/name@step` or `series/name@latest`.

    Raises:
        ArtefactNotFoundError: There is none of that name.
        IncompleteArtefactError: It is still training.
        DamagedArtefactError: Its files are not what its manifest says.
        FormatVersionError: Another major version wrote it.
    """
    if checkpoint.named(name):
        return load_folder(checkpoint.find(lake, name, (layout.CONFIG, layout.WEIGHTS)))
    ref = Ref("dictionary", name)
    manifest = lake.manifest(ref)
    folder = lake.artefact(ref)
    files = manifests.read(folder, manifest, (layout.CONFIG, layout.WEIGHTS))
    return _assemble(files[layout.CONFIG], files[layout.WEIGHTS], name)


def load_folder(folder: Storage) -> SparseDictionary:
    """Return the dictionary in a folder, which need not be in a lake.

    Raises:
        DamagedArtefactError: A file is missing, unreadable, or not what the config says.
        FormatVersionError: Another major version wrote it.
    """
    missing = tuple(
        f"{path}: missing" for path in (layout.CONFIG, layout.WEIGHTS) if not folder.exists(path)
    )
    if missing:
        raise DamagedArtefactError(
            name=folder.url,
            damage=missing,
            hint="a dictionary's folder holds config.json and weights.safetensors",
        )
    return _assemble(folder.read(layout.CONFIG), folder.read(layout.WEIGHTS), folder.url)


def parse_config(data: bytes, name: str) -> DictionaryConfig:
    """Return the record in `config.json`.

    Raises:
        DamagedArtefactError: It is not a dictionary's config, or holds an unknown value.
        FormatVersionError: Another major version wrote it.
    """
    try:
        content = json.loads(data)
        found = content["format"], content["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise _foreign(name, f"{layout.CONFIG}: not a dictionary's config ({error!r})") from error
    if found[0] != FORMAT:
        raise _foreign(name, f"{layout.CONFIG}: format {found[0]!r}, expected {FORMAT!r}")
    if found[1] != FORMAT_VERSION:
        raise FormatVersionError(file=layout.CONFIG, found=found[1], supported=FORMAT_VERSION)
    try:
        return DictionaryConfig.model_validate_json(data)
    except ValidationError as error:
        damage = tuple(
            f"{layout.CONFIG}: {'.'.join(map(str, e['loc']))}: {e['msg']}, found {e['input']!r}"
            for e in error.errors()
        )
        raise DamagedArtefactError(
            name=name,
            damage=damage,
            hint="a newer release may know this value; otherwise restore the file",
        ) from error


def _assemble(config_bytes: bytes, weights: bytes, name: str) -> SparseDictionary:
    config = parse_config(config_bytes, name)
    try:
        tensors, metadata = tensor_file.parse(weights)
    except ValueError as error:
        raise _foreign(name, f"{layout.WEIGHTS}: {error}") from error
    if metadata.get("format") != FORMAT:
        raise _foreign(name, f"{layout.WEIGHTS}: its header does not say format {FORMAT!r}")
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise FormatVersionError(
            file=layout.WEIGHTS, found=metadata.get("format_version"), supported=FORMAT_VERSION
        )
    family = FAMILIES[config.family]
    widths = dict(zip(config.hookpoints_in, config.d_in, strict=True))
    widths.update(zip(config.hookpoints_out, config.d_out, strict=True))
    means = {
        record.mean: (widths[hook],)
        for hook, record in config.scale.items()
        if record.mean is not None
    }
    weights_like = {
        each: (shape, precision.of_tensor(config.dtype, each, shape))
        for each, shape in family.shapes(config).items()
    }
    means_like = {each: (shape, torch.float64) for each, shape in means.items()}
    _check(tensors, {**weights_like, **means_like}, name)
    scales = {
        hook: Scale(record, tensors.pop(record.mean) if record.mean is not None else None)
        for hook, record in config.scale.items()
    }
    return family.restore(config, scales, tensors)


def _check(
    tensors: dict[str, Tensor],
    expected: dict[str, tuple[tuple[int, ...], torch.dtype]],
    name: str,
) -> None:
    damage = [f"{each}: missing" for each in sorted(expected.keys() - tensors.keys())]
    damage += [f"{each}: unknown tensor" for each in sorted(tensors.keys() - expected.keys())]
    for each in sorted(expected.keys() & tensors.keys()):
        shape, dtype = expected[each]
        found = tensors[each]
        if tuple(found.shape) != shape or found.dtype != dtype:
            damage.append(
                f"{each}: {found.dtype} {list(found.shape)}, expected {dtype} {list(shape)}"
            )
        elif not torch.isfinite(found).all():
            damage.append(f"{each}: holds NaN or infinity")
    if damage:
        raise DamagedArtefactError(
            name=name, damage=tuple(f"{layout.WEIGHTS}: {line}" for line in damage)
        )


def _foreign(name: str, line: str) -> DamagedArtefactError:
    return DamagedArtefactError(
        name=name,
        damage=(line,),
        hint="not a saestore dictionary, or a damaged one: restore the file",
    )
