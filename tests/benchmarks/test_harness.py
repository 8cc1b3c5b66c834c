"""The benchmark harness, on contenders whose times are made up."""

import io
import json
from contextlib import contextmanager

import pytest

from benchmarks import __main__ as program, harness
from benchmarks.harness import (
    Amount,
    Contender,
    Goal,
    Limit,
    Note,
    Options,
    Setup,
    measure,
    verdict,
)
from benchmarks.peers import Peer, python_of


class Clock:
    """Contenders that take as long as they are told, and note their turn."""

    def __init__(self):
        self.turns = []

    def contender(self, name, *seconds):
        left = list(seconds)

        def work():
            self.turns.append(name)
            return 10.0, left.pop(0) if len(left) > 1 else left[0]

        return Contender(name, work, version="1.0")


class Bench:
    name = "made_up"
    doc = "numbers from nowhere"

    def __init__(self, *contenders, goals=None, absent=None, amounts=(), notes=()):
        ours, theirs = contenders[0].name, contenders[-1].name
        self.made = Setup(
            contenders=contenders,
            goals=(Goal(ours, theirs, "rate", ">=", 0.9),) if goals is None else goals,
            unit="token",
            sizes={"batch": 7},
            limit=Limit(ours, "made up"),
            absent=absent or {},
            rounds=3,
            amounts=amounts,
            notes=notes,
        )
        self.closed = False

    @contextmanager
    def setup(self, _):
        yield self.made
        self.closed = True


def test_contenders_alternate_and_the_order_turns():
    clock = Clock()
    measure([clock.contender("a", 1.0), clock.contender("b", 1.0)], 3)
    assert clock.turns == ["a", "b", "a", "b", "b", "a", "a", "b"]  # the first pair is unmeasured


def test_the_ratio_is_the_median_of_the_rounds():
    clock = Clock()
    # warm-up, then a quiet round, one that slows both, one that disturbs the first only
    result = measure(
        [clock.contender("a", 9.0, 1.0, 4.0, 3.0), clock.contender("b", 9.0, 2.0, 8.0, 2.0)], 3
    )
    assert result.ratio(Goal("a", "b", "rate", ">=", 1)) == 2
    assert result.ratio(Goal("a", "b", "time", "<=", 1)) == 0.5


def test_a_table_says_all_and_the_last_line_is_json():
    clock = Clock()
    bench = Bench(clock.contender("ours", 1.0), clock.contender("theirs", 0.8))
    out = io.StringIO()
    assert harness.run(bench, Options(), out, lambda _: None) is False
    *table, last = out.getvalue().splitlines()
    assert json.loads(last) == {
        "bench": "made_up", "ratio": 0.8, "goal": "rate(ours) / rate(theirs) >= 0.9",
        "holds": False,
    }  # fmt: skip
    text = "\n".join(table)
    for part in ("ours", "theirs", "1.0", "batch: 7", "made up", "does not hold", "token/s"):
        assert part in text
    assert bench.closed


def test_a_failure_stays_in_the_table():
    def broken():
        raise RuntimeError("no such kernel")

    clock = Clock()
    bench = Bench(clock.contender("ours", 1.0), Contender("peer", broken), absent={"x": "gone"})
    out = io.StringIO()
    assert harness.run(bench, Options(rounds=1), out, lambda _: None) is None
    assert "no such kernel" in out.getvalue()
    assert "absent: gone" in out.getvalue()
    assert json.loads(out.getvalue().splitlines()[-1])["ratio"] is None


def test_several_goals_hold_only_together():
    clock = Clock()
    contenders = [clock.contender(n, s) for n, s in (("ours", 1.0), ("floor", 0.8), ("peer", 3.0))]
    goals = (
        Goal("ours", "floor", "time", "<=", 1.5),
        Goal("ours", "peer", "rate", ">=", 4.0),
        Goal("ours", "missing", "rate", ">=", 1.0),
    )
    bench = Bench(*contenders, goals=goals)
    line = verdict("made_up", bench.made, measure(contenders, 1))
    assert (line["ratio"], line["holds"]) == (1.25, False)
    assert [goal["holds"] for goal in line["goals"]] == [True, False, None]


