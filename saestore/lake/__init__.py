"""The lake on disk: where things lie, how they are written whole, what they were made from."""

from saestore.lake.lake import KINDS, Lake
from saestore.lake.layout import Ref
from saestore.lake.storage import Storage


__all__ = ["KINDS", "Lake", "Ref", "Storage"]
