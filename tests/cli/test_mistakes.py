"""Each mistake a user can make: the exit code, one clear message, a hint, and no traceback."""

import json
from functools import partial

import pytest

from saestore.errors import DivergedError, MissingExtraError, StorageError
from saestore_cli import session
from saestore_cli.main import main


GENERATE = """\
name = "x"
hookpoints = ["blocks.0.hook_resid_post"]
lm.model = "nowhere/at-all"
corpus.sources = [{ kind = "text", path = "." }]
"""

TRAIN = """\
series = "s"
name = "n"
activations.name = "demo"
budget.epochs = 1.0
dictionary.hookpoint = "blocks.1.hook_resid_post"
dictionary.expansion = 2.0
dictionary.activation = { kind = "topk", k = 8 }
"""

FILES = {
    "generate.toml": GENERATE,
    "train.toml": TRAIN,
    "typo.toml": GENERATE.replace("name =", "naem ="),
    "broken.toml": 'name = "x"\nhookpoints = [1,\nlm = \n',
    "range.toml": TRAIN.replace("epochs = 1.0", "epochs = -1.0"),
    "two.toml": TRAIN + "budget.rows = 10\n",
    "reference.toml": TRAIN + "expansion_factor = 8\n",
    "many.toml": TRAIN.replace("k = 8", "k = 0") + 'log.every = "x"\nseeed = 3\n',
}

