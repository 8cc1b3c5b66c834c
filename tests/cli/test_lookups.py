"""Look-ups from the command line: features of texts, texts of features, pages."""

import io
import json

import pytest


@pytest.fixture
def at(lake_path):
    return ["--lake", str(lake_path)]


def as_json(done):
    assert done.code == 0, done.err
    return json.loads(done.out)


def stored(run, at, context):
    sql = f"SELECT context, text, token_ids FROM contexts WHERE context = {context}"
    return as_json(run("query", sql, "--output", "json", *at))[0]


def test_a_text_that_is_stored_has_the_features_of_its_context(run, at):
    text = stored(run, at, 0)["text"].removeprefix("<bos>")
    live = as_json(run("top", "demo/topk-32", "--text", text, "--n", 0, "--output", "json", *at))
    lake = as_json(run("top", "demo/topk-32", "--context", 0, "--n", 0, "--output", "json", *at))
    ready = as_json(
        run("query", "features_of_context", "--param", "context=0", "--param", "n=9999",
            "--output", "json", *at)
    )  # fmt: skip
    assert live["rows"] == lake["rows"]
    assert [(r["feature"], r["value"], r["n"]) for r in live["rows"]] == [
        (r["feature"], r["peak"], r["n"]) for r in ready
    ]


def test_texts_come_from_quotes_files_and_stdin(run, at, tmp_path, monkeypatch):
    file = tmp_path / "köln.txt"
    file.write_text("Der Zug nach Köln 👩‍🔬\n")
    stdin = io.TextIOWrapper(io.BytesIO("東京の朝".encode()))
    monkeypatch.setattr("sys.stdin", stdin)
    done = run("top", "demo/topk-32", "--text", "one", "--file", file, "--file", "-", *at)
    assert done.code == 0, done.err
    assert "loading the language model" in done.err
    for name in ("text 1", "köln.txt", "stdin", "saestore show feature demo/topk-32"):
        assert name in done.out
    by_token = run("top", "demo/topk-32", "--context", 3, "--position", "--n", 2, *at)
    assert "position  token" in by_token.out


def test_texts_of_a_feature_and_their_page(run, at, tmp_path):
    top = as_json(run("top", "demo/topk-32", "--context", 0, "--output", "json", *at))
    feature = top["rows"][0]["feature"]
    done = run("texts", "demo/topk-32", feature, "--n", 3, *at)
    assert f"Feature {feature} @ demo/topk-32   max" in done.out
    assert "[[[" in done.out
    found = as_json(run("texts", "demo/topk-32", feature, "--n", 3, "--output", "json", *at))
    rows = found["features"][0]["rows"]
    assert len(rows) == 3
    for row in rows:
        assert "".join(token["text"] for token in row["tokens"]) == row["window"]
        assert max(token["value"] for token in row["tokens"]) == row["value"]
    page = tmp_path / "page.html"
    done = run("texts", "demo/topk-32", feature, "--html", page, *at)
    assert str(page) in done.out.replace("\n", "")
    assert f"Feature {feature}" in page.read_text()


def test_texts_under_features(run, at, tmp_path):
    page = tmp_path / "page.html"
    done = run("highlight", "demo/topk-32", "--context", 1, "--context", 2, "--n", 2, *at)
    assert done.out.count("Feature ") == 2
    assert "[weak] [[medium]] [[[strong]]]" in done.out
    words = ("highlight", "demo/topk-32", "--text", "<b>&", "--feature", 3, "--html", page)
    assert run(*words, *at).code == 0
    assert "&lt;b&gt;&amp;" in page.read_text()


def test_overlap(run, at):
    done = run("overlap", "demo/topk-32", "--context", 1, "--context", 2, "--context", 5, *at)
    assert done.code == 0, done.err
    assert "context 1, context 5" in done.out
    assert "by chance" in done.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("top", "demo/topk-32"), "there is no text"),
        (("top", "demo/topk-32", "--text", ""), "text 1 is empty"),
        (("top", "demo/topk-3", "--text", "a"), "did you mean demo/topk-32"),
        (("top", "demo/topk-32", "--text", "a", "--context", "1"), "stand together"),
        (("top", "demo/topk-32", "--context", "99999"), "contexts are numbered 0 to"),
        (("top", "demo/topk-32", "--file", "gone.txt"), "cannot read gone.txt"),
        (("top", "demo/topk-32", "--text", "a", "--lm", "./gone"), "./gone"),
        (("texts", "demo/topk-32", "99999"), "features are numbered 0 to"),
        (("texts", "demo/topk-32", "99999", "--text", "a"), "features are numbered 0 to"),
        (("texts", "demo/topk-32", "1", "--html", "a.pdf"), "ends in .html"),
        (("highlight", "demo/topk-32", "--context", "1", "--feature", "-1"), "has no feature -1"),
        (("overlap", "demo/topk-32", "--text", "a"), "two or more"),
    ],
)
def test_mistakes_say_what_to_do(run, at, words, says):
    done = run(*words, *at)
    assert done.code != 0
    assert says in " ".join(done.err.split())


def test_a_file_that_is_not_text_is_refused(run, at, tmp_path):
    file = tmp_path / "a.bin"
    file.write_bytes(b"ab\xff")
    done = run("top", "demo/topk-32", "--file", file, *at)
    assert "byte 2 is 0xff" in " ".join(done.err.split())
