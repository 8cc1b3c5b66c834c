"""`saestore index` and `show feature` beside it, on a real mongod."""

import json
import shutil

import pytest


pytestmark = pytest.mark.serve

UNREACHABLE = "mongodb://ada:hunter2@127.0.0.1:9/?serverSelectionTimeoutMS=100"


@pytest.fixture
def lake(lake_path, monkeypatch):
    monkeypatch.setenv("SAESTORE_LAKE", str(lake_path))
    return lake_path


def test_a_feature_is_the_same_from_the_index_and_the_commands_say_what_they_did(
    run, lake, mongo_database, monkeypatch
):
    show = ("show", "feature", "demo/topk-32", "3")
    before = run(*show)
    assert before.code == 0
    assert "does not hold features/demo/topk-32/default" in before.err
    assert "read from the lake" in before.err
    status = run("index", "status")
    assert (status.code, "it is empty" in status.out) == (1, True)
    assert "saestore index sync" in status.err

    done = run("index", "sync", "--no-progress")
    assert done.code == 0
    assert "written: features/demo/topk-32/default" in done.out
    assert "nothing to do" in run("index", "sync").out
    assert run("index", "status").code == 0
    assert "every document is as the lake says" in run("index", "verify").out

    after = run(*show)
    assert after.out == before.out
    assert after.err.startswith("read from the index at mongodb://127.0.0.1:")
    document = json.loads(run(*show, "--output", "json").out)
    assert document.pop("source") == "index"
    monkeypatch.setenv("SAESTORE_MONGO_URI", UNREACHABLE)
    away = run(*show, "--output", "json")
    lake_says = json.loads(away.out)
    assert lake_says.pop("source") == "lake"
    assert lake_says == document
    assert "cannot be reached" in away.err
    refused = run("index", "sync")
    assert (refused.code, "cannot be reached" in refused.err) == (1, True)
    assert (
        "hunter2" not in away.err + away.out + refused.err + run("index", "verify", "--debug").err
    )
    monkeypatch.setenv("SAESTORE_MONGO_URI", "")
    unasked = run(*show)
    assert (unasked.out, unasked.err) == (before.out, "")
    missing = run("index", "status")
    assert (missing.code, "no MongoDB is configured" in missing.err) == (2, True)


def test_every_answer_as_json(run, lake, mongo_database, tmp_path):
    done = json.loads(run("index", "rebuild", "--output", "json").out)
    assert done["features"] > 0
    assert json.loads(run("index", "status", "--output", "json").out)["current"] is True
    assert json.loads(run("index", "verify", "--output", "json").out)["same"] is True
    other = tmp_path / "other"
    shutil.copytree(lake, other)
    status = run("index", "status", "--lake", other, "--output", "json")
    assert (status.code, json.loads(status.out)["current"]) == (1, False)
    verified = run("index", "verify", "--lake", other, "--output", "json")
    found = json.loads(verified.out)
    assert (verified.code, found["same"]) == (1, False)
    assert found["differences"] == [f"meta: it is the index of {lake}"]
    refused = run("index", "sync", "--lake", other)
    assert (refused.code, "saestore index rebuild" in refused.err) == (1, True)
    dropped = json.loads(run("index", "drop", "--output", "json").out)
    assert dropped["features"] == done["features"]
    assert "there was no index" in run("index", "drop").out
