"""`evaluate --compare` in a terminal, as JSON and as a file; what `evaluate` and `analyze` understand."""

import json

import pyarrow.parquet as pq
import pytest

from saestore import train
from saestore.lake import Lake
from saestore.testing.stores import HOOKPOINT, synthetic_store
from saestore_schemas.dictionary import TopK
from saestore_schemas.families import SaeSettings
from saestore_schemas.train import ActivationsSettings, BudgetSettings, TrainSettings


NAMES = ("small/a", "small/b", "small/c", "small/d")
FAST = ("--set", "splice=false")
FEW = ("--set", "logits=false")


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    made = Lake.at(tmp_path_factory.mktemp("comparing") / "lake")
    synthetic_store(made, name="store", rows=600)
    for k, name in enumerate(NAMES, start=1):
        series, _, last = name.partition("/")
        train.run(
            TrainSettings(
                series=series,
                name=last,
                activations=ActivationsSettings(name="store", batch_rows=64, held_out=0.2),
                dictionary=SaeSettings(hookpoint=HOOKPOINT, d_sae=13, activation=TopK(k=k)),
                budget=BudgetSettings(epochs=1.0),
            ),
            made,
            device="cpu",
        )
    return ["--lake", made.storage.url]


def test_scores_stand_side_by_side(run, at):
    done = run("evaluate", "--compare", *NAMES[:2], *FAST, *at)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].endswith("split held_out of activations/store")
    assert lines[2].split() == ["score", *NAMES[:2]]
    assert any(line.startswith("explained_variance") and len(line.split()) == 3 for line in lines)
    assert max(map(len, lines)) <= 80


def test_many_dictionaries_have_a_line_each(run, at):
    done = run("evaluate", "--compare", *NAMES, *FAST, *at)
    assert [line.split()[0] for line in done.out.splitlines() if "/" in line.split(" ")[0]] == list(
        NAMES
    )
    assert "EV" in done.out


def test_json_and_parquet_hold_every_score(run, at, tmp_path):
    done = run("evaluate", *NAMES[:2], "--compare", *FAST, *at, "--output", "json")
    found = json.loads(done.out)
    assert found["dictionaries"] == list(NAMES[:2])
    assert found["scores"]["l0"]["small/a"] <= 1
    assert found["scores"]["dead[1e7]"] == {"small/a": None, "small/b": None}
    file = tmp_path / "scores.parquet"
    done = run("evaluate", "--compare", *NAMES[:2], *FAST, *at, "--out", file)
    assert str(file) in done.out
    table = pq.read_table(file).to_pylist()
    assert {each["dictionary"] for each in table} == set(NAMES[:2])
    assert len(table) == 2 * len(found["scores"])


def test_a_dictionary_may_stand_instead_of_a_file_or_beside_it(run, at, tmp_path):
    alone = run("evaluate", "small/c", *FAST, *at)
    assert alone.code == 0, alone.err
    assert "evaluations/small/c/default" in alone.out
    config = tmp_path / "few.toml"
    config.write_text('name = "few"\ndictionary = "small/a"\nrows = 20\nsplice = false\n')
    assert "evaluations/small/a/few" in run("evaluate", config, *at).out
    assert "evaluations/small/b/few" in run("evaluate", config, "small/b", *at).out
    both = run("evaluate", config, "--compare", *NAMES[2:], *at, "--output", "json")
    assert json.loads(both.out)["facts"]["rows"] <= 20


def test_mistakes_say_what_to_do(run, at, tmp_path):
    near = run("evaluate", "--compare", "small/a", "small/bb", *at)
    assert near.code == 2
    assert "small/b" in near.err.split("hint:")[1]
    one = run("evaluate", "--compare", "small/a", *FAST, *at)
    assert "two dictionaries" in one.err
    forgotten = run("evaluate", "small/a", "small/b", *at)
    assert "saestore evaluate --compare small/a small/b" in forgotten.err
    alone = run("evaluate", "small/a", *at, "--out", tmp_path / "x.parquet")
    assert "--compare" in alone.err
    files = run("evaluate", "x.toml", "y.toml", *at)
    assert "one settings file" in files.err


def test_analyze_takes_a_dictionary_a_file_or_both(run, at, tmp_path):
    config = tmp_path / "analyze.toml"
    config.write_text('name = "few"\ndictionary = "small/a"\nlogits = false\nrows = 50\n')
    alone = run("analyze", "dictionaries/small/b", *FEW, *at, "--output", "json")
    assert json.loads(alone.out)["path"] == "features/small/b/default", alone.err
    both = run("analyze", config, "small/c", *at, "--output", "json")
    assert json.loads(both.out)["path"] == "features/small/c/few", both.err
    assert "small/d" in run("analyze", "small/dd", *at).err
    two = run("analyze", *NAMES[:2], *at)
    assert two.code == 2
    assert "expected one dictionary" in two.err
