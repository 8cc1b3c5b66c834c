"""Every way out of the lake that SQL could try, and the limits of a question."""

import os
import shutil
import signal
import threading

import duckdb
import pytest

from saestore.errors import ConfigError, QueryError
from saestore.features import Limits, query, sandbox
from saestore.features.connect import answer, connect_to
from saestore.lake import Lake


MARK = "written in another folder"

WRITES = (
    "COPY (SELECT 1) TO '{lake}/x.csv'",
    "COPY features TO '{lake}/x.parquet' (FORMAT parquet)",
    "COPY artefacts FROM '{lake}/x.csv'",
    "EXPORT DATABASE '{lake}/x'",
    "IMPORT DATABASE '{lake}/x'",
    "ATTACH '{lake}/x.db'",
    "ATTACH ':memory:' AS other",
    "DETACH memory",
    "CREATE TABLE x AS SELECT 1",
    "CREATE OR REPLACE VIEW features AS SELECT 1",
    "CREATE MACRO f() AS 1",
    "DROP VIEW features",
    "INSERT INTO artefacts (kind) VALUES ('x')",
    "DELETE FROM artefacts",
    "WITH gone AS (DELETE FROM artefacts RETURNING *) SELECT * FROM gone",
    "WITH made AS (INSERT INTO artefacts (kind) VALUES ('x') RETURNING *) SELECT * FROM made",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{lake}/x.csv'",
    "EXPLAIN (ANALYZE) COPY (SELECT 1) TO '{lake}/x.csv'",
    # what seems to be explained stands in a comment
    "EXPLAIN (ANALYZE /* ) SELECT 1 -- */) COPY (SELECT 1) TO '{lake}/x.csv'",
    "/* /* */ EXPLAIN SELECT 1 -- */ EXPLAIN ANALYZE COPY (SELECT 1) TO '{lake}/x.csv'",
    "EXPLAIN ANALYZE /* */ COPY (SELECT 1) TO '{lake}/x.csv'",
    "SELECT 1; COPY (SELECT 1) TO '{lake}/x.csv'",
    "SELECT * FROM query('COPY (SELECT 1) TO ''{lake}/x.csv''')",
    "PREPARE p AS COPY (SELECT 1) TO '{lake}/x.csv'",
    "EXECUTE p",
    "CALL force_checkpoint()",
    "CALL enable_logging(storage_path = '{lake}/x')",
    "FROM enable_logging(storage_path = '{lake}/x')",
    "FROM enable_profiling(save_location = '{lake}/x')",
    "PRAGMA enable_profiling",
    "PRAGMA profiling_output = '{lake}/x.json'",
    "PRAGMA copy_database('memory', 'other')",
    "SET threads = 1",
    "SET lock_configuration = false",
    "SET enable_external_access = true",
    "SET allowed_directories = ['/']",
    "SET temp_directory = '/etc'",
    "SET VARIABLE x = 1",
    "RESET allowed_directories",
    "INSTALL httpfs",
    "FORCE INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '{lake}/x.so'",
    "UPDATE EXTENSIONS",
    "CREATE SECRET (TYPE s3)",
    "CREATE PERSISTENT SECRET (TYPE s3)",
    "CHECKPOINT",
    "VACUUM",
    "BEGIN",
    "COMMIT",
    "USE system",
)  # fmt: skip
"""Statements that do more than read, or would if they could."""

PLACES = (
    "{outside}/secret.csv",
    "{outside}/*.csv",
    "{lake}/../outside/secret.csv",
    "{lake}/link.csv",
    "{lake}/link/secret.csv",
    "{lake}/link/*",
    "{lake}/**/secret.csv",
    "{lake}//./link.csv",
    "file://{outside}/secret.csv",
    "{outside}/secret.parquet",
    "{lake}/link.parquet",
    ".tmp/secret.csv",
    "secret.csv",
    "~/secret.csv",
)
"""Ways to name a file that does not lie in the lake."""


@pytest.fixture
def walls(planted_lake, tmp_path, monkeypatch):
    """A lake, and a folder outside with secrets, to which links in the lake lead."""
    lake, outside = tmp_path / "lake", tmp_path / "outside"
    shutil.copytree(planted_lake.storage.path(), lake)
    for folder in (outside, outside / ".tmp"):
        folder.mkdir()
        (folder / "secret.csv").write_text(f"a\n{MARK}\n")
        (folder / "secret.json").write_text(f'[{{"a": "{MARK}"}}]')
        duckdb.sql(f"SELECT '{MARK}' AS a").write_parquet(str(folder / "secret.parquet"))
    (lake / "link").symlink_to(outside)
    for suffix in ("csv", "json", "parquet"):
        (lake / f"link.{suffix}").symlink_to(outside / f"secret.{suffix}")
    monkeypatch.chdir(outside)
    monkeypatch.setenv("HOME", str(outside))
    monkeypatch.setenv("MARK", MARK)
    return Lake.at(lake), {"lake": str(lake), "outside": str(outside)}


def files(folder):
    return {
        path: None if path.is_symlink() or path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }


def test_nothing_is_written_and_nothing_changed(walls, tmp_path):
    lake, places = walls
    before = files(tmp_path)
    with connect_to(lake, lake.refs("features")) as connection:
        for template in WRITES:
            sql = template.format(**places)
            with pytest.raises(QueryError) as caught:
                answer(connection, sql, {})
            assert caught.value.hint, sql
        listed = answer(connection, "SELECT count(*) AS n FROM artefacts", {}).to_pylist()
        assert listed == [{"n": 4}]
        answer(connection, "FROM features", {})
    assert files(tmp_path) == before


