"""A feature's page: marks by colour or brackets, widths, nothing that steers a terminal."""

import io
import json
import re
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from saestore.api.indexing import FoundPage
from saestore.features import ExampleGroup, HeadPair, Read
from saestore.testing.pages import VALUES, WORDS, annotation, example, explanation, page
from saestore.words import level, visible
from saestore_cli import feature_panel
from saestore_cli.drawing import bars, coloured, curve, terminal
from saestore_cli.json_output import JsonOutput


ESCAPE = re.compile(r"\x1b\[([0-9;]*)m")


def drawn(what=None, *, n=5, around=20, width=80):
    sink = io.StringIO()
    feature_panel.draw(terminal(sink, width=width), what or page(), n=n, around=around)
    return sink.getvalue()


def in_colour(**environment):
    sink = io.StringIO()
    console = Console(
        file=sink, force_terminal=True, color_system="256", width=80, markup=False,
        highlight=False, _environ=environment,
    )  # fmt: skip
    feature_panel.draw(console, page(), n=2, around=20)
    return sink.getvalue()


def test_the_page_says_who_how_often_how_strongly_and_where():
    text = drawn()
    for part in (
        "Feature 17 @ demo/topk-32",
        "blocks.10.hook_resid_post",
        "12,345 times on 250,000 rows (density 4.938%), in 310 contexts",
        "max 9.2500",
        "mean 2.5",
        "50 % 2.1",
        "' the' in 61%",
        "`direction`",
        "' the'    1.234",
        "' zebra'    -1.100",
        "books/alice.txt",
        "peak 9.2500",
        "' on' 48.6%",
        "' the' 61.0% (lift 3.5)",
        "'↵' 0.1% (lift 40)   ' the'",
        "21 (phi 0.46)",
        "33 (cos 0.81)",
        "34 (cos 0.71)",
    ):
        assert part in text, part


def test_what_families_add_and_what_never_fires_is_said():
    reads = (Read(3, " the", 8.0), Read(None, "", 1.25))
    top = replace(page().groups[0], examples=(replace(example(WORDS, VALUES), reads=reads),))
    pairs = (HeadPair("h.0", "h.1", 0.25, 1.0), HeadPair("h.0", "h.2", None, None))
    text = drawn(page(pairs=pairs, groups=(top,)))
    assert "reads ' the' (3) 8.0000   others 1.2500" in text
    assert "h.0 × h.1 (cos 0.25)   h.0 × h.2 (cos -)" in text
    own = page().statistics | {"layer": 1, "index": 696}
    origin = replace(page().provenance, hookpoints=("h.0", "h.1"))
    layered = page(n_layers=2, statistics=own, provenance=origin)
    assert "1 (h.1), where it is feature 696" in drawn(layered)
    dead = page().statistics | {"n_firings": 0, "max": None}
    assert "never, on 250,000 rows (density below 1.198e-05 at 95 %)" in drawn(
        page(statistics=dead)
    )


def test_without_colour_brackets_say_weak_medium_strong():
    assert "She said↵ [the] cat⇥ sat [on] [[[the]]] [[mat]]␛[31m." in drawn()
    assert "[weak] [[medium]] [[[strong]]]" in drawn()


def test_with_colour_no_brackets_but_styles():
    text = in_colour()
    assert "[[" not in ESCAPE.sub("", text)
    codes = set(ESCAPE.findall(text))
    assert {"38;5;136", "1;4;38;5;166", "1;7;38;5;160"} <= codes


def test_no_color_turns_colours_into_brackets():
    text = in_colour(NO_COLOR="1")
    assert "[[[the]]]" in ESCAPE.sub("", text)
    assert not any("38;5" in code for code in ESCAPE.findall(text))


