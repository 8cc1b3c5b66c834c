"""`saestore train` from the command line: time limits, sweeps, and how both are shown."""

import json
import re

import pytest
from rich.cells import cell_len

from saestore import open_lake, report
from saestore.errors import ConfigError
from saestore.lake import Lake
from saestore.report import artefact_documents
from saestore.testing.stores import HOOKPOINT, synthetic_store
from saestore_cli import drawing, numbers
from saestore_cli.options import seconds


TOML = f"""
series = "s"
name = "t"
[activations]
name = "synthetic"
batch_rows = 64
[dictionary]
family = "sae"
hookpoint = "{HOOKPOINT}"
d_sae = 23
activation = {{ kind = "topk", k = 2 }}
[budget]
epochs = 2.0
[log]
every = 4
"""
SWEEP = """
[sweep]
name = "ks"
grid = { "dictionary.activation.k" = [1, 2, 4] }
[[sweep.items]]
name = "wide"
change = { "dictionary.d_sae" = 46 }
"""


WILD = """
[[sweep.items]]
name = "wild"
change = { "optimizer.lr" = 1e30 }
"""


@pytest.fixture
def place(tmp_path):
    synthetic_store(Lake.at(tmp_path / "lake"), rows=600, width=7)
    (tmp_path / "one.toml").write_text(TOML)
    (tmp_path / "sweep.toml").write_text(TOML + SWEEP)
    return tmp_path


def test_a_time_limit_stops_with_a_checkpoint_and_a_rerun_goes_on(run, place):
    at = ["--lake", place / "lake"]
    stopped = run("train", place / "one.toml", *at, "--time-limit", "1e-9s")
    assert stopped.code == 1
    assert "stopped after step 1 of 17: its time of 1e-09 s is over" in " ".join(
        stopped.err.split()
    )
    assert "run the same command again" in stopped.err
    listed = run("ls", *at)
    assert "unfinished" in listed.out
    assert run("train", place / "one.toml", *at).code == 0


def test_durations_have_units():
    assert [seconds(each) for each in ("90m", "1.5h", "20", "2d", "5s")] == [
        5400.0, 5400.0, 20.0, 172_800.0, 5.0,
    ]  # fmt: skip
    for wrong in ("", "h", "-1m", "3x", "nan", "inf"):
        with pytest.raises(ConfigError, match="--time-limit"):
            seconds(wrong)


def test_a_sweep_is_trained_and_shown_as_a_table_and_a_plot(run, place):
    at = ["--lake", place / "lake"]
    done = run("train", place / "sweep.toml", *at)
    assert done.code == 0, done.err
    assert "in one pass over the rows: s/t-k1, s/t-k2, s/t-k4, s/wide" in done.err
    shown = run("show", "sweeps/ks", *at)
    assert shown.out == done.out
    assert max(cell_len(line) for line in shown.out.splitlines()) <= 80
    for part in ("t-k4", "d_sae=46", "EV against L0 (log scale)", "last training batch"):
        assert part in shown.out
    plot = shown.out.split("log scale)")[1]
    assert all(mark in plot for mark in "abc")
    data = json.loads(run("show", "sweeps/ks", *at, "--output", "json").out)
    assert data["items"][0]["name"] == "s/t-k1"
    assert set(data["fronts"]["explained_variance"]) >= {"s/t-k1"}
    listed = run("ls", *at, "--kind", "sweep").out
    assert "sweeps/ks" in listed
    assert "4 dictionaries" in listed
    assert "sweeps/ks" in run("show", "dictionaries/s/t-k2", *at).out


def test_what_diverged_is_named_beside_the_plots_and_not_in_them(run, place):
    at = ["--lake", place / "lake"]
    (place / "wild.toml").write_text(TOML + SWEEP + WILD)
    done = run("train", place / "wild.toml", *at)
    assert done.code == 0, done.err
    assert not re.search(r"[\d,]{14}", done.err)  # no number with all its digits
    table, plot = done.out.split("EV against L0 (log scale)")
    assert "s/wild diverged: training diverged at step" in " ".join(table.split())
    assert re.search(r"^e  wild +lr=1e\+30 ", table, re.MULTILINE), table
    axes, beside = plot.split("none is both")
    assert "e" not in axes
    assert "left out, diverged: wild" in beside
    assert max(map(len, axes.splitlines())) < 80
    page = open_lake(place / "lake").show("sweeps/ks")
    (points,) = artefact_documents.document(page).plots
    assert set(points.points) == {"t-k1", "t-k2", "t-k4", "wide"}
    assert points.beside == "left out, diverged: wild"
    assert points.beside in report.draw.svg(points)


def test_points_stand_where_their_numbers_say():
    lines = drawing.scatter([(1, 0.5, "a"), (100, 1, "b"), (10, 0.5, "c")], width=9, height=3)
    assert lines == [
        "           1 ┤        b",
        "             │",
        "         0.5 ┤a   c",
        "             └─────────",
        "              1     100",
    ]
    assert "▁" not in "".join(drawing.scatter([(0, 1.0, "x")], width=3, height=3))
    assert numbers.many(1, "dictionaries") == "1 dictionary"


def test_checkpoints_are_shown_and_reported_while_a_run_is_under_way(run, place):
    at = ["--lake", place / "lake"]
    run("train", place / "one.toml", *at, "--time-limit", "1e-9s")
    shown = run("show", "s/t@latest", *at)
    assert shown.code == 0, shown.err
    for part in ("checkpoint s/t@1", "at steps 1", "loss_mse", "ev_batch", "by density"):
        assert part in shown.out
    assert max(cell_len(line) for line in shown.out.splitlines()) <= 80
    wrong = run("show", "s/t@7", *at)
    assert wrong.code == 2
    assert "s/t has checkpoints at 1" in wrong.err
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    done = run("report", "s/t@1", "--to", place / "now.html", *at)
    assert done.code == 0, done.err
    assert "now.html" in done.out
    assert (place / "now.html").read_text().startswith("<!doctype html>")
