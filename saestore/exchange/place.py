"""Finding what an import names and where an export goes, and what is said when that cannot be."""

from collections.abc import Collection
from pathlib import Path

from saestore.errors import ConfigError, nearest
from saestore.lake.storage import Storage


INDEX = "index.json"
"""What our exports hold beside what another tool reads; written last."""
UNFINISHED = ".saestore-export"
"""Stands in a folder while an export is written there: what is beside it may be replaced."""

_SHOWN = 8


def existing(path: str, *, field: str = "source.path") -> Path:
    """Return the file or folder of that name.

    Raises:
        ConfigError: Nothing is there; the nearest names are given.
    """
    found = Path(path).expanduser()
    if found.exists():
        return found.resolve()
    beside = found.parent
    if not beside.is_dir():
        hint = f"there is no folder {beside} either"
    else:
        close = nearest(found.name, [each.name for each in beside.iterdir()])
        hint = (
            f"did you mean {', '.join(str(beside / name) for name in close)}?"
            if close
            else f"{beside.absolute()} holds {listed(beside)}"
        )
    raise ConfigError(
        field=field,
        found=path,
        problem=f"there is no {path}",
        expected="a file or folder that is there",
        hint=hint,
    )


def folder(path: str) -> Path:
    """Return the folder of that name.

    Raises:
        ConfigError: Nothing is there, or a file is.
    """
    found = existing(path)
    if found.is_dir():
        return found
    raise ConfigError(
        field="source.path",
        found=path,
        problem=f"{path} is a file",
        expected="the folder that the other tool wrote",
        hint=f"name its folder: {found.parent}",
    )


def listed(folder: Path) -> str:
    """Return a few names that a folder holds, for a hint."""
    names = sorted(each.name + "/" * each.is_dir() for each in folder.iterdir())
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "nothing"


def one_dtype(kinds: Collection[str], *, where: str) -> str:
    """Return the one type that all activations have.

    Raises:
        ConfigError: They have several, or one that is no activation's.
    """
    known = ("float16", "bfloat16", "float32", "float64")
    if len(kinds) == 1 and next(iter(kinds)) in known:
        return next(iter(kinds))
    raise ConfigError(
        field="source.path",
        problem=f"the activations of {where} are {' and '.join(sorted(kinds))}",
        expected=f"one of {', '.join(known)}, the same for all hookpoints",
        hint="import hookpoints of different types into stores of their own, with --hookpoint",
    )


def cleared(folder: Path) -> Storage:
    """Return an empty folder; an earlier export in it is removed.

    Raises:
        ConfigError: It holds anything else.
    """
    target = Storage.at(folder.expanduser().absolute())
    if folder.expanduser().is_file():
        raise _taken(folder, f"{folder} is a file")
    names = target.names()
    if names and INDEX not in names and UNFINISHED not in names:
        raise _taken(folder, f"{folder} holds {len(names)} files that are no export")
    if INDEX in names and b"saestore.export" not in target.read(INDEX):
        raise _taken(folder, f"{folder}/{INDEX} is no index of ours")
    target.write(UNFINISHED, b"")
    for name in names:
        if name != UNFINISHED:
            target.remove(name)
    return target


def _taken(folder: Path, problem: str) -> ConfigError:
    return ConfigError(
        field="folder",
        found=str(folder),
        problem=problem,
        expected="a folder that is empty, not there yet, or holds an earlier export",
        hint="choose another folder",
    )
