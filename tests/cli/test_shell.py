"""The SQL shell, from a pipe and from a person who types."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading

import pytest
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

import saestore
from saestore.errors import MissingExtraError
from saestore_cli import answers, shell, shell_prompt
from saestore_cli.options import Format, TableFormat
from saestore_cli.output import output_for


@pytest.fixture
def piped(run, lake_path, monkeypatch):
    """A function that gives the shell a text on its standard input."""

    def call(text, *words):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        return run("query", "--sql-shell", "--lake", lake_path, *words)

    return call


def test_a_pipe_s_statements_are_answered_in_turn(piped, lake_path):
    text = "SELECT 1 AS a; SELECT\n  ';' AS b -- no; end\n;\n\n.run dead rows=1\nSELECT 3 AS c"
    done = piped(text, "--format", "json")
    assert done.code == 0
    found = [json.loads(each + "]") for each in done.out.strip().split("]\n")[:-1]]
    found.append(json.loads(done.out.strip().split("]\n")[-1]))
    assert found[0] == [{"a": 1}]
    assert found[1] == [{"b": ";"}]
    assert found[2] == saestore.open_lake(lake_path).named("dead", {"rows": 1}).to_pylist()
    assert found[3] == [{"c": 3}]


def test_a_pipe_ends_at_the_first_mistake(piped):
    done = piped("SELECT 1 AS a;\nSELECT nope FROM features;\nSELECT 2 AS b;", "--format", "csv")
    assert (done.code, done.out) == (2, '"a"\n1\n')
    assert "nope" in done.err
    assert piped("SELECT 1 AS a;\n.quit\nSELECT nope", "--format", "csv").out == '"a"\n1\n'
    assert piped("-- nothing to ask\n  ").out == ""


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        (".tabels", "no command .tabels", "did you mean .tables"),
        (".schema feature", "no table 'feature'", "did you mean features"),
        (".run", "not a query's name", ".run features_on_token"),
        (".run dead rows", "not a query's name", ".queries"),
        (".run dead rows='1", "not a query's name", ".queries"),
        (".run deaf", "no query named 'deaf'", "dead"),
        (".in demo/topk-31", "no analysis", "demo/topk-32"),
        ("COPY features TO 'x.csv';", "COPY is not a question", "save"),
        ("SET threads = 4;", "SET is not a question", ""),
        (".explain DROP VIEW features", "DROP is not a question", ""),
    ],
)
def test_mistakes_say_what_to_do(piped, line, message, hint):
    done = piped(line)
    assert done.code == 2
    assert message in done.err
    assert hint in done.err


def test_commands_list_and_explain(piped):
    done = piped(".help\n.tables\n.schema\n.schema features\n.queries\n.in demo/topk-32\n"
                 ".explain SELECT value FROM firings WHERE feature = 3;\n.exit\n")  # fmt: skip
    assert done.code == 0
    for part in (".schema [TABLE]", "every firing, in context order", "decoders", "UINTEGER",
                 "top_contexts", "in demo/topk-32/default", "TABLE_SCAN", "1 of 1"):  # fmt: skip
        assert part in done.out


def test_what_stands_beside_the_shell_is_refused(run, lake_path, tmp_path):
    for words in (["SELECT 1"], ["--out", tmp_path / "x.csv"], ["--explain"], ["--param", "a=1"]):
        done = run("query", "--sql-shell", *words, "--lake", lake_path)
        assert done.code == 2
        assert "beside --sql-shell" in done.err


@pytest.fixture
def typed(lake_path, tmp_path, monkeypatch, capsys):
    """A function that types keys into the shell and returns what it answered, and its errors."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def call(keys):
        output = output_for(Format.TEXT)
        shown = answers.Shown(output, TableFormat.CSV, None, None)
        lake = saestore.open_lake(lake_path)
        errors = []
        with create_pipe_input() as given, shell.Shell(
            lake, output, shown.show, analysis=None, limits=lake._limits(None)
        ) as opened:  # fmt: skip
            given.send_text(keys)
            shell_prompt.converse(opened, errors.append, input=given, output=DummyOutput())
        return capsys.readouterr().out, errors

    return call


def test_a_person_types_over_several_lines_and_errors_do_not_end_it(typed, tmp_path):
    out, errors = typed("SELECT 1\nAS a;\nSELECT nope;\n.nope\nSELECT 2 AS b;\n.quit\n")
    assert out == '"a"\n1\n"b"\n2\n'
    assert ["nope" in error.message for error in errors] == [True, True]
    history = (tmp_path / "saestore" / "sql_history").read_text()
    assert "+SELECT 1\n+AS a;" in history
    # the arrow up brings the last statement of the sitting before
    assert typed("\x1b[A\x1b[A\n\x04")[0] == '"b"\n2\n'


def test_ctrl_c_gives_up_a_line_and_a_question(typed, monkeypatch):
    ask = shell.Shell.feed

    def slow(self, line):
        if "slow" in line:
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            line = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE random() > 2;"
        ask(self, line)

    monkeypatch.setattr(shell.Shell, "feed", slow)
    out, errors = typed("SELECT 3 \x03SELECT slow;\nSELECT 4 AS d;\n\x04")
    assert out == '"d"\n4\n'
    assert [error.message for error in errors] == ["cancelled"]


SUGGESTED = (
    ("SELECT * FROM fi", "firings", {"firings_by_context"}),
    ("select * from firings join ", "features", {"contexts", "logits"}),
    ("SELECT den", "density", set()),
    ("SELECT f.n FROM features f WHERE f.n_f", "n_firings", set()),
    ("SELECT * FROM contexts WHERE n_p", "n_positions", set()),
    ("SELECT 1 ORD", "ORDER", set()),
    ("select 1 ord", "order", set()),
    (".sch", ".schema", set()),
    (".schema dec", "decoders", {"decoder_pairs"}),
    (".run over", "overlap", set()),
    (".run overlap ", "a=", {"b=", "k="}),
    (".in de", "demo/topk-32/default", set()),
    (".quit ", None, set()),
)
"""What is typed, what is suggested first, and what else."""


def test_suggestions(lake_path):
    lake = saestore.open_lake(lake_path)
    with shell.Shell(lake, None, None, analysis=None, limits=lake._limits(None)) as opened:
        completer = shell_prompt._completer(opened)
        for text, first, others in SUGGESTED:
            given = list(completer.get_completions(Document(text), None))
            found = [each.text for each in given]
            assert found[:1] == ([first] if first else []), text
            assert others <= set(found)
            for each in given:
                typed = text[len(text) + each.start_position :]
                assert each.text.lower().startswith(typed.lower())


def test_without_the_library_it_names_the_extra(typed, monkeypatch):
    monkeypatch.setitem(sys.modules, "prompt_toolkit", None)
    with pytest.raises(MissingExtraError, match="prompt_toolkit") as caught:
        typed("")
    assert "saestore[shell]" in caught.value.hint


def test_at_a_real_terminal(lake_path, tmp_path):
    main, side = pty.openpty()
    program = "import sys; from saestore_cli.main import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "query", "--sql-shell", "--lake", str(lake_path)],
        stdin=side, stdout=subprocess.PIPE, stderr=side,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path), "TERM": "dumb"},
    )  # fmt: skip
    os.write(main, b"SELECT 6 * 7 AS answer;\n.quit\n")
    out, _ = process.communicate(timeout=60)
    os.close(main)
    os.close(side)
    assert process.returncode == 0
    assert b"answer" in out
    assert b"42" in out
