"""Which files a path means, and what tells them from others without reading them whole."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from saestore.errors import ConfigError, nearest


SAMPLE = 1 << 16
"""Bytes read at each end of a file for its fingerprint."""
_MAGIC = frozenset("*?[")


@dataclass(frozen=True)
class Found:
    """One file of a source.

    Attributes:
        path: Where it lies.
        name: Its path below the source's own, with forward slashes: the same on every machine.
    """

    path: Path
    name: str


def find(path: str, suffixes: Sequence[str], *, field: str) -> tuple[Found, ...]:
    """Return the files that a path means, sorted by name.

    Args:
        path: A file, a folder (searched recursively for `suffixes`) or a glob.
        suffixes: Endings of the files wanted in a folder, such as `.jsonl.gz`.
        field: Dotted path of the setting, for errors.

    Raises:
        ConfigError: Nothing is there; the nearest names are given.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return (Found(place, place.name),)
    if place.is_dir():
        wanted = [
            each
            for each in place.rglob("*")
            if each.is_file()
            and each.name.endswith(tuple(suffixes))
            and not any(part.startswith(".") for part in each.relative_to(place).parts)
        ]
        base = place
    elif _MAGIC & set(path):
        base = _before_glob(place)
        wanted = [each for each in base.glob(str(place.relative_to(base))) if each.is_file()]
    else:
        raise ConfigError(
            field=field, found=path, expected="a file, folder or glob", hint=_hint(place)
        )
    if not wanted:
        kinds = " or ".join(suffixes)
        raise ConfigError(
            field=field,
            found=path,
            expected=f"files ending in {kinds}" if place.is_dir() else "a glob that matches files",
            hint="name the file itself if it has another ending"
            if place.is_dir()
            else f"the folder searched was {base}",
        )
    found = (Found(each, each.relative_to(base).as_posix()) for each in wanted)
    return tuple(sorted(found, key=lambda each: each.name))


def digest(files: Sequence[Found]) -> str:
    """Return a digest of the files' names, sizes and both ends, in order."""
    whole = hashlib.sha256()
    for each in files:
        size = each.path.stat().st_size
        whole.update(f"{each.name}\0{size}\0".encode())
        with each.path.open("rb") as file:
            whole.update(file.read(SAMPLE))
            file.seek(max(0, size - SAMPLE))
            whole.update(file.read(SAMPLE))
    return whole.hexdigest()


def _before_glob(place: Path) -> Path:
    plain = Path(place.anchor)
    for part in place.relative_to(place.anchor).parts if place.anchor else place.parts:
        if _MAGIC & set(part):
            break
        plain /= part
    return plain


def _hint(place: Path) -> str:
    folder = place.parent
    if not folder.is_dir():
        return f"there is no folder {folder} either"
    close = nearest(place.name, [each.name for each in folder.iterdir()])
    if close:
        return f"did you mean {', '.join(str(folder / name) for name in close)}?"
    return f"{folder.absolute()} holds nothing of a similar name"
