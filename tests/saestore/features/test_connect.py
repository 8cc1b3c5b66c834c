import duckdb
import pytest

from saestore.errors import DamagedArtefactError, QueryError
from saestore.features import connect, query
from saestore.features.connect import connect_to
from saestore.features.views import _OF_THE_LAKE, KEYS, VIEWS
from saestore.lake import Lake
from saestore.testing.analyses import plant, planted_analysis


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_answers_and_an_empty_lake_has_the_same_columns(planted_lake, empty_lake, view):
    full = query(planted_lake, f"SELECT * FROM {view}")
    none = query(empty_lake, f"SELECT * FROM {view}")
    assert none.num_rows == 0
    extra = set(full.schema.names) - set(none.schema.names)
    assert extra <= {"shelf"}  # the corpus's own metadata
    for name in none.schema.names:
        assert none.schema.field(name).type == full.schema.field(name).type
    if view not in set(_OF_THE_LAKE) | {"artefacts"}:
        assert none.schema.names[:3] == list(KEYS)
        # An autoencoder of a made-up model writes to one hookpoint, and to no logits.
        of_heads = {"decoders", "decoder_pairs", "head_firings", "head_scaling", "feature_heads"}
        said = {"annotations", "current_annotations"}  # nobody said anything
        assert full.num_rows or view in {*of_heads, *said, "attention", "logits", "logit_stats"}


def test_keys_name_the_analysis(planted_lake):
    found = query(planted_lake, "SELECT DISTINCT series, dictionary, analysis FROM firings")
    assert found.to_pylist() == [{"series": "planted", "dictionary": "relu", "analysis": "default"}]


def test_parameters_are_bound(planted_lake):
    found = query(planted_lake, "SELECT $a + 1 AS b, $c AS d", {"a": 1, "c": "x'y"})
    assert found.to_pylist() == [{"b": 2, "d": "x'y"}]


def test_artefacts_lists_what_the_lake_holds(planted_lake):
    rows = query(planted_lake, "SELECT kind, name, finished, parents FROM artefacts").to_pylist()
    assert {r["kind"] for r in rows} == {"activations", "dictionary", "features", "interpretation"}
    (analysis,) = [r for r in rows if r["kind"] == "features"]
    assert analysis["finished"]
    assert set(analysis["parents"]) == {"dictionaries/planted/relu", "activations/planted"}


@pytest.mark.parametrize(
    ("sql", "message", "hint"),
    [
        ("SELEC 1", "syntax error", "DuckDB"),
        ("SELECT nope FROM features", "nope.*", "DESCRIBE"),
        ("SELECT * FROM featurs", "Did you mean", "features, firings"),
        ("SELECT $a", "parameters: a", "parameter"),
        ("SELECT 1; SELECT 2", "2 statements", "one question"),
        ("", "0 statements", "one question"),
        ("SELECT * FROM read_text('/etc/passwd')", "Permission", "this lake only"),
        ("SELECT * FROM read_csv('/etc/passwd')", "Permission", "this lake only"),
        ("SELECT * FROM '/etc/passwd'", "", "this lake only|views"),
        ("SELECT * FROM read_parquet('https://example.org/x.parquet')", "", "this lake only"),
        ("COPY (SELECT 1) TO '/tmp/saestore-must-not.csv'", "COPY is not a question", "save"),
        ("EXPLAIN ANALYZE COPY (SELECT 1) TO '/tmp/x.csv'", "COPY is not a question", "save"),
        ("EXPLAIN (ANALYZE) COPY (SELECT 1) TO '/tmp/x.csv'", "not a question", "save"),
        ("EXPLAIN /* */ ANALYZE COPY (SELECT 1) TO '/tmp/x.csv'", "", ""),
        ("CREATE TABLE x AS SELECT 1", "CREATE is not a question", "save"),
        ("ATTACH '/tmp/x.db'", "not a question", "save"),
        ("INSTALL httpfs", "not a question", "save"),
        ("SET threads = 1", "not a question", "save"),
        ("PRAGMA version", "not a question", "save"),
        ("DROP VIEW features", "not a question", "save"),
    ],
)  # fmt: skip
def test_what_does_not_read_this_lake_is_refused(planted_lake, sql, message, hint):
    with pytest.raises(QueryError, match=f"(?s){message}") as caught:
        query(planted_lake, sql)
    assert any(part in caught.value.hint for part in hint.split("|"))
    assert caught.value.hint


