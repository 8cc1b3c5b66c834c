"""Each command does what its help says, as text and as JSON."""

import json
import re
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from rich.cells import cell_len

from saestore.api import config
from saestore.lake import Lake
from saestore.testing.analyses import synthetic_dictionary
from saestore.testing.stores import synthetic_store
from saestore_schemas.dictionary import TopK


ARTEFACTS = [
    "activations/demo",
    "dictionaries/demo/topk-32",
    "features/demo/topk-32/default",
    "evaluations/demo/topk-32/default",
]


@pytest.fixture
def at(lake_path):
    return ["--lake", str(lake_path)]


def as_json(run, *words):
    done = run(*words, "--output", "json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def readable(text):
    assert "\x1b" not in text
    assert not any(line.endswith(" ") for line in text.splitlines())
    assert max((cell_len(line) for line in text.splitlines()), default=0) <= 80


def test_ls(run, at, lake_path):
    done = run("ls", *at)
    readable(done.out)
    for path in ARTEFACTS:
        assert path in done.out
    listed = as_json(run, "ls", *at)
    assert [each["path"] for each in listed["artefacts"]] == ARTEFACTS
    assert all(each["finished"] and each["bytes"] > 0 for each in listed["artefacts"])
    assert [e["kind"] for e in as_json(run, "ls", "--kind", "features", *at)["artefacts"]] == [
        "features"
    ]


def test_ls_of_an_empty_lake_says_how_to_fill_it(run, empty):
    done = run("ls", "--lake", empty)
    assert "is empty" in done.out
    assert "saestore demo" in done.out
    assert not empty.exists()


def test_an_unfinished_run_is_listed_as_one(run, lake_path, tmp_path):
    lake = tmp_path / "lake"
    (lake / "activations/half/.progress").mkdir(parents=True)
    done = run("ls", "--lake", lake)
    assert "unfinished: run its command again" in done.out
    assert run("show", "half", "--lake", lake).code == 1


@pytest.mark.parametrize("path", ARTEFACTS)
def test_show_an_artefact(run, at, path):
    done = run("show", path, *at)
    assert done.code == 0, done.err
    readable(done.out)
    assert path.split("/", 1)[1] in done.out
    page = as_json(run, "show", path, *at)
    assert page["manifest"]["name"] == path.split("/", 1)[1]


def test_show_activations(run, at):
    text = run("show", "demo", *at).out
    for part in (
        "blocks.1.hook_resid_post",
        "bfloat16",
        "Norms of rows",
        "Context ",
        "mixing",
        "dictionaries/demo",
    ):
        assert part in text


def test_show_a_dictionary(run, at):
    text = run("show", "dictionaries/demo/topk-32", *at).out
    for part in ("topk k 8", "loss", "explained_variance", "Made from it"):
        assert part in text


def test_show_an_evaluation_defines_its_scores(run, at):
    text = run("show", "evaluations/demo/topk-32/default", *at).out
    assert "explained_variance" in text
    assert "sum (y - yhat)^2" in text
    assert "firings per row" in text
    assert "nats" in text


def test_show_an_analysis_says_how_to_go_on(run, at):
    text = run("show", "features/demo/topk-32/default", *at).out
    command = re.search(r"saestore (show feature \S+ \d+)", text).group(1)
    assert run(*command.split(), *at).code == 0


def test_show_a_feature(run, at):
    done = run("show", "feature", "demo/topk-32", 0, *at, "--n", 2, "--around", 4)
    assert done.code == 0
    readable(done.out)
    assert "Feature 0 @ demo/topk-32" in done.out
    page = as_json(run, "show", "feature", "demo/topk-32", 0, *at, "--n", 2, "--around", 4)
    assert page["feature"] == 0
    for group in page["groups"]:
        assert len(group["examples"]) <= 2
        assert all(len(e["tokens"]) <= 9 for e in group["examples"])


def test_lineage(run, at):
    done = run("lineage", "features/demo/topk-32/default", *at)
    assert re.search(r"features/.*\n.*dictionaries/.*\n.*activations/demo", done.out)
    tree = as_json(run, "lineage", "dictionaries/demo/topk-32", *at)
    assert tree["parents"][0]["path"] == "activations/demo"
    assert tree["children"] == ARTEFACTS[2:]


@pytest.mark.parametrize("path", ARTEFACTS)
def test_verify(run, at, path):
    done = run("verify", path, *at)
    assert "every byte" in done.out
    assert as_json(run, "verify", path, "--quick", *at) == {
        "quick": True, "whole": True, "artefacts": [{"path": path, "damage": []}],
    }  # fmt: skip


def test_verify_all(run, at):
    done = run("verify", "--all", "--quick", *at)
    assert [line.split(":")[0] for line in done.out.splitlines()] == sorted(
        ARTEFACTS, key=done.out.index
    )
    assert len(done.out.splitlines()) == len(ARTEFACTS)


def test_verify_same_tokens_and_against_model(run, at, lake_path, tmp_path):
    import shutil

    import saestore
    from saestore.testing.stores import synthetic_store

    copy = tmp_path / "copy"
    shutil.copytree(lake_path / "activations", copy / "activations")
    synthetic_store(saestore.open_lake(copy).lake, "other")
    synthetic_store(saestore.open_lake(copy).lake, "twin", dtype="float16")
    done = run("verify", "--same-tokens", "other", "twin", "--lake", copy)
    assert done.code == 0
    assert done.out == "the same 600 tokens in 19 contexts: other, twin\n"
    done = run("verify", "--same-tokens", "activations/demo", "other", "twin", "--lake", copy)
    assert done.code == 1
    assert "other beside demo: other tokens" in done.out
    assert "different tokenizers" in " ".join(done.out.split())
    assert "together: other, twin" in done.out
    found = as_json(run, "verify", "activations/demo", "--against-model", "2", *at)
    assert found["agrees"]
    assert found["contexts"] == 2
    done = run("verify", "activations/demo", "--against-model", "2", "--seed", "5", *at)
    assert "contexts are the model's, within rounding" in done.out


SQL = "SELECT feature, density, max FROM features ORDER BY feature LIMIT 3"


def test_query_in_every_format(run, at, tmp_path):
    table = run("query", SQL, *at)
    readable(table.out)
    assert table.out.splitlines()[0].split() == ["feature", "density", "max"]
    csv = run("query", SQL, *at, "--format", "csv").out
    assert csv.splitlines()[0] == '"feature","density","max"'
    rows = json.loads(run("query", SQL, *at, "--format", "json").out)
    assert [row["feature"] for row in rows] == [0, 1, 2]
    assert as_json(run, "query", SQL, *at) == rows
    for suffix in ("csv", "json", "jsonl", "parquet", "txt"):
        file = tmp_path / f"answer.{suffix}"
        done = run("query", SQL, *at, "--out", file)
        assert f"{file}: 3 rows" in done.out
        assert file.stat().st_size > 0
    assert pq.read_table(tmp_path / "answer.parquet").to_pylist() == rows
    lines = (tmp_path / "answer.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert (tmp_path / "answer.csv").read_text() == csv


def test_an_answer_of_many_pieces_is_written_as_if_it_were_one(run, at, tmp_path, monkeypatch):
    rows = 5000
    # of `features` the function is the attribute, not the module
    monkeypatch.setattr(sys.modules["saestore.features.connect"], "_BATCH", rows // 2)
    sql = f"SELECT x, x::VARCHAR AS s, [x, NULL] AS l FROM range({rows}) t(x)"
    for suffix in ("csv", "json", "jsonl", "parquet"):
        assert run("query", sql, *at, "--out", tmp_path / f"answer.{suffix}").code == 0
    wanted = [{"x": x, "s": str(x), "l": [x, None]} for x in range(rows)]
    lines = [json.dumps(each) for each in wanted]
    assert (tmp_path / "answer.jsonl").read_text() == "\n".join(lines) + "\n"
    assert (tmp_path / "answer.json").read_text() == "[" + ",\n".join(lines) + "]\n"
    table = pq.read_table(tmp_path / "answer.parquet")
    assert table.to_pylist() == wanted
    assert pq.ParquetFile(tmp_path / "answer.parquet").num_row_groups == 1
    csv = [f'{x},"{x}","[{x}, null]"' for x in range(rows)]
    assert (tmp_path / "answer.csv").read_text().splitlines() == ['"x","s","l"', *csv]


def test_no_more_of_an_answer_is_found_than_a_file_takes(run, at, tmp_path):
    file = tmp_path / "answer.csv"
    endless = ("query", "SELECT * FROM range(1000000000000) t(x)", *at, "--out", file)
    assert run(*endless, "--limit", 3, "--time-limit", "1m").code == 0
    assert file.read_text() == '"x"\n0\n1\n2\n'
    late = run(*endless, "--time-limit", "0.2s")
    assert late.code == 2
    assert "its time is up" in late.err
    fails = (
        "SELECT CASE WHEN x < 200000 THEN x ELSE error('no good') END AS x FROM range(400000) t(x)"
    )
    failed = run("query", fails, *at, "--out", file)
    assert failed.code == 2
    assert "no good" in failed.err
    # what stood there is left, and nothing else
    assert file.read_text() == '"x"\n0\n1\n2\n'
    assert list(tmp_path.iterdir()) == [file]


def test_query_limits_the_screen_and_says_so(run, at):
    sql = "SELECT * FROM range(250) t(x)"
    done = run("query", sql, *at)
    assert len(done.out.splitlines()) == 102
    assert "150 more rows: --limit 0 shows all" in done.err
    assert len(run("query", sql, *at, "--limit", 0).out.splitlines()) == 252
    assert len(run("query", sql, *at, "--limit", 5).out.splitlines()) == 7
    assert len(json.loads(run("query", sql, *at, "--format", "json").out)) == 250


def test_query_parameters_and_nested_values(run, at):
    done = run("query", "SELECT $x AS x", "--param", "x=a b", *at, "--format", "csv")
    assert done.out == '"x"\n"a b"\n'
    nested = run("query", "SELECT [1, 2] AS x, 'a\x1b[31m' AS y", *at)
    assert "[1, 2]" in nested.out
    assert "\x1b" not in nested.out
    csv = run("query", "SELECT [1, NULL] AS x, 'NaN'::DOUBLE AS y", *at, "--format", "csv")
    assert csv.out.startswith('"x","y"\n"[1, null]"')
    assert json.loads(
        run("query", "SELECT 'NaN'::DOUBLE AS x", *at, "--format", "json").out
    ) == [{"x": None}]  # fmt: skip


def test_named_queries(run, at):
    from saestore.features import named_queries

    listed = run("query", "--list", *at).out
    assert all(name in listed for name in named_queries())
    assert {q["name"] for q in as_json(run, "query", "--list", *at)} == set(named_queries())
    words = ("query", "top_contexts", "--param", "feature=0", "--in", "demo/topk-32")
    assert run(*words, *at).code == 0


@pytest.mark.parametrize("verb", config.VERBS)
def test_config(run, tmp_path, verb):
    shown = run("config", "show", verb).out
    file = tmp_path / "run.toml"
    file.write_text(shown)
    assert f"valid settings of saestore {verb}" in run("config", "check", file).out
    assert as_json(run, "config", "check", file)["verb"] == verb
    schema = run("config", "schema", verb).out
    assert json.loads(schema) == as_json(run, "config", "schema", verb)
    assert set(as_json(run, "config", "show", verb)) == {"toml"}


def test_config_check_with_overrides(run, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(run("config", "show", "train").out)
    words = ("--verb", "train", "--set", "dictionary.activation.k=5")
    settings = as_json(run, "config", "check", file, *words)["settings"]
    assert settings["dictionary"]["activation"]["k"] == 5


def test_hookpoints(run, tiny_llama):
    done = run("hookpoints", tiny_llama, "--match", "blocks.*.hook_resid_post")
    readable(done.out.replace(str(tiny_llama), "MODEL"))
    assert "blocks.3.hook_resid_post" in done.out
    listed = as_json(run, "hookpoints", tiny_llama, "--match", "blocks.1.hook_resid_post")
    assert [h["name"] for h in listed["hookpoints"]] == ["blocks.1.hook_resid_post"]
    wrong = run("hookpoints", tiny_llama, "--match", "blocks.1.hook_resid_pots")
    assert wrong.code == 2
    assert "blocks.1.hook_resid_post" in wrong.err


def test_export(run, at, tmp_path):
    done = run("export", "sae-lens", "demo/topk-32", tmp_path / "out", *at)
    assert done.code == 0, done.err
    assert "sae_weights.safetensors" in done.out
    assert "explained variance" in done.out  # on rows of the store it was trained on
    report = as_json(run, "export", "sae-lens", "demo/topk-32", tmp_path / "again", *at)
    assert report["max_error"] < 1e-5
    assert report["conversion"]["store"] == "demo"


def test_convert(run, tmp_path):
    lake = Lake.at(tmp_path / "lake")
    store = synthetic_store(lake, "rows")
    synthetic_dictionary(lake, "s/topk", store, activation=TopK(k=2), d_sae=11)
    at = ("--lake", tmp_path / "lake")
    done = run("convert", "s/topk", "s/jump", *at)
    assert done.code == 0, done.err
    assert "dictionaries/s/jump" in done.out
    shown = run("show", "s/jump", *at).out
    assert "from s/topk (topk), L0 2 at its thresholds" in shown
    assert "held-out rows; firings of both" in shown
    wrong = run("convert", "s/topk", "jump", *at)
    assert wrong.code == 2
    assert "saestore convert s/topk s/topk-jumprelu" in wrong.err


def test_remove(run, lake_path, tmp_path):
    copy = tmp_path / "lake"
    shutil.copytree(lake_path, copy)
    gone = run("remove", "evaluations/demo/topk-32/default", "--lake", copy)
    assert gone.out == "removed evaluations/demo/topk-32/default\n"
    assert not (copy / "evaluations/demo/topk-32/default").exists()


def test_the_verbs_find_finished_work_and_name_differing_settings(run, at, lake_path):
    configs = lake_path / "configs"
    verbs = ("generate", "train", "evaluate", "analyze")
    for verb, path in zip(verbs, [ARTEFACTS[i] for i in (0, 1, 3, 2)], strict=True):
        done = run(verb, configs / f"{verb}.toml", *at, "--resume")
        assert done.code == 0, done.err
        assert path in done.out
        assert as_json(run, verb, configs / f"{verb}.toml", *at)["path"] == path
    other = run("train", configs / "train.toml", *at, "--set", "seed.init=5")
    assert other.code == 1
    assert "seed.init: 0 → 5" in other.err


def test_the_demo_is_shown(run, lake_path, monkeypatch):
    import saestore
    from saestore.api import demo
    from saestore.testing.pages import page

    lake = saestore.open_lake(lake_path)
    result = demo.DemoResult(
        plan=demo.plan(model="m", layers=4, corpus=None, tokens=10),
        scores={"explained_variance": 0.81, "l0": 32.0, "dead[all]": 0.25},
        rows=13_511,
        rule="the densest of those that stay on one token",
        features=(page(), page(feature=18)),
        question="Which tokens?",
        sql="SELECT 1\nFROM x",
        answer=lake.sql("SELECT 7 AS answer"),
        commands=(("all of it", "saestore ls --lake x"),),
    )
    monkeypatch.setattr(demo, "run", lambda *_, **__: result)
    done = run("demo", "--lake", lake_path)
    readable(done.out)
    for part in (
        "81.0%",
        "32",
        "any of the 13,511 rows",
        "Feature 18",
        "the densest",
        "Which tokens?",
        "7",
        "saestore ls",
    ):
        assert part in done.out
    assert as_json(run, "demo", "--lake", lake_path)["answer"] == [{"answer": 7}]


@pytest.mark.parametrize("path", ARTEFACTS)
def test_showing_and_verifying_need_no_torch(lake_path, path):
    code = (
        "import sys\nfrom saestore_cli.main import main\n"
        f"for verb in ('show', 'verify'):\n    main([verb, {path!r}, '--lake', {str(lake_path)!r}])\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torch", "transformers", "transformer_lens"}
