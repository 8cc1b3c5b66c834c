"""Features in a table: sorted and filtered by any statistic, found by words, one stretch at a time.

    sort      any column of `features`, or `explanation_score`; equal values by feature, undefined ones
              last, both ways
    filter    COLUMN OP NUMBER, or COLUMN = null and COLUMN != null; what is undefined meets no other
    search    every word of it begins a word of the feature's tokens, of what people wrote about it, or of
              what `interpret` found that it stands for

A feature's tokens are those it fires on most (`token_stats`) and the ten that its decoder vector
promotes most. Everything is read from Parquet once and kept: some 100 MB at 131 072 features.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import RLock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float64, Int64, UInt32
from typing_extensions import override

from saestore.errors import QueryError, nearest
from saestore.features.analysis import Analysis
from saestore.features.explained import Explained
from saestore.features.overview import WORDS
from saestore.features.search import Texts, WordIndex
from saestore_schemas.tables import FEATURES


STATISTICS: tuple[str, ...] = tuple(column.name for column in FEATURES.columns)
"""Columns of `features`."""

EXPLANATION_SCORE = "explanation_score"
"""Mean score of the best explanation of a feature: it changes with the runs of `interpret`."""

COLUMNS: tuple[str, ...] = (*STATISTICS, EXPLANATION_SCORE)
"""What features are sorted and filtered by."""

MOST = 1000
"""Most lines at once."""

PROMOTED = 10
"""Promoted tokens that a search looks at."""

SCORES = ("direction", "left_singular")
"""Score by which tokens are promoted: the first that the analysis has."""

_ORDERS = 16
"""Orders of all features that are kept, four bytes a feature: to find one takes some ten milliseconds of 131 072."""

_HOLDS: Mapping[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq, "!=": operator.ne,
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip

_CONDITION = re.compile(r"\s*(?P<column>\w+)\s*(?P<op><=|>=|!=|=|<|>)\s*(?P<value>\S+)\s*")
_WRITTEN = "COLUMN OP NUMBER, such as density<0.001, or COLUMN=null"


@dataclass(frozen=True)
class Filter:
    """A condition on one statistic.

    Attributes:
        column: Which, one of `COLUMNS`.
        op: `=`, `!=`, `<`, `<=`, `>` or `>=`.
        value: What it is compared with, in double precision; None: with being undefined.
    """

    column: str
    op: str
    value: float | None

    def __post_init__(self) -> None:
        """Refuse a condition that says nothing.

        Raises:
            QueryError: No such column or comparison, or a value that nothing compares with.
        """
        known(self.column, "filter")
        ops = tuple(_HOLDS)
        if self.op not in ops:
            raise QueryError(
                f"filter: there is no comparison {self.op!r}",
                found=self.op,
                expected=f"one of {', '.join(ops)}",
                hint=f"write {_WRITTEN}",
            )
        if self.value is None and self.op not in ops[:2]:
            raise QueryError(
                f"filter: {self.column} {self.op} null is never true",
                found=f"{self.op} null",
                expected="= null or != null",
                hint="null stands for a statistic that is undefined, as of features that never fire",
            )
        if self.value is not None and not math.isfinite(self.value):
            raise QueryError(
                f"filter: {self.column} {self.op} {self.value}",
                found=self.value,
                expected="a finite number, or null",
                hint=f"write {_WRITTEN}",
            )

    @classmethod
    def parse(cls, text: str) -> "Filter":
        """Return the condition that a text says.

        >>> Filter.parse("density >= 1e-3")
        Filter(column='density', op='>=', value=0.001)
        >>> str(Filter.parse("q50!=null"))
        'q50!=null'

        Raises:
            QueryError: It says none, or one that says nothing.
        """
        match = _CONDITION.fullmatch(text)
        if match is None:
            raise QueryError(
                f"filter: {text!r} is no condition",
                found=text,
                expected=_WRITTEN,
                hint=f"write {_WRITTEN}",
            )
        known(match["column"], "filter")
        try:
            value = None if match["value"] == "null" else float(match["value"])
        except ValueError as error:
            raise QueryError(
                f"filter: {match['value']!r} is no number",
                found=match["value"],
                expected="a number, or null",
                hint=f"write {_WRITTEN}",
            ) from error
        return cls(match["column"], match["op"], value)

    @override
    def __str__(self) -> str:
        """Return it as it is written."""
        value = "null" if self.value is None else f"{self.value!r}"
        return f"{self.column}{self.op}{value}"

    def holds(self, values: Float64[np.ndarray, " d_sae"]) -> Bool[np.ndarray, " d_sae"]:
        """Return where the condition holds; NaN stands for undefined."""
        undefined: Bool[np.ndarray, " d_sae"] = np.isnan(values)
        if self.value is None:
            return undefined if self.op == "=" else ~undefined
        found: Bool[np.ndarray, " d_sae"] = _HOLDS[self.op](values, self.value) & ~undefined
        return found


@dataclass(frozen=True)
class ListingQuery:
    """Which features, in which order.

    Attributes:
        sort: Which column, one of `COLUMNS`.
        descending: Largest first.
        filters: All of them hold.
        search: Words that they have.
        offset: Lines before the first one wanted.
        limit: Lines wanted, up to `MOST`.
    """

    sort: str = "feature"
    descending: bool = False
    filters: tuple[Filter, ...] = ()
    search: str = ""
    offset: int = 0
    limit: int = 50

    def __post_init__(self) -> None:
        """Refuse what cannot be answered.

        Raises:
            QueryError: No such column, or a stretch that is none.
        """
        known(self.sort, "sort")
        for name, least, most in (("offset", 0, None), ("limit", 1, MOST)):
            found = getattr(self, name)
            if found < least or (most is not None and found > most):
                wanted = f"{least} or more" if most is None else f"{least} to {most}"
                raise QueryError(
                    f"{name}: found {found}; expected {wanted}",
                    found=found,
                    expected=wanted,
                    hint="ask for a table in stretches: offset counts the lines before",
                )


@dataclass(frozen=True)
class ListingLine:
    """One feature in a table.

    Attributes:
        feature: Which.
        statistics: Its line of `features`, column by column; None where undefined.
        top_token: The token it fires on most often; None if unknown or it never fires.
        promotes: Tokens that its decoder vector promotes most; none without logits.
        explanation: The best explanation that runs of `interpret` found; None without any.
        explanation_score: Its mean score; None where undefined.
    """

    feature: int
    statistics: Mapping[str, float | int | None]
    top_token: str | None
    promotes: tuple[str, ...]
    explanation: str | None = None
    explanation_score: float | None = None


@dataclass(frozen=True)
class Listing:
    """A stretch of a table.

    Attributes:
        total: Lines of the whole table.
        lines: Those asked for; fewer at its end.
    """

    total: int
    lines: tuple[ListingLine, ...]


def known(column: str, purpose: str) -> str:
    """Return a column that features are sorted and filtered by.

    Raises:
        QueryError: There is none of that name; the nearest are named.
    """
    if column not in COLUMNS:
        close = nearest(column, COLUMNS)
        raise QueryError(
            f"{purpose}: there is no statistic {column!r}",
            found=column,
            expected=f"one of {', '.join(COLUMNS)}",
            hint=f"did you mean {', '.join(close)}?"
            if close
            else f"there are: {', '.join(COLUMNS)}",
        )
    return column


def drawn(total: int, seed: int) -> int | None:
    """Return the place, from 0, of one of some lines drawn by a seed; None of none.

    The same seed draws the same line of the same table.
    """
    return int(np.random.default_rng(abs(seed)).integers(total)) if total else None


@dataclass(frozen=True)
class FeatureTable:
    """All features of an analysis, ready to be listed; what is read once is kept. Threads may share it.

    Attributes:
        analysis: Which.
    """

    analysis: Analysis
    _lock: RLock = field(default_factory=RLock, repr=False, compare=False)

    def listing(self, query: ListingQuery, texts: Texts | None = None) -> Listing:
        """Return a stretch of the table.

        Args:
            query: Which.
            texts: What people wrote about features, for the search.

        Raises:
            DamagedArtefactError: A file is missing or has another size.
        """
        found = self.features(query, texts)
        stretch = found[query.offset : query.offset + query.limit]
        return Listing(len(found), self.lines(stretch))

    def random(self, query: ListingQuery, seed: int, texts: Texts | None = None) -> int | None:
        """Return a feature of the table drawn by a seed; None of an empty table.

        Raises:
            DamagedArtefactError: A file is missing or has another size.
        """
        found = self.features(query, texts)
        place = drawn(len(found), seed)
        return None if place is None else int(found[place])

    def features(self, query: ListingQuery, texts: Texts | None = None) -> Int64[np.ndarray, " _"]:
        """Return the features of the whole table, in its order, whatever stretch is asked for.

        Raises:
            DamagedArtefactError: A file is missing or has another size.
        """
        self._read(words=bool(query.search.strip()))
        order: Int64[np.ndarray, " d_sae"] = self.order(query.sort, descending=query.descending)
        if not (query.filters or query.search.strip()):
            return order
        holds = (
            self.words.matching(query.search, texts, self.explained.words)
            if query.search.strip()
            else np.ones(len(order), dtype=np.bool_)
        )
        for each in query.filters:
            holds = holds & each.holds(self.values(each.column))
        found: Int64[np.ndarray, " _"] = order[holds[order]]
        return found

    def lines(self, features: Sequence[int] | Int64[np.ndarray, " _"]) -> tuple[ListingLine, ...]:
        """Return the lines of some features, in the order given."""
        self._read()
        wanted = [int(feature) for feature in features]
        table = self._columns.take(pa.array(wanted, type=pa.int64()))
        vocabulary = self.analysis.vocabulary
        explained = self.explained
        found = []
        for line in table.to_pylist():
            feature, top = int(line.pop("feature")), line["top_token_id"]
            promotes = self._promoted[feature]
            found.append(
                ListingLine(
                    feature=feature,
                    statistics=line,
                    top_token=None if top is None else vocabulary.token(int(top)),
                    promotes=tuple(vocabulary.texts(promotes[promotes >= 0])),
                    explanation=explained.texts.get(feature),
                    explanation_score=_defined(float(explained.scores[feature])),
                )
            )
        return tuple(found)

    def values(self, column: str) -> Float64[np.ndarray, " d_sae"]:
        """Return a statistic of all features in double precision; NaN where undefined."""
        if column == EXPLANATION_SCORE:
            return self.explained.scores
        # not kept: of all columns it would be more than the table
        exact = self._columns[column].cast(pa.float64()).fill_null(pa.scalar(math.nan))
        return _plain(exact)

    def order(self, column: str, *, descending: bool = False) -> Int64[np.ndarray, " d_sae"]:
        """Return all features by a statistic; equal values by feature, undefined ones last."""
        if column == EXPLANATION_SCORE:
            return _ordered(self.explained.scores, descending=descending)
        key = column, descending
        with self._lock:
            known = self._orders.pop(key, None)
        if known is None:
            known = _ordered(self.values(column), descending=descending).astype(np.uint32)
        with self._lock:
            self._orders[key] = known  # the last used ones stand last
            while len(self._orders) > _ORDERS:
                del self._orders[next(iter(self._orders))]
        return known.astype(np.int64)

    @property
    def explained(self) -> Explained:
        """What the features stand for, by the runs of `interpret` that there are now.

        Raises:
            DamagedArtefactError: A file is missing or has another size, or a manifest is not one.
            FormatVersionError: Another major version wrote one.
        """
        runs = self.analysis.interpretations
        version = runs.version
        with self._lock:
            if not self._explained or self._explained[0].version != version:
                self._explained[:] = [Explained.of(runs, self.analysis.n_features)]
            return self._explained[0]

    def _read(self, *, words: bool = False) -> None:
        """Read what is needed, once: threads that ask at the same time wait for the first."""
        with self._lock:
            _ = self._columns, self._promoted, self._orders
            if words:
                _ = self.words

    @cached_property
    def words(self) -> WordIndex:
        """Which features have which words in their tokens."""
        pairs = [self._ranked[:, :2]] if len(self._ranked) else []
        if "token_stats" in self.analysis.tables:
            columns = self.analysis.columns("token_stats", ["feature", "token_id", "shift"])
            own = columns.filter(pc.field("shift") == 0).select(["feature", "token_id"])
            pairs.append(_numbers(own))
        both = np.concatenate(pairs) if pairs else np.empty((0, 2), dtype=np.int64)
        texts = self.analysis.vocabulary.texts
        return WordIndex.of(both[:, 0], both[:, 1], texts, self.analysis.n_features)

    @cached_property
    def _explained(self) -> list[Explained]:
        """What the features stood for when it was last looked; nothing before."""
        return []

    @cached_property
    def _columns(self) -> pa.Table:
        """The table `features`: line i is feature i."""
        return self.analysis.columns("features", STATISTICS).combine_chunks()

    @cached_property
    def _orders(self) -> dict[tuple[str, bool], UInt32[np.ndarray, " d_sae"]]:
        """The orders that were asked for last, by column and whether the largest come first."""
        return {}

    @cached_property
    def _ranked(self) -> Int64[np.ndarray, "_ 3"]:
        """Feature, token and rank of the promoted tokens that are searched, by feature, head, rank."""
        empty = np.empty((0, 3), dtype=np.int64)
        if "logits" not in self.analysis.tables:
            return empty
        columns = self.analysis.columns("logits", ["feature", "token_id", "rank", "sign", "score"])
        scores = columns["score"].combine_chunks().dictionary_encode()
        there = scores.dictionary.to_pylist()
        score = next((there.index(each) for each in SCORES if each in there), None)
        if score is None:
            return empty
        numbers = _numbers(columns.drop_columns(["score"]))
        promoted = (numbers[:, 3] > 0) & (numbers[:, 2] < PROMOTED)
        kept: Int64[np.ndarray, "_ 3"] = numbers[promoted & (_plain(scores.indices) == score), :3]
        return kept

    @cached_property
    def _promoted(self) -> Int64[np.ndarray, "d_sae _"]:
        """The first promoted tokens of each feature, those of its first head; -1 behind the last."""
        found = np.full((self.analysis.n_features, WORDS), -1, dtype=np.int64)
        feature, token, rank = self._ranked.T
        starts = np.searchsorted(feature, feature, side="left")
        place = np.arange(len(feature)) - starts  # of its feature's lines
        shown = (place < WORDS) & (rank < WORDS)
        found[feature[shown], place[shown]] = token[shown]
        return found


def _ordered(
    values: Float64[np.ndarray, " d_sae"], *, descending: bool
) -> Int64[np.ndarray, " d_sae"]:
    # stable, so that equal values stay by feature; NaN sorts last
    order = np.argsort(-values if descending else values, kind="stable")
    return order.astype(np.int64, copy=False)


def _defined(x: float) -> float | None:
    return None if math.isnan(x) else x


def _numbers(table: pa.Table) -> Int64[np.ndarray, "_ _"]:
    """Return columns of whole numbers beside one another."""
    return np.stack([_plain(column.cast(pa.int64())) for column in table.columns], axis=1)


def _plain(column: Any) -> np.ndarray:
    """Return a column without nulls; pyarrow's own `to_numpy` would import pandas."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.from_dlpack(whole)
