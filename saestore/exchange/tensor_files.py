"""Activations in safetensors files: ours, which are whole stores again, or anybody's.

An export of ours has an `index.json` and everything a store holds beside the activations: tokens,
flags, contexts, segments, documents and vocabulary. Other files need only name their tensors.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from saestore.corpus.files import Found
from saestore.errors import ConfigError
from saestore.exchange import place, spelling, tensors
from saestore.exchange.source import About, Part, Rows, contexts_of
from saestore.exchange.tensors import InFile
from saestore.lake import table_file
from saestore_schemas.exchange import ExportIndex, SafetensorsActivations
from saestore_schemas.tables import DOCUMENTS


SUFFIX = ".safetensors"
INDEX = place.INDEX
TOKENS, FLAGS, CONTEXTS, SEGMENTS, MASK = "tokens", "flags", "contexts", "segments", "mask"
_OPEN = 64


class TensorFiles:
    """The files of one folder, read in order.

    Attributes:
        about: What they hold.
    """

    def __init__(self, settings: SafetensorsActivations, wanted: Sequence[str]) -> None:
        """Read the headers.

        Raises:
            ConfigError: A file is no such file, not whole, or does not fit the others.
            HookpointNotFoundError: They have no such tensor.
        """
        self._settings = settings
        root = place.existing(settings.path)
        self._index = _index(root)
        self._paths = _paths(root, self._index)
        self._opened = lru_cache(maxsize=_OPEN)(tensors.safetensors)
        self._contexts = lru_cache(maxsize=_OPEN)(_contexts)
        first = self._opened(self._paths[0])
        captured = () if self._index is None else self._index.record.capture
        beside = {settings.tokens, settings.mask, FLAGS, CONTEXTS, SEGMENTS, *captured}
        available = tuple(
            name
            for name, each in first.items()
            if name not in beside and each.dtype in {"float16", "bfloat16", "float32", "float64"}
        )
        if "tokens" in settings.model_fields_set and settings.tokens not in first:
            raise self._wrong(self._paths[0], f"has no tensor {settings.tokens!r}", first)
        if not available:
            raise self._wrong(self._paths[0], "has no tensor of activations", first)
        self._names = spelling.chosen(wanted, available, where=str(root))
        parts = [self._part(path, first) for path in self._paths]
        self._flat = all(flat for _, flat in parts)
        if not self._flat and any(flat for _, flat in parts):
            raise self._wrong(root, "has contexts in some files and none in others", first)
        self.about = About(
            origin=root.name,
            files=tuple(_files(root, self._paths, self._index)),
            widths={ours: first[theirs].shape[-1] for ours, theirs in self._names.items()},
            theirs=self._names,
            dtype=place.one_dtype(
                {first[theirs].dtype for theirs in self._names.values()}, where=str(root)
            ),
            parts=tuple(part for part, _ in parts),
            flat=self._flat,
            has_tokens=settings.tokens in first,
            has_flags=self._index is not None and FLAGS in first,
            captured=captured,
            **self._ours(root),
        )

    def read(self, part: int, start: int, stop: int) -> Rows:
        """Return contexts start to stop of a file; rows, where it has no contexts."""
        path = self._paths[part]
        found = self._opened(path)
        segments = None
        if CONTEXTS in found:
            table = self._contexts(found[CONTEXTS])[start:stop]
            lengths = table[:, 1]
            here = int(table[0, 0]), int(table[-1].sum())
            segments = self._segments(found, start, stop)
        else:
            length = 1 if self._flat else self.about.parts[part].longest
            lengths = np.full(stop - start, length, np.int64)
            here = start * length, stop * length

        def rows(name: str) -> np.ndarray | None:
            if name not in found:
                return None
            return found[name].merged(len(found[name].shape)).read(*here)

        mask = rows(self._settings.mask)
        return Rows(
            hooks={
                ours: found[theirs].merged(len(found[theirs].shape) - 1).read(*here)
                for ours, theirs in self._names.items()
            },
            lengths=lengths,
            tokens=rows(self._settings.tokens),
            mask=None if mask is None else mask != 0,
            flags=rows(FLAGS) if self._index is not None else None,
            segments=segments,
            captured={n: each for n in self.about.captured if (each := rows(n)) is not None},
        )

    def _segments(self, found: Mapping[str, InFile], start: int, stop: int) -> np.ndarray | None:
        if SEGMENTS not in found:
            return None
        table = self._contexts(found[SEGMENTS])
        table = table[(table[:, 0] >= start) & (table[:, 0] < stop)].copy()
        table[:, 0] -= start
        return table

    def _part(self, path: Path, first: Mapping[str, InFile]) -> tuple[Part, bool]:
        """Return a file as a part, and whether it has no contexts."""
        found = self._opened(path)
        shapes = set()
        for theirs in self._names.values():
            here, there = found.get(theirs), first[theirs]
            if here is None:
                raise self._wrong(path, f"has no tensor {theirs!r}", found)
            if (here.shape[-1], here.dtype) != (there.shape[-1], there.dtype):
                raise self._wrong(
                    path,
                    f"holds {theirs!r} as {here.dtype} of width {here.shape[-1]}, and "
                    f"{self._paths[0].name} as {there.dtype} of width {there.shape[-1]}",
                    found,
                )
            shapes.add(here.shape[:-1])
        if len(shapes) != 1:
            raise self._wrong(path, "has different rows at different hookpoints", found)
        if (self._settings.tokens in found) != (self._settings.tokens in first):
            raise self._wrong(path, "has tokens, or lacks them, unlike the first file", found)
        shape = (*next(iter(shapes)), 1)
        if CONTEXTS in found and self._index is not None:
            table = self._contexts(found[CONTEXTS])
            return Part(path.stem, len(table), int(table[:, 1].max())), False
        beside = [
            found[n].shape for n in (self._settings.tokens, self._settings.mask) if n in found
        ]
        said = [contexts_of(shape, each, where=str(path)) for each in (None, *beside)]
        spoken = next((each for each in said if each is not None), None)
        if spoken is None:
            return Part(path.stem, shape[0], 1), True
        return Part(path.stem, spoken[0], spoken[1]), False

    def _ours(self, root: Path) -> dict[str, Any]:
        """Return what an export of ours says beside the activations."""
        if self._index is None:
            return {}
        documents, vocabulary = (
            table_file.from_bytes((root / name).read_bytes())
            for name in (self._index.documents, self._index.vocabulary)
        )
        own = set(DOCUMENTS.schema().names)
        return {
            "documents": documents,
            "vocabulary": vocabulary,
            "metadata": pa.schema([each for each in documents.schema if each.name not in own]),
            "lm": self._index.record.lm,
            "facts": {
                "tool": "saestore",
                "tool_version": self._index.saestore,
                "exported_from": self._index.store,
                "exported_fingerprint": self._index.fingerprint,
            },
        }

    def _wrong(self, path: Path, problem: str, found: Mapping[str, InFile]) -> ConfigError:
        has = ", ".join(f"{name} {each.dtype} {list(each.shape)}" for name, each in found.items())
        return ConfigError(
            file=str(path),
            field="source.path",
            problem=problem,
            expected="the same tensors in every file: activations [row, d] or "
            "[context, position, d], and tokens",
            hint=f"it has {has}" if has else "it has no tensors",
        )


def _contexts(table: InFile) -> np.ndarray:
    return table.read(0, table.shape[0])


def _index(root: Path) -> ExportIndex | None:
    """Return the index of an export of ours, or None."""
    path = root / INDEX
    if not root.is_dir() or not path.exists():
        return None
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        return None
    if (
        not isinstance(found, dict)
        or found.get("format") != ExportIndex.model_fields["format"].default
    ):
        return None
    try:
        return ExportIndex.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise tensors.torn(path, f"cannot be read ({where}: {first['msg']})") from error


def _paths(root: Path, index: ExportIndex | None) -> list[Path]:
    if root.is_file():
        return [root]
    if index is not None:
        for each in index.files:
            path = root / each.path
            if not path.exists() or path.stat().st_size != each.bytes:
                size = path.stat().st_size if path.exists() else "no"
                raise tensors.torn(path, f"has {size} bytes, and {INDEX} says {each.bytes}")
        return [root / each.path for each in index.files]
    found = sorted(each for each in root.iterdir() if each.suffix == SUFFIX)
    if not found:
        raise ConfigError(
            field="source.path",
            problem=f"{root} holds no safetensors files",
            expected=f"files ending in {SUFFIX}",
            hint=f"it holds {place.listed(root)}",
        )
    return found


def _files(root: Path, paths: Sequence[Path], index: ExportIndex | None) -> list[Found]:
    found = [Found(path, path.name) for path in paths]
    if index is not None:
        names = (INDEX, index.documents, index.vocabulary)
        found += [Found(root / name, name) for name in names]
    return found
