"""Pages of an analysis, in a process of their own: from the index, from the lake, or the bare document.

Who reads pages did neither write the index nor read the other side: what that leaves in a process's memory
makes it slower by a fifth.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchmarks import process
from benchmarks.harness import timed
from saestore.features import Analysis
from saestore.index import Index, Place, layout
from saestore.lake import Lake


class Pages:
    """Reads them."""

    def __init__(self) -> None:
        self._page: Callable[[int], object] = int

    def open(self, *, lake: str, name: str, uri: str, database: str, side: str) -> dict[str, Any]:
        """Open an analysis.

        Args:
            lake: Where the lake lies.
            name: The analysis.
            uri: Where MongoDB is.
            database: The index's name there.
            side: `index`, `lake` or `bare`: the document that a page is made of, and nothing done with it.
        """
        analysis = Analysis.open(Lake.at(lake), name)
        index = Index.at(Place(uri, database), analysis.lake)
        if side == "lake":
            self._page = analysis.feature
        elif side == "index":
            self._page = index.analysis(analysis).feature
        else:
            version = index.analysis(analysis).version
            pages = index.database[layout.PAGES]
            self._page = lambda feature: pages.find_one(layout.feature_id(version, feature))
        return {}

    def read(self, *, features: Sequence[int]) -> dict[str, Any]:
        """Read pages, one after the other; return the seconds that each took."""
        return {"seconds": [timed(partial(self._page, feature)) for feature in features]}


if __name__ == "__main__":
    process.serve(Pages)