@pytest.mark.parametrize("colour", [136, 166, 160])
def test_marks_have_contrast_on_black_and_on_white(colour):
    # The 6 x 6 x 6 cube of xterm: levels 0, 95, 135, 175, 215, 255.
    steps = [0, 95, 135, 175, 215, 255]
    r, g, b = (steps[(colour - 16) // n % 6] / 255 for n in (36, 6, 1))
    linear = [((c + 0.055) / 1.055) ** 2.4 if c > 0.04045 else c / 12.92 for c in (r, g, b)]
    light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    assert (light + 0.05) / 0.05 >= 3
    assert 1.05 / (light + 0.05) >= 3


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_no_line_is_wider_than_the_terminal(width):
    assert max(cell_len(line) for line in drawn(width=width).splitlines()) <= width


def test_tokens_cannot_steer_the_terminal():
    hostile = example(["\x1b]0;x\x07", "\u202e", "\r", "\x9b31m", "a"], [0.0, 1.0, 0.0, 0.0, 2.0])
    groups = page().groups
    changed = page(groups=(groups[0].__class__("top", "top", 0, 1, 1, (hostile,)),))
    text = drawn(changed)
    assert not any((ord(c) < 32 and c != "\n") or c in "\u202e\x9b\x7f" for c in text)


def test_n_examples_and_tokens_around_the_peak():
    top = drawn(n=2, around=1).split("Top contexts")[1].split("Contexts across")[0]
    assert top.count("peak 9.2500") == 2
    assert "… [on] [[[the]]] [[mat]] …" in top
    assert "said" not in top
    assert "Top contexts" not in drawn(n=0)


def test_strata_are_shown_strongest_first_and_spread():
    across = drawn(n=2).split("Contexts across")[1].split("silent")[0]
    assert re.findall(r"part (\d) of 4", across) == ["4", "1"]


def test_hard_negatives_say_where_they_are_silent():
    shown = replace(example(WORDS, [0.0] * len(WORDS)), peak_position=2)
    text = drawn(page(groups=(ExampleGroup("close", "near", 0, 1, 41, (shown,)),)), width=100)
    assert "Hard negatives: silent where a feature like it fires (41 of them)" in text
    assert "silent at 2 '↵'" in text
    assert "peak 0" not in text


def test_a_feature_that_never_fires():
    silent = page(
        statistics={"n_firings": 0, "density": 0.0, "max": None, "mean": None, "std": None},
        histograms={},
        top_token=None,
        logits=(),
        tokens=(),
        coactive=(),
        groups=(),
    )
    text = drawn(silent)
    assert "never, on 250,000 rows" in text
    assert "nan" not in text.lower().replace("tenan", "")


def test_json_holds_the_same_page_cut_alike(capsys):
    JsonOutput().feature(FoundPage(page(), "lake"), n=1, around=1)
    found = json.loads(capsys.readouterr().out)
    assert found["feature"] == 17
    assert [len(group["examples"]) for group in found["groups"]] == [1] * 6
    assert [t["text"] for t in found["groups"][0]["examples"][0]["tokens"]] == WORDS_AROUND


def test_what_people_say_stands_first_with_who_and_when(capsys):
    said = (
        annotation("name", "articles"),
        annotation("notes", "two\nlines\x1b[31m", author="bo"),
        annotation("tag", ["a", "b"]),
        annotation("bookmark", value=True),
    )
    lines = [line.strip(" │") for line in drawn(page(annotations=said)).splitlines()]
    assert lines[1:6] == [
        "name          articles  ana, 2026-01-02",
        "notes         two",
        "lines␛[31m  bo, 2026-01-02",
        "tags          a, b  ana, 2026-01-02",
        "bookmark      yes  ana, 2026-01-02",
    ]
    JsonOutput().feature(FoundPage(page(annotations=said), "lake"), n=1, around=1)
    found = json.loads(capsys.readouterr().out)["annotations"]
    assert [each["value"] for each in found] == ["articles", said[1].value, ["a", "b"], True]
    assert found[0]["created"] == "2026-01-02T03:04:05Z"


WORDS_AROUND = list(WORDS[7:10])


def test_levels():
    largest = max(VALUES)
    assert [level(x * largest, largest) for x in (0, 0.01, 0.32, 0.34, 0.65, 0.67, 1)] == [
        0, 1, 1, 2, 2, 3, 3,
    ]  # fmt: skip
    assert level(1.0, 0.0) == 0


def test_visible_keeps_ordinary_text():
    assert visible("naïve 東京 🙂") == "naïve 東京 🙂"
    assert visible("a\tb\nc") == "a⇥b↵c"


def test_bars_and_curves():
    assert bars([0, 1, 1000]) == " ▁█"
    assert bars([]) == ""
    assert bars([0, 0]) == "  "
    assert curve([1.0, None, 3.0], 9) == "▁ █"
    assert curve([2.0, 2.0], 9) == "▁▁"
    assert len(curve([float(i) for i in range(1000)], 30)) == 30
    assert curve([], 9) == ""


def test_a_pipe_is_not_coloured():
    assert not coloured(terminal(io.StringIO()))


def test_what_fires_below_zero_is_told_apart_by_sign_and_by_colour():
    values = [0.0] * len(WORDS)
    values[3], values[8] = -9.25, 4.0
    top = replace(page().groups[0], examples=(example(WORDS, values),))
    assert "[[[−the]]]" in drawn(page(groups=(top,)))
    sink = io.StringIO()
    console = Console(file=sink, force_terminal=True, color_system="256", markup=False, _environ={})
    feature_panel.draw(console, page(groups=(top,)), n=1, around=20)
    styles = dict(re.findall(r"\x1b\[([0-9;]*)m([a-z]+)", sink.getvalue()))
    assert styles["1;7;38;5;26"] == "the"


def test_what_people_say_stands_before_what_a_model_says():
    found = page(
        annotations=(annotation("interpretation", "articles"),),
        explanations=(explanation("the word the", {"detection": 0.8, "fuzzing": None}),),
    )
    text = drawn(found)
    assert text.index("articles  ana") < text.index("the word the  test-model, quantile, first")
    assert text.index("the word the") < text.index("dictionary")
    assert "detection 0.80 (0.70 to 0.90)" in text
    assert "fuzzing - (40 of 40 answers could not be read)" in " ".join(
        text.replace("│", "").split()
    )
    assert "What models say" not in text  # there is only one


def test_several_explanations_are_a_table_of_explainers_and_scorers():
    found = page(
        explanations=(
            explanation("articles", {"detection": 0.8, "fuzzing": 0.5}),
            explanation("says the\x1b[31m", {"detection": 0.9}, explainer="top", run="more"),
            explanation(None, {}, explainer="logits", run="more"),
        )
    )
    text = drawn(found)
    assert "says the␛[31m  test-model, top, more" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["run", "explainer", "detection", "fuzzing", "explanation"] in lines
    assert ["first", "quantile", "0.80", "0.50", "articles"] in lines
    assert ["more", "top", "0.90", "-", "says", "the␛[31m"] in lines
    assert ["more", "logits", "-", "-", "unreadable"] in lines


def test_a_feature_that_no_model_could_explain_says_so():
    text = drawn(page(explanations=(explanation(None, {}),)))
    assert "none: unreadable" in text
    assert "explanation" not in drawn(page())