# words, exit code, what the message says, what the hint says
MISTAKES = [
    ("sho", 2, "no such command 'sho'", "did you mean show?"),
    ("ls --lak x", 2, "no such option: --lak", "did you mean --lake?"),
    ("config shwo", 2, "no such command 'shwo'", "did you mean show?"),
    ("ls --output yaml", 2, "'yaml' is not one of 'text', 'json'", "saestore ls"),
    ("ls --kind dictonary", 2, "'dictonary' is not one of", "did you mean dictionary?"),
    ("config show trian", 2, "'trian' is not one of", "did you mean train?"),
    ("verify", 2, "missing argument 'ARTEFACT'", "saestore verify [OPTIONS] ARTEFACT"),
    ("demo --tokens many", 2, "expected a valid integer", "saestore demo"),
    ("generate zzz.toml", 2, "there is no file zzz.toml", "holds broken.toml"),
    ("generate genrate.toml", 2, "there is no file", "did you mean generate.toml?"),
    ("generate .", 2, "cannot read .", "name the file itself"),
    ("generate broken.toml", 2, "line 3", "text stands in quotes"),
    ("generate typo.toml", 2, "typo.toml: naem: unknown setting", "did you mean name?"),
    ("generate train.toml", 2, "holds settings of saestore train", "saestore train train.toml"),
    ("train range.toml", 2, "budget.epochs: found -1.0; expected greater than 0", "epochs: "),
    ("train two.toml", 2, "budget: give exactly one of rows and epochs", "config show train"),
    ("train reference.toml", 2, "expansion_factor: unknown", "called dictionary.expansion"),
    ("train many.toml", 2, "also log.every: found 'x'", "seed"),
    ("train train.toml --set dictionary.actvation.k=3", 2, "--set: dictionary.actvation",
     "did you mean dictionary.activation?"),
    ("train train.toml --set dictionary.activation.kind=topkk", 2, "found 'topkk'",
     "did you mean topk?"),
    ("train train.toml --set nothing", 2, "--set: found 'nothing'", "write the dotted path"),
    ("train train.toml --set name.x=1", 2, "name is 'n', which has no 'x'", "set name itself"),
    ("train train.toml --set log={every=1", 2, "--set: log: found", "quote it"),
    ("train train.toml --set optimizer.lr=inf", 2, "optimizer.lr: found inf; expected a finite",
     "learning rate"),
    ("train train.toml --set seed.init=9223372036854775808", 2, "seed.init: found", "weights"),
    ("train train.toml --set dictionary.activation.k=1e30", 2, "expected below the maximum size", "row"),
    ("train train.toml --set optimizer.betas=[0.9]", 2, "optimizer.betas[1]: missing", "decay"),
    ("config check range.toml", 2, "budget.epochs", ""),
    ("evaluate demo/topk-32 --set name=other --set splice.lm=./gone --lake LAKE", 2,
     "splice.lm: found './gone'", "no folder of a similar name"),
    ("hookpoints ./gone", 2, "model: found './gone'", "no folder of a similar name"),
    ("show nothing --lake LAKE", 2, "no artefact named 'nothing'", ""),
    ("show demo/topk-3 --lake LAKE", 2, "no artefact named", "demo/topk-32"),
    ("show demo more --lake LAKE", 2, "expected one artefact", "one artefact at a time"),
    ("show demo --n 3 --lake LAKE", 2, "expected feature", "are about one feature"),
    ("show feature demo/topk-32 --lake LAKE", 2, "the index of a feature", "for example"),
    ("show feature demo/topk-32 99999 --lake LAKE", 2, "no feature 99999", "numbered 0 to"),
    ("show feature demo/topk-33 1 --lake LAKE", 2, "demo/topk-33", "topk-32"),
    ("show feature demo/topk-32 1 --analysis other --lake LAKE", 2, "other", "default"),
    ("import sae-lens train.toml a/b --lake EMPTY", 2, "train.toml is a file", "name its folder"),
    ("import llama-scope train.toml a/b --lake EMPTY", 2, "train.toml is a file", "name its folder"),
    ("export activations demo train.toml --lake LAKE", 2, "train.toml is a file", "another folder"),
    ("lineage nothing --lake EMPTY", 2, "no artefact named 'nothing'", "saestore ls"),
    ("verify a --all --lake EMPTY", 2, "found names and --all", "saestore verify"),
    ("verify a --seed 1 --lake EMPTY", 2, "no artefact named 'a'", ""),
    ("verify nothing --lake EMPTY", 2, "no artefact named 'nothing'", ""),
    ("remove demo --lake LAKE", 1, "has children: dictionaries/demo/topk-32", "remove them first"),
    ("query --lake LAKE", 2, "there is no question", "query --list"),
    ("query nonsense_query --lake LAKE", 2, "nonsense_query", "there are: "),
    ("query SELEC|1 --lake LAKE", 2, "syntax error", "DuckDB"),
    ("query SELECT|x|FROM|features --lake LAKE", 2, "x", "DESCRIBE"),
    ("query SELECT|1 --in demo/topk-32 --lake LAKE", 2, "--in: found", "in SQL say WHERE"),
    ("query top_contexts --param feature --lake LAKE", 2, "--param: found", "--param feature=17"),
    ("query SELECT|1 --format parquet --lake LAKE", 2, "expected a file", "--out FILE.parquet"),
    ("query SELECT|1 --out no/such/folder/x.csv --lake LAKE", 1, "cannot write", "folder"),
    ("export sae-lens demo/other out --lake LAKE", 2, "demo/other", "demo/topk-32"),
    ("export sae-lens demo/topk-32 train.toml/x --lake LAKE", 2, "train.toml is a file", "another"),
    ("export sae-lens demo/topk-32 /proc/x --lake LAKE", 1, "making the folder /proc/", "choose"),
    ("export activations demo /proc/x --lake LAKE", 1, "making the folder /proc/x", "choose"),
    ("train train.toml --lake EMPTY", 2, "demo", "holds no activations"),
]  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch, empty, request):
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)

    def word(text):
        if text == "LAKE":
            return str(request.getfixturevalue("lake_path"))
        return str(empty) if text == "EMPTY" else text.replace("|", " ")

    return lambda line: [word(text) for text in line.split()]


@pytest.mark.parametrize(("line", "code", "message", "hint"), MISTAKES, ids=lambda x: str(x)[:60])
def test_a_mistake_gets_a_message_and_a_hint(run, here, line, code, message, hint):
    done = run(*here(line))
    assert done.code == code, done.err
    assert "Traceback" not in done.err + done.out
    assert done.err.startswith("error: ")
    assert message in done.err
    hints = [line for line in done.err.splitlines() if line.startswith("hint: ")]
    assert len(hints) == 1
    assert hint in hints[0]
    assert done.out == ""


@pytest.mark.parametrize(
    ("line", "code"), [(line, code) for line, code, *_ in MISTAKES if "yaml" not in line]
)
def test_the_same_mistake_as_json_is_one_document(run, here, line, code):
    done = run(*here(line), "--output", "json")
    assert done.code == code
    error = json.loads(done.out)["error"]
    assert set(error) == {"kind", "message", "found", "expected", "hint"}
    assert error["message"]
    assert error["hint"]
    assert done.err == ""


