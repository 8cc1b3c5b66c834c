"""A few of the hundred kills that `kill_generate.py` deals out by hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


SCRIPT = Path(__file__).with_name("kill_generate.py")


def test_killed_at_random_moments_the_bytes_are_those_of_a_quiet_run():
    """Parts and their merge, whole runs; each attempt is a process that gets SIGKILL."""
    done = subprocess.run(
        [sys.executable, SCRIPT, "--kills", "2", "--jobs", "generate", "parts", "--tokens", "400"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["kills"] for each in results] == [2, 2]
    assert all(each["differing"] == [] for each in results)


@pytest.mark.parametrize("verb", ["import", "analyze"])
def test_a_killed_verb_ends_with_the_bytes_of_a_quiet_one(verb):
    script = SCRIPT.with_name(f"kill_{verb}.py")
    done = subprocess.run(
        [sys.executable, script, "--kills", "2"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    result = json.loads(done.stdout)
    assert result["kills"] == 2
    assert result["differing"] == []


def test_killed_training_ends_with_the_bytes_of_a_quiet_run():
    script = SCRIPT.with_name("kill_train.py")
    done = subprocess.run(
        [sys.executable, script, "--kills", "2", "--jobs", "topk"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    result = json.loads(done.stdout)
    assert result["kills"] == 2
    assert result["differing"] == []