def test_a_path_out_of_the_lake_is_refused(planted_lake):
    root = planted_lake.storage.url.replace("'", "''")
    with pytest.raises(QueryError, match="Permission"):
        query(planted_lake, f"SELECT * FROM read_text('{root}/../../../../../etc/passwd')")


@pytest.mark.parametrize(
    "sql", ["SELECT 1", "FROM features", "DESCRIBE features", "SHOW TABLES", "VALUES (1)",
            "SUMMARIZE features", "EXPLAIN SELECT 1", "EXPLAIN ANALYZE FROM features",
            "WITH a AS (SELECT 1 AS x) FROM a", "-- why\nSELECT 1;"],
)  # fmt: skip
def test_what_reads_is_answered(planted_lake, sql):
    assert query(planted_lake, sql).num_rows


def test_the_connection_itself_is_locked_in(planted_lake, tmp_path):
    with connect(planted_lake) as connection:
        assert connection.execute("SELECT count(*) FROM features").fetchall() == [(9,)]
        for sql in (
            "SELECT * FROM read_text('/etc/passwd')",
            f"COPY (SELECT 1) TO '{tmp_path}/x.csv'",
            "SET enable_external_access = true",
            "SET lock_configuration = false",
            "INSTALL httpfs",
            "LOAD httpfs",
        ):
            with pytest.raises(duckdb.Error):
                connection.execute(sql)
    assert not list(tmp_path.iterdir())


def test_explain_shows_the_feature_filter_reaching_the_file(planted_lake):
    plan = query(planted_lake, "EXPLAIN SELECT value FROM firings WHERE feature = 4").to_pylist()
    text = str(plan)
    assert "READ_PARQUET" in text.upper()
    assert "feature = 4" in text


def test_only_the_views_that_a_question_names_are_made(planted_lake):
    refs = planted_lake.refs("features")
    for question, made in (
        ("SELECT count(*) FROM Firings", {"firings"}),
        ('SELECT 1 FROM "tokens" JOIN contexts USING (context)', {"tokens", "contexts"}),
    ):
        with connect_to(planted_lake, refs, question=question) as connection:
            shown = connection.sql("SHOW TABLES").fetchall()
            assert {name for (name,) in shown} == made | {"artefacts"}
    listed = query(planted_lake, "SHOW TABLES")["name"].to_pylist()
    assert {"firings", "features", "artefacts"} < set(listed)


def test_a_view_whose_name_is_put_together_is_found_all_the_same(planted_lake):
    direct = query(planted_lake, "SELECT count(*) AS n FROM features")
    assert query(planted_lake, "SELECT count(*) AS n FROM query_table('feat' || 'ures')") == direct
    with pytest.raises(QueryError, match="features"):
        query(planted_lake, "SELECT count(*) FROM featuers")


def test_damage_to_what_is_not_asked_for_stands_in_no_one_s_way(tmp_path):
    lake = Lake.at(tmp_path / "lake")
    ref, _ = planted_analysis(lake, planted=plant(contexts=6))
    lake.artefact(ref).remove("examples")
    assert query(lake, "SELECT count(*) AS n FROM features")["n"].to_pylist() == [9]
    with pytest.raises(DamagedArtefactError, match="examples"):
        query(lake, "SELECT count(*) FROM examples")
    with pytest.raises(DamagedArtefactError, match="examples"):
        query(lake, "SHOW TABLES")
