"""The installed program as a process of its own."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest


PROGRAM = Path(sys.executable).with_name("saestore")


def start(*words, **options):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SAESTORE_")}
    return subprocess.run(
        [PROGRAM, *words], capture_output=True, text=True, check=False, env=environment, **options
    )


SMALLEST = """
import typer
app = typer.Typer()
app.command("one")(lambda: None)
app.command("two")(lambda: None)
app(["--help"])
"""
"""A program of the same library that does nothing."""


def processor_seconds(*words):
    """Return what a process takes of the processor, the least of three."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def test_help_takes_little_more_than_the_smallest_program_s():
    ours, smallest = (
        processor_seconds(*words)
        for words in ([PROGRAM, "--help"], [sys.executable, "-c", SMALLEST])
    )
    assert ours < 2 * smallest, (ours, smallest)


def test_help_loads_no_torch_and_no_engine():
    code = "import sys; from saestore_cli.main import main; main(['--help']); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    heavy = {"torch", "transformers", "transformer_lens", "duckdb", "polars", "zarr", "pyarrow"}
    assert not set(loaded.stdout.split()) & heavy


def test_a_mistake_is_one_message_and_a_hint(tmp_path):
    done = start("generate", "absent.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "hint"]
    assert "\x1b" not in done.stderr


def test_a_mistake_as_json(tmp_path):
    done = start("show", "nothing", "--lake", str(tmp_path), "--output=json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["kind"] == "ArtefactNotFoundError"


def test_a_closed_pipe_is_quiet():
    with subprocess.Popen(
        [PROGRAM, "config", "show", "train"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


@pytest.mark.parametrize("words", [[], ["config"], ["export"]])
def test_a_group_without_a_command_prints_its_help(words):
    done = start(*words)
    assert "Usage: saestore" in done.stdout + done.stderr
    assert "error" not in done.stderr
    assert done.returncode == 2


def test_version():
    import saestore

    assert start("--version").stdout == f"saestore {saestore.__version__}\n"


def test_ctrl_c_during_a_run(tmp_path):
    program = (
        "import time, sys\n"
        "from saestore_cli import session\n"
        "from saestore_cli.main import main\n"
        "def slow(_): print('started', flush=True); time.sleep(60)\n"
        "session.open_session = slow\n"
        "sys.exit(main(['ls']))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert process.stderr.read().strip() == "interrupted; run the same command again to resume"
