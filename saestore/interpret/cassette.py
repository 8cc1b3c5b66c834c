"""Cassettes: every request with its answer, one line each, so that nothing is asked and paid for twice.

    {"hash":"…","attempts":1,"request":{"body":{…},"path":"chat/completions"},"answer":{…},"check":"…"}

`hash` is the SHA-256 of the canonical request, `check` the CRC-32C of the line up to it, `attempts` how
often it was sent until it was answered: 0, it was taken from another cassette. There is no key and no
header in it.

While a run goes on, lines are appended in the order of the answers, each by one write: what a killed
process leaves is whole but for the last line, which is cut off if it is not. At the end the lines are
sorted by hash, so that the file does not tell in which order answers came.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import crc32c
from typing_extensions import override

from saestore.errors import DamagedArtefactError, StorageError
from saestore.fingerprint import canonical
from saestore.interpret.request import Answer, Choice, Request
from saestore.lake import Storage, layout
from saestore.lake.storage import make_folder, storage_errors


_HASH = slice(9, 73)
"""Where the hash stands in a line."""
_CHECK = 20
"""Bytes of `,"check":"01234567"}` at a line's end."""


@dataclass(frozen=True)
class Line:
    """One line of a cassette.

    Attributes:
        request: The request.
        answer: Its answer.
        attempts: How often it was sent; 0, another cassette had it.
    """

    request: Request
    answer: Answer
    attempts: int

    @property
    def encoded(self) -> bytes:
        """The line's bytes, its end included."""
        answer = canonical(_plain(self.answer))
        text = (
            f'{{"hash":"{self.request.hash}","attempts":{self.attempts},'
            f'"request":{self.request.canonical},"answer":{answer}'
        ).encode()
        return text + b',"check":"%08x"}\n' % crc32c.crc32c(text)


def decoded(line: bytes) -> Line:
    """Return what a line says.

    Args:
        line: Its bytes, without its end.

    Raises:
        ValueError: They are not what was written.
    """
    text, end = line[:-_CHECK], line[-_CHECK:]
    if end != b',"check":"%08x"}' % crc32c.crc32c(text):
        msg = "its bytes do not match their checksum"
        raise ValueError(msg)
    found = json.loads(line)
    request = Request(found["request"]["path"], found["request"]["body"])
    if request.hash != found["hash"]:
        msg = "its request is not the one of its hash"
        raise ValueError(msg)
    return Line(request, _answer(found["hash"], found["answer"]), found["attempts"])


