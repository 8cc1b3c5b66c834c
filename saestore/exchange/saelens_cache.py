"""Activations that SAELens 6 cached: a data set of Arrow files, one row for each context.

    <path>/state.json                      which files, in which order
    <path>/data-00000-of-00003.arrow       <hookpoint>: list<list<float>> [position, d], token_ids: list<int32>

The files are Arrow's stream format and are read as such, mapped; `datasets` is not needed. SAELens
keeps the corpus's order in these files (`shuffle` in its settings concerns the copy it pushes to the
hub) and no mask, so special tokens are flagged by their ids alone.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from saestore.corpus.files import Found
from saestore.errors import ConfigError
from saestore.exchange import place, spelling, tensors
from saestore.exchange.source import About, Part, Rows
from saestore_schemas.exchange import SaeLensActivations


STATE = "state.json"
CONFIG = "cache_activations_runner_cfg.json"
"""The runner's settings; SAELens puts them on the hub only."""
_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""How a whole Arrow stream ends."""
_TYPES = {"halffloat": "float16", "float": "float32", "double": "float64"}


class SaeLensCache:
    """One cached data set.

    Attributes:
        about: What it holds.
    """

    def __init__(self, settings: SaeLensActivations, wanted: Sequence[str]) -> None:
        """Read the files' schemas and lengths.

        Raises:
            ConfigError: The folder is no such data set, or not a whole one.
            HookpointNotFoundError: It has no such column.
        """
        self._root = place.folder(settings.path)
        self._files = _files(self._root)
        self._tables = lru_cache(maxsize=1)(_table)
        schema = self._tables(self._files[0]).schema
        available = {
            each.name: kind
            for each in schema
            if (kind := _numbers(each.type, depth=2)) is not None and kind in _TYPES
        }
        self._tokens = settings.tokens if settings.tokens in schema.names else None
        if self._tokens is None and "tokens" in settings.model_fields_set:
            raise self._wrong(f"has no column {settings.tokens!r}", schema)
        if not available:
            raise self._wrong("has no column of activations", schema)
        self._names = spelling.chosen(wanted, tuple(available), where=str(self._root))
        parts, widths = [], dict[str, set[int]]()
        for path in self._files:
            table = self._tables(path)
            if table.schema.remove_metadata() != schema.remove_metadata():
                raise self._wrong(f"has other columns in {path.name}", table.schema)
            if not table.num_rows:
                continue
            longest = 0
            for ours, theirs in self._names.items():
                lengths, width = _shape(table.column(theirs), path, theirs)
                widths.setdefault(ours, set()).update(width)
                longest = max(longest, int(lengths.max()))
            parts.append(Part(path.stem, table.num_rows, longest))
        if not parts:
            raise self._wrong("holds no rows", schema)
        self._parts = [path for path in self._files if self._tables(path).num_rows]
        uneven = [ours for ours, found in widths.items() if len(found) != 1]
        if uneven:
            raise self._wrong(f"has rows of unequal width in {self._names[uneven[0]]!r}", schema)
        known = self._runner()
        self.about = About(
            origin=self._root.name,
            files=tuple(
                Found(path, f"{self._root.name}/{path.name}")
                for path in (self._root / STATE, *self._files)
            ),
            widths={ours: next(iter(found)) for ours, found in widths.items()},
            theirs=self._names,
            dtype=place.one_dtype(
                {_TYPES[available[theirs]] for theirs in self._names.values()},
                where=str(self._root),
            ),
            parts=tuple(parts),
            flat=False,
            has_tokens=self._tokens is not None,
            facts={"tool": "sae-lens", "tool_version": None, "runner": known},
            notes=_notes(known),
        )

    def read(self, part: int, start: int, stop: int) -> Rows:
        """Return contexts start to stop of a file.

        Raises:
            ConfigError: Columns have contexts of different lengths.
        """
        path = self._parts[part]
        table = self._tables(path).slice(start, stop - start)
        hooks, lengths = {}, None
        for ours, theirs in self._names.items():
            found, _ = _shape(table.column(theirs), path, theirs)
            if lengths is not None and not np.array_equal(lengths, found):
                raise self._uneven(path, theirs)
            lengths = found
            width = self.about.widths[ours]
            hooks[ours] = _flat(table.column(theirs), depth=2).reshape(-1, width)
        if lengths is None:
            raise RuntimeError("a source without hookpoints")
        tokens = None
        if self._tokens is not None:
            tokens = _flat(table.column(self._tokens), depth=1)
            if len(tokens) != lengths.sum():
                raise self._uneven(path, self._tokens)
        return Rows(hooks=hooks, lengths=lengths, tokens=tokens)

    def _runner(self) -> dict[str, Any] | None:
        path = self._root / CONFIG
        try:
            found = json.loads(path.read_bytes()) if path.exists() else None
        except ValueError:
            return None  # it only informs
        return found if isinstance(found, dict) else None

    def _uneven(self, path: Path, column: str) -> ConfigError:
        return ConfigError(
            file=str(path),
            field="source.path",
            problem=f"{column!r} has contexts of other lengths than the columns beside it",
            expected="one token and one activation of each hookpoint for each position",
            hint="choose columns that belong together with --hookpoint and source.tokens",
        )

    def _wrong(self, problem: str, schema: pa.Schema) -> ConfigError:
        columns = ", ".join(f"{each.name}: {_storage(each.type)}" for each in schema)
        return ConfigError(
            file=str(self._root),
            field="source.path",
            problem=problem,
            expected="activations as list<list<float>> [position, d], token ids as list<int32>",
            hint=f"it has {columns}",
        )


def _notes(runner: dict[str, Any] | None) -> tuple[str, ...]:
    if runner is not None and runner.get("shuffle"):
        return ("its contexts were shuffled when it was pushed to the hub",)
    return ()


def _files(root: Path) -> list[Path]:
    """Return the Arrow files in order, each whole."""
    state = root / STATE
    if not state.exists():
        raise ConfigError(
            field="source.path",
            problem=f"{root} has no {STATE}",
            expected="a data set that SAELens cached, or that save_to_disk wrote",
            hint=_instead(root),
        )
    try:
        found = json.loads(state.read_bytes())
        names = [str(each["filename"]) for each in found["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise tensors.torn(state, f"cannot be read ({error})") from error
    if found.get("_indices_files") or found.get("_indices_data_files"):
        raise ConfigError(
            field="source.path",
            problem=f"{root} is a selection of rows kept in an index of its own",
            expected="rows that lie in their order",
            hint="write it anew: load_from_disk(PATH).flatten_indices().save_to_disk(OTHER)",
        )
    paths = [root / name for name in names]
    for path in paths:
        if not path.exists():
            raise tensors.torn(path, f"is missing, though {STATE} lists it")
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - len(_END), 0))
            if file.read() != _END:
                raise tensors.torn(path, "does not end as an Arrow stream does")
    if not paths:
        raise ConfigError(
            field="source.path",
            problem=f"{root} lists no files",
            expected="at least one Arrow file",
            hint="SAELens writes the list last: a run that was stopped leaves none; run it again",
        )
    return paths


def _instead(root: Path) -> str:
    if (root / "dataset_dict.json").exists():
        return f"it holds splits: name one, such as {root / 'train'}"
    if (root / ".tmp_shards").exists():
        return "SAELens was stopped while it wrote this cache: run it again"
    if any(root.glob("**/*.parquet")):
        return (
            "it holds Parquet, as the hub gives it: "
            "datasets.load_dataset(PATH, split='train').save_to_disk(FOLDER), then import FOLDER"
        )
    return f"it holds {place.listed(root)}"


def _table(path: Path) -> pa.Table:
    """Return a file's rows, mapped."""
    try:
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as reader:
            return reader.read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise tensors.torn(path, f"cannot be read ({error})") from error


