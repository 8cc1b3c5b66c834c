"""A report into a file: which kind, the file's name says."""

import os
from collections.abc import Sequence
from pathlib import Path

from saestore.errors import ConfigError
from saestore.lake.storage import storage_errors
from saestore.report import draw
from saestore.report.document import Document
from saestore.report.html import html


KINDS = (".html", ".png")


def write(document: Document, path: str | os.PathLike[str]) -> Path:
    """Write a report, whole or not at all; one that is there is replaced.

    Args:
        document: What it says.
        path: Where, ending in `.html` or `.png`.

    Raises:
        ConfigError: The name ends in something else, or there is no such folder.
        MissingExtraError: matplotlib is not installed.
        StorageError: The disk is full, or the folder is read-only.
    """
    target = target_of(path, KINDS, field="--to")
    png = target.suffix.lower() == ".png"
    return put(draw.png(document) if png else html(document).encode(), target)


def target_of(path: str | os.PathLike[str], kinds: Sequence[str], *, field: str) -> Path:
    """Return the file that a path names.

    Args:
        path: The path.
        kinds: Suffixes it may have.
        field: What gives it, for errors.

    Raises:
        ConfigError: The name ends in something else, or there is no such folder.
    """
    target = Path(path)
    if target.suffix.lower() not in kinds:
        raise ConfigError(
            field=field,
            found=str(target),
            expected=f"a name that ends in {' or '.join(kinds)}",
            hint=f"for example {target.with_suffix('.html') if target.name else 'report.html'}",
        )
    if target.is_dir():
        raise ConfigError(
            field=field,
            found=str(target),
            expected="a file, and it is a folder",
            hint=f"for example {target / 'report.html'}",
        )
    if not target.parent.is_dir():
        raise ConfigError(
            field=field,
            found=str(target),
            expected="a file in a folder that exists",
            hint=f"mkdir -p {target.parent}",
        )
    return target


def put(data: bytes, target: Path) -> Path:
    """Write a file whole or not at all, and return it.

    Raises:
        StorageError: The disk is full, or the folder is read-only.
    """
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with storage_errors(f"writing {target}"):
            draft.write_bytes(data)
            draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return target
