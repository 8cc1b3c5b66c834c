"""Hugging Face data sets: by hub name, from a `save_to_disk` folder, or streamed.

A local path is never looked up on the hub, and no socket is opened for one. On the hub the files'
addresses hold the commit, so the fingerprint changes when the data does.
"""

import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from saestore.corpus import columns, files
from saestore.corpus.documents import Document, Position, Reading
from saestore.errors import ConfigError, MissingExtraError, nearest
from saestore.fingerprint import fingerprint
from saestore_schemas.corpus import DatasetSource


_BUILDERS = {
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".csv": "csv",
    ".txt": "text",
}
_PEEK = 100
"""Rows read to learn the types of metadata columns when the data set does not say them."""


class DatasetDocuments:
    """The rows of one split, in the data set's order."""

    def __init__(self, settings: DatasetSource, field: str) -> None:
        self._settings = settings
        self._field = field
        self._path = Path(settings.path).expanduser()
        self._rows, self._identity = self._open()
        self._check()

    @property
    def fingerprint(self) -> str:
        """Digest of the files (local) or their addresses with commit (hub), and what is read."""
        s = self._settings
        return fingerprint(
            "dataset", s.subset, s.split, s.field, s.id_field, s.metadata, self._identity
        )

    @property
    def metadata(self) -> pa.Schema:
        """Types as the data set declares them, or as its first rows show them."""
        names = self._settings.metadata
        if self._rows.features is None:
            return columns.infer(names, islice(iter(self._rows), _PEEK))
        declared = self._rows.features.arrow_schema
        return pa.schema([pa.field(name, declared.field(name).type) for name in names])

    def documents(self, start: int = 0, *, position: Position = None) -> Reading:
        """Read one document per row.

        A streamed data set begins, at a position, with the file that holds the batch before it.

        Raises:
            ConfigError: A row's text is not text.
        """
        if hasattr(self._rows, "__len__"):
            size = len(self._rows)
            rows = self._rows.select(range(start, size)) if start < size else ()
            return Reading(self._documents(rows, start), lambda: None)
        streamed = copy.deepcopy(self._rows)  # where it is stands in the object itself
        if position is not None:
            streamed.load_state_dict(position)
        rows = islice(iter(streamed), start if position is None else 0, None)
        return Reading(self._documents(rows, start), lambda: _state(streamed))

    def _documents(self, rows: Iterable[Mapping[str, Any]], start: int) -> Iterator[Document]:
        s = self._settings
        for number, row in enumerate(rows, start):
            where = f"{s.path}, row {number}"
            yield Document(
                id=str(number) if s.id_field is None else str(row[s.id_field]),
                source=f"dataset:{s.path}",
                text=columns.text_of(row[s.field], field=f"{self._field}.field", file=where),
                metadata={name: row[name] for name in s.metadata},
            )

    def _check(self) -> None:
        s = self._settings
        known = self._rows.column_names or list(next(iter(self._rows), {}))
        wanted: list[str] = []
        for setting, names in (
            ("field", (s.field,)),
            ("id_field", () if s.id_field is None else (s.id_field,)),
            ("metadata", s.metadata),
        ):
            columns.require(names, known, field=f"{self._field}.{setting}", file=s.path)
            wanted.extend(names)
        self._rows = self._rows.select_columns(list(dict.fromkeys(wanted)))

    def _open(self) -> tuple[Any, str]:
        s = self._settings
        try:
            import datasets  # noqa: PLC0415 - seconds, and only this source needs it
        except ImportError as error:
            raise MissingExtraError(
                package="datasets", extra="model", purpose="a corpus of kind 'dataset'"
            ) from error
        with _quiet(datasets, local=self._path.exists()):
            try:
                if (self._path / "dataset_dict.json").exists() or (
                    self._path / "state.json"
                ).exists():
                    return self._saved(datasets), self._local_digest()
                builder = self._builder(datasets)
                if s.streaming:
                    rows = builder.as_streaming_dataset(split=s.split)
                else:
                    builder.download_and_prepare()
                    rows = builder.as_dataset(split=s.split)
            except (OSError, ValueError, KeyError) as error:
                if isinstance(error, ConfigError):
                    raise
                raise ConfigError(
                    field=f"{self._field}.path",
                    found=s.path,
                    expected="a local folder, or a data set on the hub with this subset and split",
                    hint=f"{type(error).__name__}: {_first_line(error)}",
                ) from error
        return rows, self._local_digest() if self._path.exists() else _addresses(builder)

    def _builder(self, datasets: Any) -> Any:
        s = self._settings
        if not self._path.exists():
            return datasets.load_dataset_builder(s.path, s.subset, revision=s.revision)
        if self._path.is_dir():
            return datasets.load_dataset_builder(str(self._path), s.subset)
        kind = _BUILDERS.get(Path(self._path.name.removesuffix(".gz")).suffix, "text")
        return datasets.load_dataset_builder(kind, data_files={s.split: str(self._path)})

    def _saved(self, datasets: Any) -> Any:
        s = self._settings
        saved = datasets.load_from_disk(str(self._path))
        if isinstance(saved, Mapping):
            splits = list(saved)
            chosen = saved.get(s.split)
        else:
            splits = [str(saved.split)] if saved.split else [s.split]
            chosen = saved if s.split in splits or "split" not in s.model_fields_set else None
        if chosen is None:
            close = nearest(s.split, splits)
            raise ConfigError(
                file=s.path,
                field=f"{self._field}.split",
                found=s.split,
                expected=f"one of {', '.join(splits)}",
                hint=f"did you mean {close[0]}?" if close else f"set split = '{splits[0]}'",
            )
        return chosen

    def _local_digest(self) -> str:
        if self._path.is_file():
            return files.digest([files.Found(self._path, self._path.name)])
        return files.digest(files.find(str(self._path), ("",), field=self._field))


def _state(rows: Any) -> Position:
    """Return where a streamed data set is, if its parts can say so as JSON."""
    try:
        state: Position = json.loads(json.dumps(rows.state_dict()))
    except (AttributeError, NotImplementedError, TypeError):
        return None
    return state


def _addresses(builder: Any) -> str:
    splits = builder.config.data_files or {}
    return fingerprint({split: [str(each) for each in found] for split, found in splits.items()})


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]


@contextmanager
def _quiet(datasets: Any, *, local: bool) -> Iterator[None]:
    """Draw no bars; for a local path, count no download on the hub, which would need a socket."""
    counted, drawn = (
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS,
        not datasets.utils.are_progress_bars_disabled(),
    )
    datasets.utils.disable_progress_bars()
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = counted and not local
    try:
        yield
    finally:
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = counted
        if drawn:
            datasets.utils.enable_progress_bars()
