"""The JSON API says what the library says."""

import datetime as dt
import json
import time

import pytest

from saestore.api.serving import LiveModels
from saestore.features import FeatureTable, Filter, ListingQuery, feature_overlap, named_queries
from saestore.features.named import run_named
from saestore.lake import lineage


NAME = "demo/topk-32/default"
API = "/api/v1"
ANALYSIS = f"{API}/analyses/{NAME}"


@pytest.fixture(scope="module")
def analysis(own_lake):
    return own_lake.analysis(NAME)


@pytest.fixture(scope="module")
def feature(analysis):
    """A feature that fires a good deal."""
    table = FeatureTable(analysis)
    return table.listing(ListingQuery(sort="n_firings", descending=True, limit=1)).lines[0].feature


def plain(value):
    return json.loads(json.dumps(value, default=str))


def test_a_feature_is_what_the_library_says_of_it(client, analysis, feature):
    page = plain(analysis.feature(feature).to_dict())
    where = f"{ANALYSIS}/features/{feature}"
    assert client.get(where).json() == page
    for part, key in (
        ("histograms", "histograms"), ("logits", "logits"), ("tokens", "tokens"),
        ("neighbours", "neighbours"), ("coactive", "coactive"), ("examples", "groups"),
    ):  # fmt: skip
        assert client.get(f"{where}/{part}").json() == page[key]
    cut = plain(analysis.feature(feature).cut(n=1, around=2).to_dict())
    assert client.get(where, params={"n": 1, "around": 2}).json() == cut
    top = client.get(f"{where}/examples", params={"subsample": "top"}).json()
    assert top == [group for group in page["groups"] if group["subsample"] == "top"]
    other = (feature + 1) % analysis.n_features
    together = client.get(f"{where}/overlap/{other}").json()
    assert together == plain(vars(feature_overlap(analysis, feature, other)))


def test_a_table_is_what_the_library_lists(client, analysis):
    table = FeatureTable(analysis)
    query = ListingQuery(
        sort="max",
        descending=True,
        filters=(Filter.parse("n_firings>1"), Filter.parse("q50!=null")),
        search="e",
        offset=3,
        limit=7,
    )
    asked = {
        "sort": "max", "order": "desc", "filter": ["n_firings>1", "q50!=null"],
        "search": "e", "offset": 3, "limit": 7,
    }  # fmt: skip
    found = client.get(f"{ANALYSIS}/features", params=asked).json()
    wanted = table.listing(query)
    assert found["total"] == wanted.total > 10
    assert [line["feature"] for line in found["lines"]] == [line.feature for line in wanted.lines]
    assert found["lines"] == plain([vars(line) for line in wanted.lines])
    asked = {"seed": 5, "filter": "n_firings>1"}
    drawn = client.get(f"{ANALYSIS}/features/random", params=asked).json()
    expected = table.random(ListingQuery(filters=(Filter.parse("n_firings>1"),)), 5)
    assert [line["feature"] for line in drawn["lines"]] == [expected]


def test_artefacts_and_their_lineage_are_those_of_the_lake(client, own_lake):
    listed = client.get(f"{API}/artefacts").json()["artefacts"]
    assert [(each["kind"], each["name"]) for each in listed] == [
        (remark.ref.kind, remark.ref.name) for remark in own_lake.ls()
    ]
    for ref in own_lake.lake.refs():
        manifest = own_lake.lake.manifest(ref)
        found = client.get(f"{API}/artefacts/{ref.kind}/{ref.name}").json()
        assert found == manifest.model_dump(mode="json")
        family = client.get(f"{API}/lineage/{ref.kind}/{ref.name}").json()
        children = [(c.kind, c.name) for c in lineage.children(own_lake.lake, ref)]
        assert [(c["kind"], c["name"]) for c in family["children"]] == children
        assert family["artefact"]["fingerprint"] == manifest.fingerprint


def test_dictionaries_say_how_good_they_are(client, own_lake):
    (line,) = client.get(f"{API}/dictionaries").json()["dictionaries"]
    one = client.get(f"{API}/dictionaries/demo/topk-32").json()
    assert one["line"] == line
    assert line["analyses"] == ["default"]
    scores = {(s["evaluation"], s["metric"]): s["value"] for s in one["scores"]}
    asked = own_lake.sql("SELECT evaluation, metric, value FROM scores").to_pylist()
    assert scores == {(row["evaluation"], row["metric"]): row["value"] for row in asked}
    assert {score["metric"] for score in line["scores"]} >= {"l0", "explained_variance"}
    assert all(score in one["scores"] for score in line["scores"])
    curves = client.get(
        f"{API}/dictionaries/demo/topk-32/metrics", params={"metric": "loss"}
    ).json()
    steps = own_lake.sql("SELECT step, value FROM metrics WHERE name = 'loss' ORDER BY step")
    assert curves["curves"] == [
        {"name": "loss", "steps": steps["step"].to_pylist(), "values": steps["value"].to_pylist()}
    ]
    (about,) = client.get(f"{API}/dictionaries/demo/topk-32/analyses").json()["analyses"]
    assert about["n_features"] == own_lake.analysis(NAME).n_features


