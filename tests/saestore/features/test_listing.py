"""Features in a table: order, conditions and words against brute force over the tables."""

import math
import operator

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from saestore.errors import QueryError
from saestore.features import Analysis, FeatureTable, Filter, ListingQuery
from saestore.features.listing import COLUMNS, STATISTICS, drawn
from saestore.features.search import WordIndex, words


OPS = {
    "=": operator.eq, "!=": operator.ne,
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


@pytest.fixture(scope="module")
def table(planted_lake):
    return FeatureTable(Analysis.open(planted_lake, "planted/relu"))


@pytest.fixture(scope="module")
def lines(table):
    columns = ", ".join(f'"{name}"' for name in STATISTICS)
    means = (
        "SELECT feature, avg(score) AS explanation_score FROM interpretation_scores GROUP BY ALL"
    )
    return table.analysis.sql(
        f"SELECT {columns}, explanation_score FROM features LEFT JOIN ({means}) USING (feature) "
        "ORDER BY feature"
    ).to_pylist()


def holds(line, each):
    value = line[each.column]
    if each.value is None:
        return (value is None) == (each.op == "=")
    return value is not None and OPS[each.op](value, each.value)


@st.composite
def queries(draw, lines):
    column = st.sampled_from(COLUMNS)

    def condition():
        name = draw(column)
        seen = [line[name] for line in lines if line[name] is not None]
        value = draw(st.sampled_from([*seen, None, 0.0, -1e300]))
        op = draw(st.sampled_from(list(OPS)[: 2 if value is None else None]))
        return Filter(name, op, None if value is None else float(value))

    return ListingQuery(
        sort=draw(column),
        descending=draw(st.booleans()),
        filters=tuple(condition() for _ in range(draw(st.integers(0, 2)))),
        offset=draw(st.integers(0, len(lines) + 1)),
        limit=draw(st.integers(1, len(lines) + 1)),
    )


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_stretch_is_what_sorting_and_filtering_all_lines_gives(table, lines, data):
    query = data.draw(queries(lines))
    kept = [line for line in lines if all(holds(line, each) for each in query.filters)]

    def place(line):
        value = line[query.sort]
        sign = -1 if query.descending else 1
        return (value is None, 0 if value is None else sign * value, line["feature"])

    kept.sort(key=place)
    found = table.listing(query)
    assert found.total == len(kept)
    wanted = kept[query.offset : query.offset + query.limit]
    assert [line.feature for line in found.lines] == [line["feature"] for line in wanted]
    for line, expected in zip(found.lines, wanted, strict=True):
        scored = {"explanation_score": line.explanation_score}
        assert {"feature": line.feature, **line.statistics, **scored} == expected
    assert all(Filter.parse(str(each)) == each for each in query.filters)


def test_a_search_finds_the_features_whose_tokens_begin_so(table):
    tokens = table.analysis.sql(
        "SELECT feature, token FROM token_stats WHERE shift = 0"
    ).to_pylist()
    of_feature = {n: set() for n in range(table.analysis.n_features)}
    for line in tokens:
        of_feature[line["feature"]] |= set(words(line["token"]))
    seen = sorted({word for each in of_feature.values() for word in each})
    assert seen
    assert table.words.of_features(list(of_feature)) == {
        n: sorted(w) for n, w in of_feature.items()
    }
    for query in (*seen, seen[0][:1], f"{seen[0].upper()} {seen[-1]}", "nothing-such"):
        wanted = [
            feature
            for feature, there in of_feature.items()
            if all(any(w.startswith(p) for w in there) for p in words(query))
        ]
        found = table.listing(ListingQuery(search=query))
        assert [line.feature for line in found.lines] == wanted
        assert found.total == len(wanted)


def test_what_people_wrote_is_searched_with_the_tokens(table):
    texts = {2: ["Dates & CENTURIES"], 0: ["never fires"]}
    for query, wanted in (("cent dat", [2]), ("&", [2]), ("NEVER", [0]), ("dates never", [])):
        found = table.listing(ListingQuery(search=query), texts)
        assert [line.feature for line in found.lines] == wanted


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), max_size=20),
    st.lists(st.text("aAbß. ﬁ_", max_size=5), min_size=6, max_size=6),
    st.text("aAbß. ﬁ_", max_size=4),
)
def test_the_word_index_is_a_search_through_all_pairs(pairs, tokens, query):
    array = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    index = WordIndex.of(
        array[:, 0], array[:, 1], lambda ids: [tokens[at] for at in ids.tolist()], 5
    )
    for feature, found in enumerate(index.matching(query).tolist()):
        there = {w for f, token in pairs if f == feature for w in words(tokens[token])}
        assert found == all(any(w.startswith(p) for w in there) for p in words(query))


def test_a_seed_draws_one_feature_of_those_that_match(table):
    query = ListingQuery(filters=(Filter.parse("n_firings>0"),), sort="max")
    seen = {table.random(query, seed) for seed in range(64)}
    assert seen == set(range(1, table.analysis.n_features))
    assert table.random(query, 3) == table.random(query, 3)
    assert table.random(ListingQuery(search="nothing-such"), 3) is None
    assert drawn(0, 1) is None


REFUSED = {
    "sort": (lambda: ListingQuery(sort="densty"), "did you mean density"),
    "column": (lambda: Filter.parse("densty<1"), "did you mean density"),
    "no comparison": (lambda: Filter.parse("density"), "COLUMN OP NUMBER"),
    "no number": (lambda: Filter.parse("density<one"), "COLUMN OP NUMBER"),
    "nan": (lambda: Filter.parse("density<nan"), "COLUMN OP NUMBER"),
    "order of null": (lambda: Filter.parse("q50<null"), "undefined"),
    "operator": (lambda: Filter("max", "~", 1.0), "COLUMN OP NUMBER"),
    "infinity": (lambda: Filter("max", "<", math.inf), "COLUMN OP NUMBER"),
    "offset": (lambda: ListingQuery(offset=-1), "stretches"),
    "no line": (lambda: ListingQuery(limit=0), "stretches"),
    "too many": (lambda: ListingQuery(limit=1001), "stretches"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_answered_says_what_to_do(case):
    made, said = REFUSED[case]
    with pytest.raises(QueryError) as caught:
        made()
    assert said in caught.value.hint
    assert caught.value.expected


def test_only_some_orders_are_kept_and_all_stay_right(table):
    keys = [(column, descending) for column in STATISTICS for descending in (False, True)]
    first = {key: table.order(key[0], descending=key[1]) for key in keys}
    assert len(first) > len(table._orders)
    assert list(table._orders) == keys[-len(table._orders) :]
    for key in reversed(keys):
        assert np.array_equal(table.order(key[0], descending=key[1]), first[key])
