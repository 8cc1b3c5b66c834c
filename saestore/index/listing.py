"""Features in a table, from the index: the same as `saestore.features.FeatureTable` lists them.

Equal values stand by feature in both directions, so that one index of a column serves both only where no two
values are equal: going down, the groups of equal values that a stretch cuts are read upwards.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymongo import ASCENDING, DESCENDING

from saestore.features.listing import STATISTICS, Filter, Listing, ListingLine, ListingQuery
from saestore.features.search import Texts, words, written
from saestore.index import layout
from saestore.index.database import Database, Document


_OPERATORS: Mapping[str, str] = {
    "=": "$eq", "<": "$lt", "<=": "$lte", ">": "$gt", ">=": "$gte",
}  # fmt: skip
_BEHIND = chr(0x10FFFF)
"""Sorts behind every other character."""
_DEFINED = {"$gte": -math.inf}
"""Any number; null is none."""


@dataclass(frozen=True)
class IndexedTable:
    """All features of an analysis in an index, to be listed.

    Attributes:
        database: The index.
        version: Of the documents of its features.
        n_features: Features it has.
    """

    database: Database
    version: str
    n_features: int

    def listing(self, query: ListingQuery, texts: Texts) -> Listing:
        """Return a stretch of the table.

        Args:
            query: Which.
            texts: What people wrote about features, for the search.

        Raises:
            IndexUnavailableError: The index cannot be reached.
        """
        where = self._conditions(query, texts)
        with self.database.asking():
            found = self._stretch(query, where)
            whole = not (query.filters or query.search.strip())
            total = self.n_features if whole else self._count(where)
            return Listing(total, self.lines(found))

    def lines(self, features: Sequence[int]) -> tuple[ListingLine, ...]:
        """Return the lines of some features, in the order given; without those the index has not."""
        names = [layout.feature_id(self.version, each) for each in features]
        with self.database.asking():
            held = self.database[layout.FEATURES].find({"_id": {"$in": names}})
            found = {each["feature"]: each for each in held}
        return tuple(_line(found[each]) for each in features if each in found)

    def _conditions(self, query: ListingQuery, texts: Texts) -> list[Document]:
        found: list[Document] = [{"version": self.version}]
        found += [_condition(each) for each in query.filters]
        for prefix in words(query.search):
            begins = {"$elemMatch": {"$gte": prefix, "$lt": prefix + _BEHIND}}
            said = {"feature": {"$in": written(prefix, texts)}}
            found.append({"$or": [{"words": begins}, said]})
        return found

    def _stretch(self, query: ListingQuery, where: list[Document]) -> list[int]:
        """Return the features of a stretch, in their order."""
        column, offset, limit = query.sort, query.offset, query.limit
        if column == "feature":
            direction = DESCENDING if query.descending else ASCENDING
            return _features(self._find(where, [("feature", direction)], offset, limit))
        defined = [*where, {column: _DEFINED}]
        if query.descending:
            found = self._down(column, defined, offset, limit)
        else:
            order = [(column, ASCENDING), ("feature", ASCENDING)]
            found = _features(self._find(defined, order, offset, limit))
        if len(found) < limit:  # undefined ones follow, by feature
            before = offset + len(found) if found else self._count(defined)
            skipped = 0 if found else max(0, offset - before)
            undefined = [*where, {column: None}]
            more = self._find(undefined, [("feature", ASCENDING)], skipped, limit - len(found))
            found += _features(more)
        return found

    def _down(self, column: str, where: list[Document], offset: int, limit: int) -> list[int]:
        """Return a stretch of the largest values first, equal ones by feature."""
        reverse = [(column, DESCENDING), ("feature", DESCENDING)]
        seen = [each[column] for each in self._find(where, reverse, offset, limit, column)]
        if not seen:
            return []
        first, last = seen[0], seen[-1]
        above = self._count([*where, {column: {"$gt": first}}])
        by_feature = [("feature", ASCENDING)]
        equal = [*where, {column: first}]
        found = _features(self._find(equal, by_feature, offset - above, seen.count(first)))
        if first != last:
            between = [*where, {column: {"$lt": first, "$gt": last}}]
            lines = list(self._find(between, reverse, 0, 0, column))
            lines.sort(key=lambda each: (-each[column], each["feature"]))
            equal = [*where, {column: last}]
            found += _features(lines)
            found += _features(self._find(equal, by_feature, 0, seen.count(last)))
        return found

    def _find(
        self,
        where: list[Document],
        order: list[tuple[str, int]],
        offset: int,
        limit: int,
        *columns: str,
    ) -> Any:
        shown = {"_id": False, "feature": True, **dict.fromkeys(columns, True)}
        collection = self.database[layout.FEATURES]
        return collection.find(
            {"$and": where}, projection=shown, sort=order, skip=offset, limit=limit
        )

    def _count(self, where: list[Document]) -> int:
        return self.database[layout.FEATURES].count_documents({"$and": where})


def _condition(each: Filter) -> Document:
    """Return a condition as MongoDB says it: what is undefined meets no comparison with a number."""
    if each.value is None:
        return {each.column: {"$eq" if each.op == "=" else "$ne": None}}
    if each.op == "!=":
        return {each.column: {"$nin": [each.value, None]}}
    return {each.column: {_OPERATORS[each.op]: each.value}}


def _features(lines: Any) -> list[int]:
    return [each["feature"] for each in lines]


def _line(document: Document) -> ListingLine:
    return ListingLine(
        feature=document["feature"],
        statistics={name: document[name] for name in STATISTICS if name != "feature"},
        top_token=document["top_token"],
        promotes=tuple(document["promotes"]),
        explanation=document["explanation"],
        explanation_score=document["explanation_score"],
    )