def test_sql_answers_as_the_library_does(client, own_lake):
    sql = (
        "SELECT feature, max, q50, 'a' AS text, DATE '2020-02-03' AS day, [1, NULL] AS list, "
        "'nan'::DOUBLE AS nothing, '\\xAB'::BLOB AS bytes, 1.5::DECIMAL(4, 2) AS money "
        "FROM features WHERE feature < $n ORDER BY feature"
    )
    found = client.post(f"{API}/sql", json={"sql": sql, "params": {"n": 3}}).json()
    wanted = own_lake.sql(sql, {"n": 3}).to_pylist()
    assert [each["name"] for each in found["columns"]] == list(wanted[0])
    assert not found["truncated"]
    for row, line in zip(found["rows"], wanted, strict=True):
        assert row[:4] == [line["feature"], line["max"], line["q50"], "a"]
        assert row[4:] == [str(dt.date(2020, 2, 3)), [1, None], None, "ab", "1.50"]


def test_sql_ends_at_its_limits(client_of):
    small = client_of(sql_rows=5, sql_seconds=0.5, sql_answer_mib=1)
    rows = "SELECT feature FROM features ORDER BY feature"
    found = small.post(f"{API}/sql", json={"sql": rows}).json()
    assert (found["rows"], found["truncated"]) == ([[0], [1], [2], [3], [4]], True)
    found = small.post(f"{API}/sql", json={"sql": rows, "limit": 2}).json()
    assert (found["rows"], found["truncated"]) == ([[0], [1]], True)
    exact = small.post(f"{API}/sql", json={"sql": f"{rows} LIMIT 5"}).json()
    assert (len(exact["rows"]), exact["truncated"]) == (5, False)
    wide = "SELECT repeat('x', 1000000) AS text FROM range(5)"
    found = small.post(f"{API}/sql", json={"sql": wide}).json()
    assert (len(found["rows"]), found["truncated"]) == (1, True)
    began = time.perf_counter()
    slow = "SELECT count(*) FROM range(100000) a, range(100000) b WHERE (a.range * b.range) % 7 = 3"
    late = small.post(f"{API}/sql", json={"sql": slow})
    assert (late.status_code, time.perf_counter() - began < 5) == (422, True)
    assert "time is up" in late.json()["detail"]


def test_what_python_has_no_value_for_is_asked_for_as_text(client):
    far = client.post(f"{API}/sql", json={"sql": "SELECT '290000-01-01'::DATE AS day"})
    assert (far.status_code, "day::VARCHAR" in far.json()["hint"]) == (422, True)


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE features",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT 1; SELECT 2",
        "COPY features TO '/tmp/x'",
        "SET memory_limit = '1GB'",
        "ATTACH '/tmp/x.db'",
        "INSTALL httpfs",
    ],
)
def test_sql_only_reads_and_only_the_lake(client, sql):
    answer = client.post(f"{API}/sql", json={"sql": sql})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["hint"]


def test_questions_that_are_ready_are_listed_and_answered(client, own_lake, feature):
    listed = client.get(f"{API}/queries").json()["queries"]
    assert [each["name"] for each in listed] == list(named_queries())
    asked = {"analysis": "demo/topk-32", "params": {"feature": feature, "n": 3}}
    found = client.post(f"{API}/queries/top_contexts", json=asked).json()
    wanted = run_named(own_lake.lake, "top_contexts", asked["params"])
    assert found["rows"] == [list(row.values()) for row in wanted.to_pylist()]