def test_all_problems_are_listed_at_once(run, here):
    done = run("train", *here("many.toml"))
    for name in ("dictionary.activation.k", "log.every", "seeed"):
        assert name in done.err


@pytest.mark.parametrize(
    "error",
    [
        DivergedError(step=3, loss=float("nan"), checkpoint=None),
        StorageError("the disk is full", hint="free space"),
        MissingExtraError(package="torch", extra="model", purpose="training"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_a_failed_run_exits_with_1(run, here, monkeypatch, error):
    def fails(_shared):
        raise error

    monkeypatch.setattr(session, "open_session", fails)
    done = run("ls")
    assert (done.code, done.out) == (1, "")
    assert f"hint: {error.hint}" in done.err


def test_a_defect_is_called_one_and_debug_shows_where(run, monkeypatch):
    def fails(_shared):
        raise ZeroDivisionError("some bug")

    monkeypatch.setattr(session, "open_session", fails)
    done = run("ls")
    assert done.code == 1
    assert "unexpected ZeroDivisionError: some bug" in done.err
    assert "--debug" in done.err
    assert "Traceback" not in done.err
    assert "Traceback" in run("ls", "--debug").err


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (MemoryError("Unable to allocate 25.5 TiB for an array"), "25.5 TiB"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: not enough "
                "memory: you tried to allocate 4398046511104 bytes. Error code 12"
            ),
            "4.0 TiB",
        ),
    ],
    ids=["numpy", "torch"],
)
def test_full_memory_is_no_defect_and_says_how_much_was_asked_for(run, monkeypatch, error, asked):
    def fails(_shared):
        raise error

    monkeypatch.setattr(session, "open_session", fails)
    done = run("ls")
    assert done.code == 1
    assert "error: memory is full" in done.err
    assert asked in done.err
    assert "activations.batch_rows" in done.err


def test_a_missing_package_names_the_extra_that_brings_it(run, monkeypatch):
    def fails(_shared):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(session, "open_session", fails)
    done = run("ls")
    assert done.code == 1
    assert "pip install 'saestore[model]'" in done.err


def test_ctrl_c_says_how_to_go_on(run, monkeypatch):
    def interrupted(_shared):
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "open_session", interrupted)
    done = run("ls")
    assert done.code == 130
    assert "interrupted; run the same command again to resume" in done.err


def test_unknown_variables_are_warned_about_with_the_nearest_name(run, monkeypatch, empty):
    monkeypatch.setenv("SAESTORE_LAEK", "x")
    done = run("ls", "--lake", empty)
    assert done.code == 0
    assert "warning: the environment variable SAESTORE_LAEK" in done.err
    assert "did you mean SAESTORE_LAKE?" in done.err


def test_a_variable_with_an_impossible_value_is_named(run, monkeypatch, empty):
    monkeypatch.setenv("SAESTORE_THREADS", "several")
    done = run("ls", "--lake", empty)
    assert done.code == 2
    assert "SAESTORE_THREADS: found 'several'; expected a valid integer" in done.err