def _plain(answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = {
        "text": answer.text,
        "finish": answer.finish,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "created": answer.created,
        "model": answer.model,
    }
    if answer.choices:
        found["choices"] = [[each.text, each.logprob, each.others] for each in answer.choices]
    if answer.vectors:
        found["vectors"] = answer.vectors
    return found


def _answer(request: str, found: dict[str, Any]) -> Answer:
    choices = tuple(
        Choice(text, logprob, tuple((other, value) for other, value in others))
        for text, logprob, others in found.pop("choices", ())
    )
    vectors = tuple(tuple(vector) for vector in found.pop("vectors", ()))
    return Answer(request=request, choices=choices, vectors=vectors, **found)


class Recorded:
    """A cassette that is read: which requests it has, and where. Answers stay on disk.

    Attributes:
        path: The file.
        name: What messages call it.
    """

    def __init__(self, path: Path, *, name: str) -> None:
        """Open it, and check every line.

        Raises:
            DamagedArtefactError: A line is not what was written.
            FileNotFoundError: It is not there.
        """
        self.path, self.name = path, name
        self._open()

    def _open(self) -> None:
        self._places: dict[bytes, tuple[int, int]] = {}
        self._size = 0
        self._descriptor = os.open(self.path, os.O_RDONLY)
        for place, line in self._scan():
            self._remember(line, *place)

    def __len__(self) -> int:
        """Return how many requests it has."""
        return len(self._places)

    def __contains__(self, request: str) -> bool:
        """Return whether it has an answer to the request with a hash."""
        return bytes.fromhex(request) in self._places

    def get(self, request: str) -> Line | None:
        """Return the line of the request with a hash; None, there is none.

        Raises:
            DamagedArtefactError: It was changed since the cassette was opened.
        """
        place = self._places.get(bytes.fromhex(request))
        return None if place is None else self._decoded(self._bytes(place), place)

    def lines(self) -> Iterator[Line]:
        """Yield all lines, by hash."""
        for place in self._sorted():
            yield self._decoded(self._bytes(place), place)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _sorted(self) -> list[tuple[int, int]]:
        return [self._places[request] for request in sorted(self._places)]

    def _remember(self, line: Line, start: int, length: int) -> None:
        self._places.setdefault(bytes.fromhex(line.request.hash), (start, length))

    def _bytes(self, place: tuple[int, int]) -> bytes:
        return os.pread(self._descriptor, place[1], place[0])

    def _scan(self) -> Iterator[tuple[tuple[int, int], Line]]:
        """Yield place and content of each whole line; `_size` is where they end."""
        with open(self._descriptor, "rb", closefd=False) as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break  # of a process that was killed while it wrote
                place = (self._size, len(line) - 1)
                yield place, self._decoded(line[:-1], place, number)
                self._size += len(line)

    def _decoded(self, line: bytes, place: tuple[int, int], number: int = 0) -> Line:
        try:
            return decoded(line)
        except (ValueError, KeyError, TypeError) as error:
            where = f"line {number}" if number else f"the line at byte {place[0]}"
            raise DamagedArtefactError(
                name=self.name,
                damage=(f"{self.path.name}: {where}: {error}",),
                hint=f"restore {self.path}, or remove {where} from it: what it answers is asked again",
            ) from error


class Cassette(Recorded):
    """The cassette of a run: it is read, and what is answered is added."""

    def __init__(self, artefact: Storage, *, name: str) -> None:
        """Open it, or begin it; a line that a killed process left unfinished is cut off.

        Args:
            artefact: The run's folder. While the run goes on, the file lies on a local disk.
            name: The run.

        Raises:
            DamagedArtefactError: A line is not what was written.
            StorageError: Disk full, read-only or permission.
        """
        self._artefact = artefact
        # below a name of its own: what lies in the artefact's own scratch is removed when it begins
        path = (
            artefact.path(layout.CASSETTE)
            if artefact.local is not None
            else artefact.child(layout.PROGRESS).scratch(layout.CASSETTE)
        )
        make_folder(path.parent)
        with storage_errors(f"writing {path}"):
            if artefact.local is None and not path.exists() and artefact.exists(layout.CASSETTE):
                path.write_bytes(artefact.read(layout.CASSETTE))
        super().__init__(path, name=name)

    @override
    def _open(self) -> None:
        with storage_errors(f"writing {self.path}"):
            self._appending = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        super()._open()
        if os.fstat(self._appending).st_size > self._size:
            os.ftruncate(self._appending, self._size)

    def add(self, line: Line) -> None:
        """Write a line; what is there already stays.

        Raises:
            StorageError: Disk full, quota or the like: nothing of it is left in the file.
        """
        if line.request.hash in self:
            return
        encoded = line.encoded
        with storage_errors(f"writing {self.path}"):
            try:
                written = os.write(self._appending, encoded)
                if written < len(encoded):
                    # the next write says why; all of the line, or nothing
                    written += os.write(self._appending, encoded[written:])
                if written < len(encoded):
                    raise StorageError(
                        f"writing {self.path}: {written} of {len(encoded)} bytes were taken",
                        found=written,
                        expected=str(len(encoded)),
                        hint="free space and run the same command again: what was answered stays",
                    )
            except OSError:
                os.ftruncate(self._appending, self._size)
                raise
        self._remember(line, self._size, len(encoded) - 1)
        self._size += len(encoded)

    def seal(self) -> None:
        """Sort it by hash and put it into the run's folder; it can still be read and added to.

        Raises:
            StorageError: Disk full, read-only or permission; or the store is unreachable.
        """
        with self._artefact.replacing(layout.CASSETTE) as draft, draft.open("wb") as file:
            for place in self._sorted():
                file.write(self._bytes(place) + b"\n")
        if self._artefact.local is None:
            return
        self.close()
        self._open()

    def keep(self) -> None:
        """Put what there is of an unfinished run into a remote folder, for other machines to go on."""
        os.fsync(self._appending)
        if self._artefact.local is None and self._places:
            self._artefact.write(layout.CASSETTE, self.path.read_bytes())

    def drop(self) -> None:
        """Remove the local file of a remote run that is finished."""
        self._artefact.child(layout.PROGRESS).drop_scratch()

    @override
    def close(self) -> None:
        """Close the file."""
        super().close()
        os.close(self._appending)


def cassette_at(path: str | os.PathLike[str], scratch: Path) -> Recorded:
    """Open a cassette of another run.

    Args:
        path: Where it lies: a file, a run's folder, or a URL of either.
        scratch: Folder into which a remote one is fetched.

    Raises:
        DamagedArtefactError: A line is not what was written.
        StorageError: There is none.
    """
    spelled = os.fspath(path).rstrip("/")
    place = Storage.at(spelled)
    parent, _, name = spelled.rpartition("/")
    if spelled.endswith(".jsonl"):
        place = Storage.at(parent or ("/" if spelled.startswith("/") else "."))
    else:
        name = layout.CASSETTE
    if not place.exists(name):
        raise StorageError(
            f"there is no cassette at {spelled}",
            found=spelled,
            expected=f"a run of interpret, or its {layout.CASSETTE}",
            hint="name a file, or a folder below interpretations/ of an analysis",
        )
    if place.local is not None:
        return Recorded(place.path(name), name=spelled)
    fetched = scratch / f"{len(list(scratch.iterdir()))}-{name}"
    fetched.write_bytes(place.read(name))
    return Recorded(fetched, name=spelled)


@dataclass(frozen=True)
class Shelf:
    """The cassettes of a run: its own, and those of others behind it.

    Attributes:
        own: Where answers are added.
        others: Asked in this order where it has none.
        verbatim: Whether lines of others are copied as they are, for a replay, so that its cassette is
            the one that is replayed; else they are marked as taken from another.
    """

    own: Cassette
    others: tuple[Recorded, ...] = ()
    verbatim: bool = False

    def find(self, request: Request) -> tuple[Answer, bool] | None:
        """Return an answer and whether it is new to the own cassette, which has it from then on."""
        line = self.own.get(request.hash)
        if line is not None:
            return line.answer, False
        for other in self.others:
            line = other.get(request.hash)
            if line is not None:
                attempts = line.attempts if self.verbatim else 0
                self.own.add(Line(request, line.answer, attempts))
                return line.answer, True
        return None