def _storage(kind: pa.DataType) -> pa.DataType:
    """Return what an extension type is stored as: `datasets` registers some, if it is imported."""
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _numbers(kind: pa.DataType, *, depth: int) -> str | None:
    """Return the type of the numbers in lists of that depth; None if it is something else."""
    kind = _storage(kind)
    for _ in range(depth):
        if not isinstance(kind, (pa.ListType, pa.LargeListType, pa.FixedSizeListType)):
            return None
        kind = kind.value_type
    return str(kind)


def _lists(column: "pa.ChunkedArray[Any]") -> list[Any]:
    return [each.storage if isinstance(each, pa.ExtensionArray) else each for each in column.chunks]


def _shape(
    column: "pa.ChunkedArray[Any]", path: Path, name: str
) -> tuple[Int64[np.ndarray, " context"], set[int]]:
    """Return the length of each context and the widths of its rows, of which there should be one."""
    lengths, widths = [], set[int]()
    for each in _lists(column):
        inner = each.flatten()
        if each.null_count or inner.null_count:
            raise tensors.torn(path, f"has contexts or rows of {name!r} that are null")
        lengths.append(each.value_lengths().to_numpy(zero_copy_only=False))
        widths.update(int(n) for n in np.unique(inner.value_lengths()))
    return np.concatenate(lengths).astype(np.int64), widths


def _flat(column: "pa.ChunkedArray[Any]", *, depth: int) -> np.ndarray:
    """Return all numbers of a column one after the other."""
    found = []
    for each in _lists(column):
        values = each
        for _ in range(depth):
            values = values.flatten()
        found.append(values.to_numpy(zero_copy_only=False))
    return np.concatenate(found)