def test_damage_is_named_and_fails(run, lake_path, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(lake_path, copy)
    weights = copy / "dictionaries/demo/topk-32/weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = run("verify", "demo/topk-32", "--lake", copy)
    assert done.code == 1
    assert "dictionaries/demo/topk-32: 1 problem\n  weights.safetensors: checksum" in done.out
    assert "restore these files" in done.err
    done = run("verify", "--all", "--lake", copy, "--output", "json")
    assert done.code == 1
    found = {each["path"]: each["damage"] for each in json.loads(done.out)["artefacts"]}
    ((damage),) = found.pop("dictionaries/demo/topk-32")
    assert damage["file"] == "weights.safetensors"
    assert not any(found.values())
    assert run("verify", "demo/topk-32", "--quick", "--lake", copy).code == 0


METRICS = "dictionaries/demo/topk-32/metrics.parquet"


@pytest.fixture
def hurt(lake_path, tmp_path):
    """A copy of the small lake, and a function that changes a file's bytes in it."""
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(lake_path, copy)

    def change(path, how):
        (copy / path).write_bytes(how((copy / path).read_bytes()))

    return copy, change


@pytest.mark.parametrize(
    ("how", "what"),
    [
        (lambda data: data.replace(b"value", b"vamue"), "metrics.parquet: checksum"),
        (lambda data: data[:-10], "metrics.parquet: "),
        (lambda _: b"", "metrics.parquet: 0 bytes"),
    ],
    ids=["changed", "cut", "empty"],
)
def test_damaged_curves_are_named_and_not_drawn(run, hurt, how, what):
    copy, change = hurt
    change(METRICS, how)
    for words in (("show",), ("report", "--to", copy / "x.html")):
        done = run(words[0], "dictionaries/demo/topk-32", *words[1:], "--lake", copy)
        assert done.code == 1
        assert what in done.err
        assert "restore" in done.err


def test_a_table_that_is_gone_is_no_empty_answer(run, hurt):
    copy, change = hurt
    change(METRICS, lambda data: data[:-10])
    question = ("query", "SELECT count(*) FROM metrics", "--lake", copy)
    assert "metrics.parquet: " in run(*question).err
    (copy / METRICS).unlink()
    done = run(*question)
    assert done.code == 1
    assert "metrics.parquet: missing" in done.err
    assert (
        "metrics.parquet: missing" in run("show", "dictionaries/demo/topk-32", "--lake", copy).err
    )


@pytest.mark.parametrize(
    ("view", "path"),
    [
        ("metrics", METRICS),
        ("timings", METRICS.replace("metrics", "timings")),
        ("scores", "evaluations/demo/topk-32/default/scores.parquet"),
        ("feature_scores", "evaluations/demo/topk-32/default/features.parquet"),
    ],
)
def test_one_bit_of_a_small_table_reaches_no_answer(run, hurt, view, path):
    copy, change = hurt
    asked = ("query", f"SELECT count(*) AS n FROM {view.upper()}", "--lake", copy)
    size = (copy / path).stat().st_size
    for place in (size // 2, size - 1):
        harm = partial(flipped, place=place)
        change(path, harm)
        done = run(*asked)
        assert done.code == 1, place
        assert f"{path.rsplit('/', 1)[1]}: checksum" in done.err
        assert "restore" in done.err
        change(path, harm)
    assert run(*asked).code == 0
    change(path, harm)
    other = run("query", "SELECT count(*) FROM features", "--lake", copy)
    assert other.code == 0, "it asks nothing of that table"


def flipped(data, *, place):
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def test_one_artefact_without_a_readable_manifest_hides_no_other_and_can_be_removed(run, hurt):
    copy, change = hurt
    change("evaluations/demo/topk-32/default/manifest.json", lambda data: data[:100])
    at = ("--lake", copy)
    listed = run("ls", *at)
    assert listed.code == 0, listed.err
    assert "activations/demo" in listed.out
    assert "damaged: manifest.json" in " ".join(listed.out.split())
    found = {
        each["path"]: each
        for each in json.loads(run("ls", *at, "--output", "json").out)["artefacts"]
    }
    assert found["evaluations/demo/topk-32/default"]["damage"]
    assert run("query", "SELECT count(*) FROM features", *at).code == 0
    unknown = "SELECT name FROM artefacts WHERE finished IS NULL"
    assert "demo/topk-32/default" in run("query", unknown, *at).out
    for words in (("show", "activations/demo"), ("lineage", "dictionaries/demo/topk-32")):
        assert run(*words, *at).code == 0
    assert "manifest.json" in run("verify", "--all", "--quick", *at).out
    assert run("remove", "evaluations/demo/topk-32/default", *at).code == 0
    assert run("verify", "--all", "--quick", *at).code == 0


def test_a_renamed_folder_is_told_where_it_belongs(run, hurt):
    copy, _ = hurt
    folder = copy / "dictionaries/demo"
    (folder / "topk-32").rename(folder / "other")
    done = run("show", "demo/other", "--lake", copy)
    assert done.code == 1
    assert "belongs to dictionary 'demo/topk-32'" in done.err
    assert "move the folder back to dictionaries/demo/topk-32" in done.err
    assert "demo/other" in run("ls", "--lake", copy).out


def test_the_error_format_is_known_even_when_the_line_cannot_be_parsed(capsys, monkeypatch):
    monkeypatch.setenv("SAESTORE_OUTPUT", "json")
    assert main(["nosuch"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "UsageError"
