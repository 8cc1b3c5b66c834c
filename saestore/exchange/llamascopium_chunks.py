"""Activation chunks of llamascopium 2.0 and lm-saes: one folder of files for each hookpoint.

    <path>/<hookpoint>/chunk-%08d.safetensors          also shard-{s}-chunk-…, and .pt
    <path>/<hookpoint>/chunk-%08d.meta.json            of each context, where contexts were written

Nothing there says what belongs together or whether it is whole, so it is inferred and checked: a
file's size against its header, the same chunks in every folder, the same tokens in all of them, and
no chunk of an older run behind the last one of this run.

The mask is 0 at padding and at BOS alike. The masked rows at the end of a context are padding; a
masked row before an unmasked one is kept and flagged special. For models whose BOS, EOS and padding
are one token, a real EOS at the very end of a context looks like padding and is taken for it.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped

from saestore.corpus import columns
from saestore.corpus.files import Found
from saestore.errors import ConfigError
from saestore.exchange import place, spelling, tensors
from saestore.exchange.source import About, Part, Rows
from saestore.exchange.tensors import Tensor
from saestore_schemas.activations import FLAG_SPECIAL
from saestore_schemas.exchange import LlamascopiumActivations


ACTIVATION, TOKENS, MASK, ATTENTION, META = (
    "activation", "tokens", "mask", "attention_mask", "meta",
)  # fmt: skip
NAME = re.compile(r"(?:shard-(\d+)-)?chunk-(\d+)\.(safetensors|pt)")
"""A chunk's file; without a shard it is of shard 0."""
TOLERANCE_S = 2.0
"""How much older than its shard's first chunk a chunk may be: writers have several threads."""
_OPEN = 64
"""Headers kept; `.pt` files stay mapped that long."""
_CONTEXT, _DATASET = "context_idx", "dataset_name"


@dataclass(frozen=True, order=True)
class Chunk:
    """One chunk of one hookpoint."""

    shard: int
    number: int
    path: Path

    @property
    def key(self) -> tuple[int, int]:
        """What it has in common with the same chunk of other hookpoints."""
        return self.shard, self.number

    def open(self) -> dict[str, Any]:
        """Return its tensors and meta records; the numbers are not read.

        Raises:
            ConfigError: It is not whole, or no such file.
        """
        if self.path.suffix == ".pt":
            from saestore.exchange import weights_only  # noqa: PLC0415 - torch, and .pt is rare

            return weights_only.load(self.path)
        found: dict[str, Any] = dict(tensors.safetensors(self.path))
        sidecar = self.path.with_suffix(".meta.json")
        if sidecar.exists():
            try:
                found[META] = json.loads(sidecar.read_bytes())
            except ValueError as error:
                raise tensors.torn(sidecar, f"is not JSON ({error})") from error
        return found