def test_no_function_reads_a_file_that_is_not_the_lake_s(walls):
    lake, places = walls
    with connect_to(lake, lake.refs("features")) as connection:
        known = answer(
            connection,
            "SELECT DISTINCT function_name AS name, function_type = 'table' AS many "
            "FROM duckdb_functions() WHERE len(parameter_types) > 0 AND function_type IN "
            "('table', 'scalar') AND parameter_types[1] IN ('VARCHAR', 'ANY', 'VARCHAR[]') "
            "AND regexp_full_match(function_name, '[a-z_0-9]+') AND "
            "(function_type = 'table' OR regexp_matches(function_name, "
            "'read|file|path|env|load|get|url|secret|setting')) ORDER BY name",
            {},
        ).to_pylist()
        names = {each["name"] for each in known}
        assert {"read_text", "read_csv", "read_parquet", "glob", "sniff_csv", "read_json"} <= names
        for function in known:
            for place in PLACES if function["many"] else PLACES[:1]:
                path = place.format(**places)
                call = f"{function['name']}({sandbox.views.literal(path)})"
                sql = f"SELECT * FROM {call}" if function["many"] else f"SELECT {call}"
                try:
                    found = answer(connection, sql, {}).to_pylist()
                except QueryError:
                    continue
                assert MARK not in str(found), sql
                assert not function["many"] or "secret" not in str(found), sql


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM '{outside}/secret.csv'",
        "SELECT * FROM '{lake}/link.parquet'",
        "SELECT * FROM '{lake}/link/secret.parquet'",
        "SELECT * FROM read_text(['{lake}/link.csv'])",
        "SELECT * FROM query('FROM read_text(''{outside}/secret.csv'')')",
        "FROM json_execute_serialized_sql(json_serialize_sql('FROM read_text(''{outside}/a.csv'')'))",
        "SELECT * FROM query_table('{outside}/secret.csv')",
        "SELECT (SELECT any_value(content) FROM read_text('{outside}/secret.csv'))",
        "SELECT * FROM read_text('/proc/self/environ')",
        "SELECT * FROM read_csv('/dev/stdin')",
        "SELECT * FROM read_parquet('http://127.0.0.1:1/x.parquet')",
        "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
        "SELECT * FROM read_parquet('hf://datasets/a/b.parquet')",
        "SELECT getenv('MARK')",
        "SUMMARIZE '{outside}/secret.csv'",
        "DESCRIBE FROM '{outside}/secret.parquet'",
        "SHOW TABLES FROM '{outside}/secret.db'",
        "EXPLAIN ANALYZE FROM read_text('{outside}/secret.csv')",
        "FROM places",
        "FROM lake",
    ],
)
def test_nothing_outside_is_read(walls, sql):
    lake, places = walls
    with pytest.raises(QueryError) as caught:
        query(lake, sql.format(**places))
    assert MARK not in caught.value.message
    assert caught.value.hint


def test_a_lake_behind_a_link_and_its_own_files_are_read(walls, tmp_path):
    lake, places = walls
    (tmp_path / "door").symlink_to(places["lake"])
    through = Lake.at(tmp_path / "door")
    sql = "SELECT sum(n_firings) AS n FROM features"
    assert query(through, sql).equals(query(lake, sql))
    path = f"{tmp_path}/door/features/planted/relu/default/features/part-00000.parquet"
    assert query(through, f"SELECT count(*) AS n FROM '{path}'").to_pylist() == [{"n": 9}]


# in few tasks: the engine itself would look for Ctrl-C only after hours
LONG = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE random() > 2"


def test_a_question_ends_when_its_time_is_up(planted_lake):
    limits = Limits(seconds=0.1, threads=1)
    with connect_to(planted_lake, [], limits=limits) as connection:
        with pytest.raises(QueryError, match=r"after 0\.1 s: its time is up") as caught:
            answer(connection, LONG, {}, limits=limits)
        assert "--time-limit" in caught.value.hint
        assert answer(connection, "SELECT 1 AS a", {}, limits=limits).to_pylist() == [{"a": 1}]


def test_ctrl_c_ends_a_question_and_the_next_one_is_answered(planted_lake):
    with connect_to(planted_lake, [], limits=Limits(threads=1)) as connection:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            answer(connection, LONG, {})
        assert answer(connection, "SELECT 1 AS a", {}).to_pylist() == [{"a": 1}]


def test_a_long_question_prints_nothing_between_answers(planted_lake):
    sql = "SELECT current_setting('enable_progress_bar') AS shown"
    assert query(planted_lake, sql).to_pylist() == [{"shown": False}]


def test_memory_is_limited(planted_lake):
    limits = Limits(memory_mib=8, spill_mib=0, threads=1)
    with pytest.raises(QueryError, match=r"(?i)out of memory") as caught:
        query(planted_lake, "SELECT list(x) FROM range(3000000) t(x)", limits=limits)
    assert "--memory" in caught.value.hint


@pytest.mark.parametrize(
    "given", [{"memory_mib": 0}, {"threads": 0}, {"seconds": 0.0}, {"spill_mib": -1}]
)
def test_limits_are_above_zero(given):
    with pytest.raises(ConfigError, match=next(iter(given))):
        Limits(**given)
