"""A report into a file: which kind, the file's name says."""

import os
from pathlib import Path

from saestore.errors import ConfigError
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
    """
    target = Path(path)
    kind = target.suffix.lower()
    if kind not in KINDS:
        raise ConfigError(
            field="--to",
            found=str(target),
            expected=f"a name that ends in {' or '.join(KINDS)}",
            hint=f"for example {target.with_suffix('.html')}",
        )
    if not target.parent.is_dir():
        raise ConfigError(
            field="--to",
            found=str(target),
            expected="a file in a folder that exists",
            hint=f"mkdir -p {target.parent}",
        )
    data = draw.png(document) if kind == ".png" else html(document).encode()
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        draft.write_bytes(data)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return target
