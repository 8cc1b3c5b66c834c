"""Saying something about a feature from the command line, and taking it along."""

import json
import shutil

import pytest

from saestore.exchange.annotations import FORMATS
from saestore_cli.commands import annotations as commands
from saestore_schemas.annotations import FIELDS


@pytest.fixture
def at(run, lake_path, tmp_path, monkeypatch):
    """A function that runs `saestore annotations WORDS` in a copy of the small lake's features."""
    shutil.copytree(lake_path / "features", tmp_path / "lake" / "features")
    monkeypatch.setenv("SAESTORE_AUTHOR", "ana")
    return lambda *words: run("annotations", *words, "--lake", tmp_path / "lake")


def test_the_command_line_knows_every_field_and_format():
    assert tuple(commands.Field) == FIELDS
    assert tuple(commands.AnnotationFormat) == tuple(FORMATS)


def test_said_listed_shown_and_taken_back(run, at, tmp_path):
    lake = ("--lake", tmp_path / "lake")
    words = ("--name", "the sea", "--tag", "a", "--tag", "b", "--bookmark", "--example", "waves")
    done = at("add", "demo/topk-32", 5, *words, "--confidence", "low")
    assert done.code == 0
    assert [line.split()[1] for line in done.out.splitlines()[2:]] == [
        "name",
        "examples",
        "confidence",
        "tags",
        "bookmark",
    ]
    at("add", "demo/topk-32", 5, "--drop", "bookmark", "--name", "the shore")
    at("add", "demo/topk-32", 6, "--notes", "other", "--author", "bo")
    now = json.loads(at("list", "demo/topk-32", "--output", "json").out)["annotations"]
    assert {(e["feature"], e["field"], e["author"]): e["value"] for e in now} == {
        (5, "name", "ana"): "the shore",
        (5, "examples", "ana"): ["waves"],
        (5, "confidence", "ana"): "low",
        (5, "tag", "ana"): ["a", "b"],
        (6, "notes", "bo"): "other",
    }
    history = at("list", "demo/topk-32", "--feature", 5, "--history").out
    assert "taken back" in history
    assert "the sea" in history
    assert "cli" in history
    only = at("list", "demo/topk-32", "--field", "tag", "--author", "ana").out
    assert "a, b" in only
    assert "shore" not in only
    assert "nobody said anything" in at("list", "demo/topk-32", "--author", "cy").out
    assert "the shore  ana" in run("show", "feature", "demo/topk-32", 5, *lake).out
    assert run("verify", "features/demo/topk-32/default", *lake).code == 0
    done = run("remove", "features/demo/topk-32/default", *lake)
    assert done.code == 1
    assert "5 annotations, of ana, bo" in done.err
    assert "--with-annotations" in done.err
    assert run("remove", "features/demo/topk-32/default", "--with-annotations", *lake).code == 0


def test_taken_along_and_put_together(at, tmp_path):
    at("add", "demo/topk-32", 5, "--name", "the sea")
    at("add", "demo/topk-32", 6, "--name", "the land", "--tag", "x")
    file = tmp_path / "registry.json"
    done = at("export", "demo/topk-32", file, "--format", "mlxterp")
    assert "2 annotations of 2 features of demo/topk-32/default for mlxterp" in done.out
    assert "; 1 have no place in it" in done.out
    assert json.loads(file.read_text()) == {"5": {"name": "the sea"}, "6": {"name": "the land"}}
    done = at("import", "demo/topk-32", file, "--format", "mlxterp", "--author", "bo")
    assert "2 annotations of 2 features added, 0 known already" in done.out
    done = json.loads(at("compact", "demo/topk-32", "--output", "json").out)
    assert done == {"events": 5, "files_before": 3, "files_after": 1, "removed": 0}
    assert "5 annotations: 1 file before, 1 now" in at("compact", "demo/topk-32").out


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("add", "demo/topk-32", 5), "nothing is said"),
        (("add", "demo/topk-32", 5, "--name", "x", "--drop", "name"), "given and dropped"),
        (("add", "demo/topk-32", 10**6, "--name", "x"), "no feature 1000000"),
        (("add", "demo/topk-32", 5, "--tag", "x", "--tag", "x"), "twice"),
        (("add", "demo/tpk-32", 5, "--name", "x"), "no analysis named"),
        (("export", "demo/topk-32", "notes.txt"), "does not say which"),
        (("import", "demo/topk-32", "notes.json"), "there is no"),
    ],
)
def test_mistakes_say_what_to_do(at, words, error):
    done = at(*words)
    assert done.code == 2
    assert error in done.err
    assert "hint: " in done.err