def test_a_text_gets_what_the_analysis_says_of_it(client_of, own_lake, analysis):
    live = client_of(live=LiveModels("the tiny model", own_lake.live))
    (context,) = analysis.sql(
        "SELECT context, text, n_positions FROM contexts ORDER BY n_positions DESC, context LIMIT 1"
    ).to_pylist()
    asked = {"texts": [context["text"], "a b"], "k": 1000}
    found = live.post(f"{ANALYSIS}/texts", json=asked).json()
    wanted = own_lake.features_for_text(NAME, asked["texts"], 1000).to_pylist()
    assert found["firings"] == plain(wanted)
    pieces = [[token["text"] for token in tokens] for tokens in found["tokens"]]
    shown = ["".join(each).replace("<bos>", "") for each in pieces]
    assert shown == [text.replace("<bos>", "") for text in asked["texts"]]
    by_token = live.post(f"{ANALYSIS}/texts", json={**asked, "k": 2, "by_token": True}).json()
    wanted = own_lake.features_for_text(NAME, asked["texts"], 2, by_token=True).to_pylist()
    assert by_token["firings"] == plain([{**line, "n": None} for line in wanted])
    long = live.post(f"{ANALYSIS}/texts", json={"texts": ["x" * 30_000]})
    assert long.status_code == 413


def test_without_a_model_no_text_is_run(client):
    answer = client.post(f"{ANALYSIS}/texts", json={"texts": ["a"]})
    assert (answer.status_code, "--live" in answer.json()["hint"]) == (404, True)


def test_annotations_are_written_where_that_is_allowed(client, client_of, own_lake, feature):
    where = f"{ANALYSIS}/features/{feature}"
    said = {"author": "Ada", "values": {"name": "Qwyjibo dates", "tag": ["x"], "bookmark": True}}
    assert client.post(f"{where}/annotations", json=said).status_code == 403
    writing = client_of(annotate=True)
    before = client.get(where)
    events = writing.post(f"{where}/annotations", json=said).json()["annotations"]
    # another server over the same lake sees it at once
    again = client.get(where, headers={"If-None-Match": before.headers["etag"]})
    assert again.status_code == 200
    assert again.json()["annotations"] == client.get(f"{where}/annotations").json()["annotations"]
    assert [e.value for e in own_lake.annotations(NAME, feature=feature)] == [
        each["value"] for each in again.json()["annotations"]
    ]
    assert {each["event_id"] for each in events} == {
        e.event_id for e in own_lake.annotations(NAME, feature=feature)
    }
    searched = client.get(f"{ANALYSIS}/features", params={"search": "qwyj"}).json()
    assert [line["feature"] for line in searched["lines"]] == [feature]
    marked = client.get(f"{ANALYSIS}/annotations", params={"field": "bookmark"}).json()
    assert [each["feature"] for each in marked["annotations"]] == [feature]
    back = {"author": "Ada", "values": dict.fromkeys(said["values"])}
    assert writing.post(f"{where}/annotations", json=back).status_code == 200
    assert client.get(where).json()["annotations"] == []
    history = client.get(f"{where}/annotations", params={"history": True}).json()["annotations"]
    assert [each["deleted"] for each in history] == [False] * 3 + [True] * 3
    wrong = writing.post(f"{where}/annotations", json={"author": "Ada", "values": {"name": 3}})
    assert (wrong.status_code, wrong.json()["expected"]) == (422, "a text")


def test_what_has_not_changed_is_not_sent_again(client, feature):
    for where in (f"{ANALYSIS}/features/{feature}", f"{ANALYSIS}/overview", f"{API}/queries"):
        first = client.get(where)
        tag = first.headers["etag"]
        same = client.get(where, headers={"If-None-Match": f'"other", {tag}'})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
        assert client.get(where, headers={"If-None-Match": '"other"'}).content == first.content
    one, other = (client.get(f"{ANALYSIS}/features/{f}").headers["etag"] for f in (0, 1))
    assert one != other


MISTAKES = {
    "no such parameter": (f"{ANALYSIS}/features?srt=max", 422, "did you mean sort?"),
    "no such statistic": (f"{ANALYSIS}/features?sort=densty", 422, "did you mean density"),
    "no such feature": (f"{ANALYSIS}/features/99999999", 404, "numbered 0 to"),
    "no number": (f"{ANALYSIS}/features/one", 422, "openapi.json"),
    "no such subsample": (f"{ANALYSIS}/features/1?subsample=tpo", 422, "did you mean top"),
    "no such analysis": (f"{API}/analyses/demo/topk-32/defalt/overview", 404, "did you mean"),
    "no such metric": (f"{API}/dictionaries/demo/topk-32/metrics?metric=lss", 422, "loss"),
    "too short a name": (f"{API}/artefacts/features/demo", 404, "/api/v1/artefacts"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_says_what_to_do(client, case):
    where, status, hint = MISTAKES[case]
    answer = client.get(where)
    problem = answer.json()
    assert (answer.status_code, problem["status"]) == (status, status)
    assert answer.headers["content-type"] == "application/problem+json"
    assert hint in problem["hint"]
    assert problem["expected"]
