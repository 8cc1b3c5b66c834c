"""`match` and `diff` from the command line, and reports of features."""

import json

import pyarrow.parquet as pq
import pytest

from saestore.lake import Lake
from saestore.testing.analyses import planted_analysis
from saestore_schemas import tables
from saestore_schemas.analyze import AnalyzeSettings, TopSubsample


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    lake = Lake.at(tmp_path_factory.mktemp("between") / "lake")
    for name, rows in (("default", None), ("half", 90)):
        settings = AnalyzeSettings(
            dictionary="planted/relu", name=name, rows=rows,
            logits=None, coactivation=None, neighbours=None, subsamples={"top": TopSubsample(n=1)},
        )  # fmt: skip
        planted_analysis(lake, settings=settings)
    return ["--lake", lake.storage.url]


def as_json(done):
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_match_in_a_terminal_as_json_and_as_a_file(run, at, tmp_path):
    words = ("match", "planted/relu/default", "planted/relu/half", "--draws", 1, *at)
    done = run(*words, "--feature", 4)
    assert done.code == 0, done.err
    lines = [line.split() for line in done.out.splitlines()]
    assert max(map(len, done.out.splitlines())) <= 80
    assert ["4", "=4", "1", "=4", "1", "=4", "1"] in lines
    assert any(line[:3] == ["decoder", "9", "9"] for line in lines)
    told = as_json(run(*words, "--output", "json"))
    assert told["agreeing"] >= 6
    assert [row["other"] for row in told["rows"] if row["method"] == "dec_cos"] == list(range(9))
    out = tmp_path / "m.parquet"
    assert run(*words, "--out", out).code == 0
    assert pq.read_table(out).schema.equals(tables.MATCHES.schema())
    assert pq.read_table(out).to_pylist() == told["rows"]


def test_diff_in_a_terminal_as_json_and_as_a_file(run, at, tmp_path):
    words = ("diff", "planted/relu/half", "planted/relu/default", *at)
    done = run(*words, "--n", 3)
    assert done.code == 0, done.err
    assert "in both" in done.out
    assert "1 in neither" in done.out
    assert max(map(len, done.out.splitlines())) <= 100
    told = as_json(run(*words, "--output", "json"))
    assert sum(told["changes"].values()) == len(told["rows"]) == 9
    out = tmp_path / "d.csv"
    assert run(*words, "--out", out).code == 0
    assert out.read_text().splitlines()[0].replace('"', "").split(",") == list(told["rows"][0])


def test_what_cannot_be_compared_is_told(run, at):
    done = run("match", "planted/relu/default", "planted/nothing", *at)
    assert done.code == 2
    assert "planted/nothing" in done.err
    done = run("diff", "planted/relu", "planted/relu/half", *at)
    assert done.code == 2
    assert "say which" in done.err


def test_features_as_a_page(run, lake_path, tmp_path):
    at = ("--lake", lake_path)
    page = tmp_path / "two.html"
    sql = "SELECT feature FROM features ORDER BY max DESC LIMIT 2"
    done = run("report", "demo/topk-32", "--query", sql, "--to", page, *at)
    assert done.code == 0, done.err
    assert str(page) in done.out.replace("\n", "")
    assert page.read_text().count('<article class="feature"') == 2
    told = as_json(
        run("report", "features/demo/topk-32/default", "--to", page, "--output", "json", *at)
    )
    assert told == {"file": str(page), "bytes": page.stat().st_size}
    done = run("report", "demo/topk-32", "--feature", 9999, "--to", page, *at)
    assert done.code == 2
    assert "9999" in done.err
