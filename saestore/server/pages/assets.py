"""What pages load: styles, scripts and the chart library, from this package alone.

All of it has one digest, which stands in every address: a browser keeps a file for good, and another
release has other addresses.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from saestore.report import passages


PREFIX = "/static"

_STYLE = "saestore.css"
_MEDIA = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_SCRIPTS = ("theme.js", "page.js", "charts.js", "list.js", "notes.js", "sql.js", "text.js")
_LIBRARY = "uplot/uPlot.iife.min.js"


@dataclass(frozen=True)
class Asset:
    """A file that pages load.

    Attributes:
        body: Its bytes.
        media: What it is.
    """

    body: bytes
    media: str


@cache
def assets() -> Mapping[str, Asset]:
    """Return the files by name."""
    ours = resources.files("saestore.server") / "static"
    theirs = resources.files("saestore.report")
    styles = (
        (ours / "uplot" / "uPlot.min.css").read_text("utf-8"),
        passages.style(),
        (theirs / "features.css").read_text("utf-8"),
        (ours / "web.css").read_text("utf-8"),
    )
    found = {name: (ours / name).read_bytes() for name in (*_SCRIPTS, "icon.svg", _LIBRARY)}
    found[_STYLE] = "\n".join(styles).encode()
    return {name: Asset(body, _MEDIA[name.rpartition(".")[2]]) for name, body in found.items()}


@cache
def digest() -> str:
    """Return what tells these files from those of any other release."""
    whole = hashlib.sha256()
    for name, asset in sorted(assets().items()):
        whole.update(f"{name}\0{len(asset.body)}\0".encode())
        whole.update(asset.body)
    return whole.hexdigest()[:16]


def url(name: str) -> str:
    """Return the address of a file.

    Raises:
        KeyError: There is no such file.
    """
    if name not in assets():
        raise KeyError(name)
    return f"{PREFIX}/{digest()}/{name}"
