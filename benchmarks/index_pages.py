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
from saestore.server.answers import json_of


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
            side: `index`, `lake`, either with ` as JSON`: the body that the server sends, with every line of the
                page; or `bare`: the document that a page is made of, and nothing done with it.
        """
        analysis = Analysis.open(Lake.at(lake), name)
        index = Index.at(Place(uri, database), analysis.lake)
        where, _, form = side.partition(" as ")
        held = index.analysis(analysis)
        pages = index.database[layout.PAGES]
        page = {
            "lake": analysis.feature,
            "index": held.feature,
            "bare": lambda feature: pages.find_one(layout.feature_id(held.version, feature)),
        }[where]
        self._page = (lambda feature: json_of(page(feature))) if form else page
        return {}

    def read(self, *, features: Sequence[int]) -> dict[str, Any]:
        """Read pages, one after the other; return the seconds that each took."""
        return {"seconds": [timed(partial(self._page, feature)) for feature in features]}


if __name__ == "__main__":
    process.serve(Pages)
