"""The references say what the code says: every command, setting, table, error and query."""

import importlib.util
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from saestore import errors
from saestore.api import config, problems
from saestore.features import named_queries
from saestore_cli.app import build
from saestore_schemas import tables
from saestore_schemas.metrics import METRICS
from saestore_schemas.settings import MachineSettings


ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


def generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATE = generator()
COMMANDS = dict(GENERATE.commands(build()))


def test_generated_files_are_fresh():
    assert GENERATE.stale() == [], "run: python docs/generate.py"


def test_check_names_a_stale_file_and_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(GENERATE, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    assert GENERATE.main() == 1
    assert "stale: schemas/json/train.json" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["generate.py"])
    assert GENERATE.main() == 0
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    assert GENERATE.main() == 0


@pytest.mark.parametrize("path", COMMANDS)
def test_a_command_is_in_the_reference_and_has_help_with_an_example(path):
    page = (REFERENCE / "cli.md").read_text()
    assert f"## {path}\n" in page
    command = COMMANDS[path]
    assert len(command.help.split()) > 3
    assert "Examples" in command.epilog
    assert f"$ {path}" in page
    for parameter in command.params:
        assert parameter.help, parameter.name
        if parameter.opts[0].startswith("--"):
            assert f"`{parameter.opts[0]}" in page
    assert {"--output", "--debug"} <= {opt for p in command.params for opt in p.opts}


def shown_examples():
    return [
        line.removeprefix("$ ")
        for path in COMMANDS
        for line in COMMANDS[path].epilog.replace("\\[", "[").split("\n\n")[1:]
    ]


@pytest.mark.parametrize("line", shown_examples())
def test_an_example_is_a_command_line_that_parses(line):
    words = shlex.split(line.split(" > ")[0])[1:]
    for word in words:
        if word.startswith("configs/"):
            assert (ROOT / word).is_file(), f"{word} is not there"
    with build().make_context("saestore", list(words)) as context:
        here, rest = context.command, [*context._protected_args, *context.args]
        while hasattr(here, "commands"):
            here = here.commands[rest[0]]
            rest = rest[1:]
            with here.make_context("x", list(rest)) as inner:
                rest = [*getattr(inner, "_protected_args", []), *inner.args]


def test_every_setting_is_in_the_reference():
    page = (REFERENCE / "settings.md").read_text()

    def walk(model):
        for name, field in model.model_fields.items():
            assert f"| `{name}`" in page, name
            for child in problems.models_in(field.annotation):
                walk(child)

    for model in config.VERBS.values():
        walk(model)
    for name in MachineSettings.model_fields:
        assert f"`SAESTORE_{name.upper()}`" in page


def test_every_table_and_column_is_in_the_reference():
    page = (REFERENCE / "tables.md").read_text()
    for table in tables.TABLES:
        assert f"## {table.name}\n" in page
        assert all(f"| `{column.name}` |" in page for column in table.columns)


def test_every_metric_is_in_the_reference():
    page = (REFERENCE / "metrics.md").read_text()
    assert all(f"| `{name}` |" in page for name in METRICS)


def test_every_error_is_in_the_reference():
    page = (REFERENCE / "errors.md").read_text()
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.SaestoreError):
            assert name in page


def test_every_named_query_is_in_the_reference():
    page = (REFERENCE / "queries.md").read_text()
    for name, query in named_queries().items():
        assert f"## {name}\n" in page
        assert query.doc in page
        assert all(f"`{parameter.name}`" in page for parameter in query.params)


def test_the_site_builds_strictly_without_network(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "index.html").read_text()
    assert "fonts.googleapis" not in page