def test_the_program_lists_and_answers_an_unknown_name_with_the_nearest(monkeypatch, capsys):
    assert program.main(["captur"]) == 2
    assert "did you mean capture" in capsys.readouterr().err
    clock = Clock()
    bench = Bench(clock.contender("ours", 1.0), clock.contender("theirs", 1.0))
    monkeypatch.setattr(program, "BENCHES", {"made_up": "nowhere"})
    monkeypatch.setattr(program, "_bench", lambda _: bench)
    assert program.main([]) == 2
    assert "made_up" in capsys.readouterr().err
    assert program.main(["--list"]) == 0
    assert "numbers from nowhere" in capsys.readouterr().out
    assert program.main(["made_up", "--rounds", "1"]) == 0
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1])["holds"] is True


@pytest.mark.parametrize("name", program.BENCHES)
def test_every_registered_benchmark_exists(name):
    bench = program._bench(name)
    assert bench.name == name
    assert bench.doc


def test_a_peer_gets_torch_first_and_our_constraints_once(tmp_path):
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("# pins\ntorch==2.13.0\nnumpy==2.4.6\nTransformer_Lens==3.9.0\n")
    peer = Peer("peer", ("peer==1.0",), unconstrained=("transformer-lens",))
    calls = []

    def call(command):
        calls.append(command)
        for package in ("torch-2.13.0", "numpy-2.4.6", "transformer_lens-3.0.0"):
            place = tmp_path / ".bench/peer/lib/python3.11/site-packages" / f"{package}.dist-info"
            place.mkdir(parents=True, exist_ok=True)

    where = {"home": tmp_path / ".bench", "constraints": constraints, "call": call}
    python = python_of(peer, **where)
    assert python == tmp_path / ".bench/peer/bin/python"
    assert [call[-1] for call in calls] == [str(tmp_path / ".bench/peer"), "torch==2.13.0", "peer==1.0"]  # fmt: skip
    bound = (tmp_path / ".bench/peer/constraints.txt").read_text()
    assert bound == "torch==2.13.0\nnumpy==2.4.6\n"
    python_of(peer, **where)
    constraints.write_text(
        "torch==2.13.0\nnumpy==2.4.6\nTransformer_Lens==4.0.0\nobstore==0.11.1\n"
    )
    python_of(peer, **where)  # neither it nor obstore binds this environment
    assert len(calls) == 3
    constraints.write_text("torch==2.13.0\nnumpy==2.5.0\n")
    python_of(peer, **where)
    assert len(calls) == 6


def test_amounts_and_notes_are_found_once_after_the_rounds():
    clock = Clock()
    said = []

    def gone():
        raise RuntimeError("not on this machine")

    bench = Bench(
        clock.contender("ours", 1.0),
        clock.contender("theirs", 1.0),
        amounts=(
            Amount("memory", "MB", lambda: said.append(len(clock.turns)) or 120.0, "<=", 100),
            Amount("files", "", gone, "<=", 7),
        ),
        notes=(Note("mixing", lambda: "1.07 partners"), Note("cold", gone)),
    )
    out = io.StringIO()
    assert harness.run(bench, Options(), out, lambda _: None) is False
    *table, last = out.getvalue().splitlines()
    text = "\n".join(table)
    assert said == [8]
    assert "120  memory <= 100 MB: does not hold" in text
    assert "mixing: 1.07 partners" in text
    assert text.count("not on this machine") == 2
    assert [goal["holds"] for goal in json.loads(last)["goals"]] == [True, False, None]
    assert json.loads(last)["goals"][1]["amount"] == 120


def test_a_benchmark_without_goals_only_looks_around():
    clock = Clock()
    bench = Bench(clock.contender("a", 1.0), clock.contender("b", 1.0), goals=())
    out = io.StringIO()
    assert harness.run(bench, Options(rounds=1), out, lambda _: None) is None
    assert json.loads(out.getvalue().splitlines()[-1])["goal"] is None