class LlamascopiumChunks:
    """The chunks of one run.

    Attributes:
        about: What they hold.
    """

    def __init__(self, settings: LlamascopiumActivations, wanted: Sequence[str]) -> None:
        """Read the headers of all chunks.

        Raises:
            ConfigError: The folder is not such a set, or not a whole one.
            HookpointNotFoundError: It has no such hookpoint.
        """
        self._settings = settings
        root = place.folder(settings.path)
        folders = _folders(root)
        names = spelling.chosen(wanted, tuple(folders), where=str(root))
        self._chunks = {
            ours: _chunks(folders[theirs], limit=settings.chunks) for ours, theirs in names.items()
        }
        _same_chunks({names[ours]: chunks for ours, chunks in self._chunks.items()})
        first = next(iter(self._chunks.values()))
        self._opened = lru_cache(maxsize=_OPEN)(Chunk.open)
        shapes = [self._shape(number) for number in range(len(first))]
        self._flat = shapes[0][0] == 1
        samples = self._samples(0) or []
        extra = sorted({key for each in samples for key in each} - {_CONTEXT, _DATASET})
        metadata = columns.infer(extra, samples)
        if settings.stale == "refuse":
            _not_older(first)
            self._not_repeated()
        parts = tuple(
            Part(chunk.path.stem, shape[1], 1 if self._flat else shape[2])
            for chunk, shape in zip(first, shapes, strict=True)
        )
        kinds = {self._open(ours, 0)[ACTIVATION].dtype for ours in names}
        self.about = About(
            origin=root.name,
            files=tuple(_files(root, self._chunks.values())),
            widths={ours: self._open(ours, 0)[ACTIVATION].shape[-1] for ours in names},
            theirs=names,
            dtype=place.one_dtype(kinds, where=str(root)),
            parts=parts,
            flat=self._flat,
            has_tokens=True,
            masked=FLAG_SPECIAL,
            metadata=metadata,
            facts={"tool": "llamascopium or lm-saes", "tool_version": None},
            notes=self._notes(first),
        )

    def read(self, part: int, start: int, stop: int) -> Rows:
        """Return contexts start to stop of a chunk; rows, where they were filtered and mixed.

        Raises:
            ConfigError: The tokens of two hookpoints differ, or a file changed meanwhile.
        """
        hooks: dict[str, Shaped[np.ndarray, "row d"]] = {}
        first = next(iter(self._chunks))
        tokens = self._rows(first, part, TOKENS, start, stop)
        for ours in self._chunks:
            values = self._tensor(ours, part, ACTIVATION).read(start, stop)
            hooks[ours] = values.reshape(-1, values.shape[-1])
            if ours != first and not np.array_equal(
                tokens, self._rows(ours, part, TOKENS, start, stop)
            ):
                raise self._other_tokens(first, ours, part)
        length = 1 if self._flat else self.about.parts[part].longest
        samples = None if self._flat else self._samples(part)
        return Rows(
            hooks=hooks,
            lengths=np.full(stop - start, length, np.int64),
            tokens=tokens,
            mask=self._used(first, part, MASK, start, stop),
            attention=self._used(first, part, ATTENTION, start, stop),
            samples=None if samples is None else [self._sample(s) for s in samples[start:stop]],
        )

    def _sample(self, record: Mapping[str, Any]) -> dict[str, Any]:
        found = {
            each.name: columns.fitted(
                each.name, each.type, record.get(each.name), where=str(self._settings.path),
                setting="source.path",
            )
            for each in self.about.metadata
        }  # fmt: skip
        if _CONTEXT in record:
            found["document_id"] = str(record[_CONTEXT])
        if _DATASET in record:
            found["source"] = str(record[_DATASET])
        return found

    def _open(self, ours: str, part: int) -> dict[str, Any]:
        return self._opened(self._chunks[ours][part])

    def _tensor(self, ours: str, part: int, name: str) -> Tensor:
        found: Tensor = self._open(ours, part)[name]
        axes = len(found.shape) - (1 if name == ACTIVATION else 0)
        return found.merged(axes if self._flat else axes - 1)

    def _rows(
        self, ours: str, part: int, name: str, start: int, stop: int
    ) -> Shaped[np.ndarray, " row"]:
        return self._tensor(ours, part, name).read(start, stop).reshape(-1)

    def _used(
        self, ours: str, part: int, name: str, start: int, stop: int
    ) -> Bool[np.ndarray, " row"] | None:
        if name not in self._open(ours, part):
            return None
        return np.asarray(self._rows(ours, part, name, start, stop) != 0)

    def _samples(self, part: int) -> list[dict[str, Any]] | None:
        first = next(iter(self._chunks))
        found = self._open(first, part).get(META)
        while found and isinstance(found[0], list):  # samples that were stacked
            found = [each for some in found for each in some]
        return found or None

    def _shape(self, part: int) -> tuple[int, int, int]:
        """Return of a chunk: 1 if it is rows and 2 if contexts, how many, and how long they are."""
        leads = {ours: self._lead(chunks, part) for ours, chunks in self._chunks.items()}
        first = next(iter(leads))
        for ours, lead in leads.items():
            if lead != leads[first]:
                raise _wrong(
                    self._chunks[ours][part].path,
                    f"holds {list(lead)} rows, and {self._chunks[first][part].path} "
                    f"{list(leads[first])}",
                    "the folders are of different runs: import them one by one",
                )
        return self._counted(part, leads[first])

    def _lead(self, chunks: Sequence[Chunk], part: int) -> tuple[int, ...]:
        """Return the shape of a chunk without its width, checked against what belongs to it."""
        path = chunks[part].path
        try:
            found = self._opened(chunks[part])
        except ConfigError as error:
            if "is not whole" in str(error) and part:
                error.hint = (
                    "the writer was stopped there: write it again, or import the chunks before it "
                    f"with --set source.chunks={part}"
                )
            raise
        missing = [name for name in (ACTIVATION, TOKENS) if name not in found]
        if missing:
            raise _wrong(path, f"has no {missing[0]!r}", f"it holds {', '.join(sorted(found))}")
        here, first = found[ACTIVATION], self._opened(chunks[0])[ACTIVATION]
        lead: tuple[int, ...] = here.shape[:-1]
        for name in (TOKENS, MASK, ATTENTION):
            if name in found and found[name].shape != lead:
                raise _wrong(
                    path,
                    f"has {name} of shape {list(found[name].shape)} beside activations of shape "
                    f"{list(here.shape)}",
                    "it was not written by llamascopium",
                )
        if (first.shape[-1], first.dtype) != (here.shape[-1], here.dtype):
            raise _wrong(
                path,
                f"holds {here.dtype} of width {here.shape[-1]}, and {chunks[0].path.name} "
                f"{first.dtype} of width {first.shape[-1]}",
                "chunks of two runs lie in one folder: remove those of the older one, or import "
                f"the chunks before it with --set source.chunks={part}",
            )
        return lead

    def _counted(self, part: int, lead: tuple[int, ...]) -> tuple[int, int, int]:
        axes = self._settings.axes
        path = next(iter(self._chunks.values()))[part].path
        if axes == "auto":
            if len(lead) > 1 and self._samples(part) is None:
                raise ConfigError(
                    file=str(path),
                    field="source.axes",
                    problem=f"{list(lead)} may be contexts, or rows that were stacked: there is no "
                    "meta record that says so",
                    expected="contexts or rows",
                    hint="say which: --set source.axes=contexts, or --set source.axes=rows",
                )
            axes = "contexts" if len(lead) > 1 else "rows"
        count = int(np.prod(lead, dtype=np.int64))
        if count == 0:
            raise _wrong(path, "holds no rows", "remove it, or leave it out with source.chunks")
        if axes == "rows":
            return 1, count, 1
        if len(lead) == 1:
            raise _wrong(path, "holds rows without contexts", "set source.axes to rows")
        samples = self._samples(part)
        if samples is not None and len(samples) != count // lead[-1]:
            raise _wrong(
                path,
                f"holds {count // lead[-1]} contexts, and its meta record {len(samples)}",
                "the record is of another run: remove it, or import without this chunk",
            )
        return 2, count // lead[-1], lead[-1]

    def _not_repeated(self) -> None:
        """Refuse contexts that an earlier chunk of the shard had already."""
        seen: dict[tuple[int, str], int] = {}
        for part, chunk in enumerate(next(iter(self._chunks.values()))):
            for each in self._samples(part) or ():
                number, key = each.get(_CONTEXT), (chunk.shard, str(each.get(_DATASET)))
                if not isinstance(number, int):
                    continue
                if number <= seen.get(key, -1):
                    raise _stale(chunk, f"repeats context {number} of {key[1]}", part)
                seen[key] = number

    def _other_tokens(self, first: str, ours: str, part: int) -> ConfigError:
        return ConfigError(
            file=str(self._chunks[ours][part].path),
            field="hookpoints",
            problem=f"its tokens are not those of {self._chunks[first][part].path}",
            expected="the same tokens in every hookpoint's folder",
            hint="the folders are of different runs: import them one by one with --hookpoint",
        )

    def _notes(self, chunks: Sequence[Chunk]) -> tuple[str, ...]:
        notes = []
        if self._flat:
            notes.append(
                "these rows were filtered and mixed: each is stored as a context of its own, "
                "unless context_size says otherwise"
            )
        samples = self._samples(0) or [{}]
        shards, said = len({chunk.shard for chunk in chunks}), samples[0].get("n_shards")
        if isinstance(said, int) and said != shards:
            notes.append(f"the meta records tell of {said} shards, and {shards} are here")
        return tuple(notes)


