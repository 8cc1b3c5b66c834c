"""Progress: bars where they can be drawn, plain lines elsewhere."""

import io
import re

import pytest
from rich.console import Console

from saestore.numbers import count, value
from saestore_cli import progress
from saestore_cli.numbers import amount, duration, rate, size
from saestore_cli.progress import Drawn, Lines, reporter


def test_a_pipe_gets_plain_lines():
    sink = io.StringIO()
    report = reporter(draw=True, stream=sink)
    report.note("loading model")
    with report.task("train", total=100, unit="step", done=20) as task:
        for _ in range(80):
            task.advance(1, loss=0.25, L0=32.0)
    lines = sink.getvalue().splitlines()
    assert lines[0] == "loading model"
    assert lines[1] == "train: resuming after 20 steps"
    assert re.fullmatch(
        r"train: 100 steps, [\d,]+ steps/s, took 0:00; loss 0.25  L0 32", lines[2]
    ), lines[2]
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", sink.getvalue())


def test_an_unfinished_task_says_how_far_it_came():
    sink = io.StringIO()

    def stops_early():
        with reporter(draw=True, stream=sink).task("generate", total=200, unit="tokens") as task:
            task.advance(50)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        stops_early()
    assert "generate: 25% (50 of 200 tokens)" in sink.getvalue()
    lines = Lines(io.StringIO(), every_s=1.0)
    task = progress._LineTask(lines, "verify", 1 << 20, "B", 1 << 10)
    assert "0% (1.0 KiB of 1.0 MiB)" in task.line(ended=False)


def test_long_tasks_report_now_and_then(monkeypatch):
    clock = iter(float(n) for n in range(0, 10_000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    sink = io.StringIO()
    with Lines(sink, every_s=30.0).task("train", total=6, unit="steps") as task:
        for _ in range(6):
            task.advance(1, loss=1.0)
    lines = sink.getvalue().splitlines()
    assert 2 <= len(lines) <= 6
    assert re.search(r"left; loss 1$", lines[0])


def test_no_progress_leaves_notes_only():
    sink = io.StringIO()
    report = reporter(draw=False, stream=sink)
    report.note("a note")
    with report.task("train", total=2, unit="steps") as task:
        task.advance(2)
    assert sink.getvalue() == "a note\n"


def test_a_terminal_gets_bars_with_rate_time_left_and_values():
    sink = io.StringIO()
    console = Console(file=sink, force_terminal=True, width=80, _environ={})
    report = Drawn(console)
    with report.task("train", total=1000, unit="steps", done=100) as task:
        for _ in range(300):
            task.advance(3, loss=0.125, L0=31.5)
        report.note("checkpoint [17] written")
        with report.task("inner", total=None, unit="B") as inner:
            inner.advance(5000)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sink.getvalue())
    assert "checkpoint [17] written" in text
    last = [line for line in text.splitlines() if "train" in line][-1]
    assert "100%" in last
    assert "steps/s" in last
    assert "took" in last
    assert "loss 0.125  L0 31.5" in last
    assert "4.9 KiB" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


def test_numbers_as_people_read_them():
    assert count(1234567) == "1,234,567"
    assert [value(x) for x in (0.0, 1, 12.0, 0.123456, 1e-9, 123456.7, -1e30, None, float("nan"), "x")] == [
        "0", "1", "12", "0.1235", "1e-09", "123,457", "-1e+30", "-", "-", "x",
    ]  # fmt: skip
    assert [size(n) for n in (0, 1023, 1536, 5 << 30, 3 << 40)] == [
        "0 B", "1023 B", "1.5 KiB", "5.0 GiB", "3.0 TiB",
    ]  # fmt: skip
    assert amount(2, "row") == "2 rows"
    assert rate(2048, "B") == "2.0 KiB/s"
    assert rate(0.5, "step") == "0.5 steps/s"
    assert [duration(s) for s in (0, 59.6, 3600)] == ["0:00", "1:00", "1:00:00"]
