"""Which features a page lists, as its address says: order, conditions, words, place."""

import time
from dataclasses import dataclass, replace
from typing import Any, ClassVar
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from saestore.errors import QueryError
from saestore.features import Filter, ListingQuery, listing


_CONDITIONS, _WORDS = 20, 1000
"""Conditions of an address and characters of its words, at most: as of the API."""
ROWS = 40
"""Lines that a page has before it is scrolled: what a tall screen shows, and some more."""
STRETCH = 120
"""Lines of a stretch that it scrolls to, at most."""


@dataclass(frozen=True)
class Column:
    """A column of the list.

    Attributes:
        name: What it is called in an address; a statistic's name, else it is not sorted by.
        title: What it is called.
        fold: Whether a phone has no room for it.
    """

    name: str
    title: str
    fold: bool = False


COLUMNS = (
    Column("density", "density"),
    Column("n_firings", "firings", fold=True),
    Column("max", "largest"),
    Column("mean", "mean", fold=True),
    Column("q50", "median", fold=True),
    Column("top_token_share", "on its token", fold=True),
    Column("dec_norm", "decoder length", fold=True),
)
"""Statistics of each line; one that is sorted by, or has a condition, is added."""

EXPLANATION = Column(listing.EXPLANATION_SCORE, "score")
"""Of the explanation, where any feature has one."""


@dataclass(frozen=True)
class State:
    """What an address says of a list.

    Attributes:
        query: Which lines.
    """

    query: ListingQuery
    rows: ClassVar[int] = ROWS

    @classmethod
    def of(cls, given: QueryParams, *, limit: int = ROWS, most: int = STRETCH) -> "State":
        """Return what the query of an address says, no more lines than a page has room for.

        Raises:
            QueryError: No such statistic, or a condition that says nothing.
        """
        filters = tuple(Filter.parse(each) for each in given.getlist("filter") if each.strip())
        if len(filters) > _CONDITIONS or len(given.get("search", "")) > _WORDS:
            raise QueryError(
                f"found {len(filters)} conditions and {len(given.get('search', ''))} characters of words",
                found=len(filters),
                expected=f"at most {_CONDITIONS} conditions and {_WORDS} characters",
                hint="SQL takes longer questions",
            )
        return cls(
            ListingQuery(
                sort=given.get("sort") or "feature",
                descending=given.get("order") == "desc",
                filters=filters,
                search=given.get("search", ""),
                offset=whole(given.get("offset", ""), 0),
                limit=min(whole(given.get("limit", ""), limit), most),
            )
        )

    def address(self, **changes: Any) -> str:
        """Return the query of an address that says this, or with changes; empty for the whole list."""
        query = replace(self.query, **changes)
        pairs = [
            ("sort", "" if query.sort == "feature" else query.sort),
            ("order", "desc" if query.descending else ""),
            *(("filter", str(each)) for each in query.filters),
            ("search", query.search),
            ("offset", str(query.offset or "")),
        ]
        said = urlencode([(name, value) for name, value in pairs if value])
        return f"?{said}" if said else ""

    @property
    def place(self) -> str:
        """The same without a place in the list: what a feature's page keeps."""
        return self.address(offset=0)

    def by(self, column: str) -> str:
        """Return the address of the list by a column: the other way round if it is by it already."""
        query = self.query
        textual = column == "feature"
        down = not query.descending if query.sort == column else not textual
        return self.address(sort=column, descending=down, offset=0)

    def without(self, condition: Filter) -> str:
        """Return the address of the list without a condition."""
        kept = tuple(each for each in self.query.filters if each is not condition)
        return self.address(filters=kept, offset=0)

    def columns(self, explained: bool) -> tuple[Column, ...]:  # noqa: FBT001 - templates name nothing
        """Return the statistics that are shown: the usual ones, and those that matter here.

        Args:
            explained: Whether any feature has an explanation.
        """
        usual = (EXPLANATION, *COLUMNS) if explained else COLUMNS
        known = {column.name for column in usual} | {"feature"}
        wanted = [self.query.sort, *(each.column for each in self.query.filters)]
        more = [name for name in dict.fromkeys(wanted) if name not in known]
        return (*(Column(name, name) for name in more), *usual)

    def sorted_as(self, column: str) -> str:
        """Return `ascending` or `descending` if the list is by this column, else nothing."""
        if self.query.sort != column:
            return ""
        return "descending" if self.query.descending else "ascending"


def whole(text: str, default: int) -> int:
    """Return the whole number that a text says, or the default where it says none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < _DIGITS else default


_DIGITS = 12
"""More of them count nothing here."""

STATISTICS = listing.COLUMNS
"""What conditions may be about."""


def by_the_clock() -> int:
    """Return a number that is another one each time."""
    return time.time_ns() & _SEEDS


_SEEDS = (1 << 40) - 1
"""Largest number of the clock that draws: it stands in no address."""