def _folders(root: Path) -> dict[str, Path]:
    """Return the folder of each hookpoint, by its name."""
    found = {
        each.name: each
        for each in sorted(root.iterdir())
        if each.is_dir() and any(NAME.fullmatch(file.name) for file in each.iterdir())
    }
    if not found and any(NAME.fullmatch(each.name) for each in root.iterdir()):
        found = {root.name: root}  # one hookpoint's folder was named
    if not found:
        raise ConfigError(
            field="source.path",
            problem=f"{root} has no folder with chunk files",
            expected="a folder that holds <hookpoint>/chunk-00000000.safetensors",
            hint=f"it holds {place.listed(root)}",
        )
    return found


def _chunks(folder: Path, *, limit: int | None) -> list[Chunk]:
    """Return a hookpoint's chunks in order, without gaps."""
    found = [
        Chunk(int(match[1] or 0), int(match[2]), path)
        for path in folder.iterdir()
        if (match := NAME.fullmatch(path.name))
    ]
    found.sort()
    for chunk, following in pairwise(found):
        if chunk.key == following.key:
            raise _wrong(
                following.path,
                f"is the same chunk as {chunk.path.name}",
                "two runs wrote into one folder: remove the files of one of them",
            )
    found = found[:limit]
    for shard in sorted({chunk.shard for chunk in found}):
        numbers = [chunk.number for chunk in found if chunk.shard == shard]
        missing = sorted(set(range(numbers[-1] + 1)) - set(numbers))
        if missing:
            before = sum(chunk.key < (shard, missing[0]) for chunk in found)
            raise ConfigError(
                file=str(folder),
                field="source.path",
                problem=f"chunk {missing[0]} of shard {shard} is missing, and later ones are there",
                expected="chunks from 0 on, without gaps",
                hint=f"bring it back, or import those before it: --set source.chunks={before}"
                if before
                else "bring it back",
            )
    return found


