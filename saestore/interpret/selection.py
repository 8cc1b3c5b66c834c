"""Which features a run is about."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from saestore.errors import ConfigError
from saestore.features import Analysis
from saestore.mixing import MASK, mixed, splitmix64
from saestore_schemas.interpret import (
    ListSelection,
    SampleSelection,
    Selection,
    SqlSelection,
)


def select(analysis: Analysis, selection: Selection, *, seed: int) -> list[int]:
    """Return the features that are chosen, ascending, each once.

    Args:
        analysis: Of which analysis.
        selection: How they are chosen.
        seed: Of a sample.

    Raises:
        FeatureNotFoundError: The dictionary has no such feature.
        QueryError: The question is refused.
        ConfigError: Nothing is chosen, or the answer has no column `feature`.
    """
    found = _WAYS[type(selection)](analysis, selection, seed)
    if not found:
        raise ConfigError(
            field="select",
            found="no feature",
            expected="at least one feature",
            hint="look at what there is: saestore query 'SELECT feature, density, max FROM features "
            "WHERE n_firings > 0'",
        )
    return sorted(set(found))


def _listed(analysis: Analysis, selection: ListSelection, _seed: int) -> list[int]:
    for each in selection.features:
        analysis.check(each)
    return list(selection.features)


def _answered(analysis: Analysis, selection: SqlSelection, _seed: int) -> list[int]:
    sql = selection.where
    if not re.match(r"\s*(select|with|from)\b", sql, re.IGNORECASE):
        # it can only read, as all SQL over a lake
        sql = f"SELECT feature FROM features WHERE {sql}\nORDER BY feature"  # noqa: S608
    answer = analysis.sql(sql)
    if "feature" not in answer.column_names or not pa.types.is_integer(answer["feature"].type):
        raise ConfigError(
            field="select.where",
            found=", ".join(answer.column_names) or "no column",
            expected="an answer with a column `feature` of numbers",
            hint="write a condition on the view `features`, or SELECT feature FROM …",
        )
    found = [int(each) for each in answer["feature"].to_pylist() if each is not None]
    found = list(dict.fromkeys(found))[: selection.n]
    for each in found:
        analysis.check(each)
    return found


def _sampled(analysis: Analysis, selection: SampleSelection, seed: int) -> list[int]:
    columns = analysis.columns("features", ["feature", "n_firings", "density"])
    feature, firings, density = (
        np.array(columns[name].to_pylist(), dtype=kind)
        for name, kind in (("feature", np.int64), ("n_firings", np.int64), ("density", np.float64))
    )
    alive = firings > 0
    ranked = feature[alive][np.lexsort((feature[alive], density[alive]))]
    chosen = evenly(ranked, selection.n, selection.strata, key=mixed(seed, len(ranked)))
    return [int(each) for each in chosen]


def evenly(
    ranked: Int64[np.ndarray, " feature"], n: int, strata: int, *, key: int
) -> Int64[np.ndarray, " k"]:
    """Return numbers drawn at random from strata of a ranking, as evenly as they divide.

    Each of the strata, which have equally many members but one, gives n // strata, and the last n % strata one
    more; where one has fewer, any others stand instead.

    Args:
        ranked: Different numbers, lowest rank first.
        n: How many; all, if there are no more.
        strata: How many strata.
        key: Of the draw: a number's place in it depends on nothing else.
    """
    order = np.argsort(splitmix64(ranked.astype(np.uint64) ^ np.uint64(key & MASK)), kind="stable")
    stratum = np.arange(len(ranked)) * strata // max(len(ranked), 1)
    wanted = np.full(strata, n // strata)
    wanted[strata - n % strata :] += 1
    taken = np.zeros(len(ranked), dtype=np.bool_)
    for each in range(strata):
        members = order[stratum[order] == each]
        taken[members[: wanted[each]]] = True
    rest = order[~taken[order]]
    taken[rest[: max(0, n - int(taken.sum()))]] = True
    return ranked[taken]


_WAYS: Mapping[type, Callable[[Analysis, Any, int], Sequence[int]]] = {
    ListSelection: _listed,
    SqlSelection: _answered,
    SampleSelection: _sampled,
}
