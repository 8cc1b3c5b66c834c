"""saestore: a columnar lake for sparse-dictionary research on language models.

`saestore.open_lake(path)` opens a lake; the verbs and the questions are its methods.
"""

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from saestore.api import OpenLake, open_lake

__version__ = "0.1.0"

__all__ = ["OpenLake", "__version__", "open_lake"]


def __getattr__(name: str) -> Any:
    """Load the public names on first use, so that importing the package stays cheap."""
    if name in {"OpenLake", "open_lake"}:
        import saestore.api  # noqa: PLC0415 - the point of this function

        return getattr(saestore.api, name)
    raise AttributeError(f"module 'saestore' has no attribute {name!r}")