def _same_chunks(chunks: Mapping[str, Sequence[Chunk]]) -> None:
    """Refuse hookpoints with different chunks."""
    keys = {name: [chunk.key for chunk in each] for name, each in chunks.items()}
    first = next(iter(keys.values()))
    if any(each != first for each in keys.values()):
        fewest = min(len(each) for each in keys.values())
        counts = ", ".join(f"{name}: {len(each)}" for name, each in keys.items())
        raise ConfigError(
            field="source.path",
            problem=f"the hookpoints have different chunks ({counts})",
            expected="the same chunks in every hookpoint's folder",
            hint=f"import those that all have: --set source.chunks={fewest}",
        )


def _not_older(chunks: Sequence[Chunk]) -> None:
    """Refuse chunks written before the first one of their shard."""
    begun: dict[int, float] = {}
    for part, chunk in enumerate(chunks):
        written = chunk.path.stat().st_mtime
        if written < begun.setdefault(chunk.shard, written) - TOLERANCE_S:
            age = begun[chunk.shard] - written
            raise _stale(chunk, f"was written {age:.0f} s before the first chunk", part)


def _stale(chunk: Chunk, problem: str, part: int) -> ConfigError:
    before = f"--set source.chunks={part}" if part else "another folder"
    return ConfigError(
        file=str(chunk.path),
        field="source.stale",
        problem=f"{problem}: it looks left over from an older, longer run",
        expected="chunks of one run",
        hint=f"import only those before it: {before}; or, if they do belong together (a folder "
        "that was copied without its times), --set source.stale=keep",
    )


def _files(root: Path, chunks: Any) -> Iterator[Found]:
    for each in chunks:
        for chunk in each:
            yield Found(chunk.path, chunk.path.relative_to(root.parent).as_posix())
            sidecar = chunk.path.with_suffix(".meta.json")
            if chunk.path.suffix != ".pt" and sidecar.exists():
                yield Found(sidecar, sidecar.relative_to(root.parent).as_posix())


def _wrong(path: Path | str, problem: str, hint: str) -> ConfigError:
    return ConfigError(
        file=str(path),
        field="source.path",
        problem=problem,
        expected="a chunk as llamascopium writes it, like the others beside it",
        hint=hint,
    )
