"""Prompts stay what they were, word by word, and say what no text can forge."""

import json

import pytest

from saestore.lake import Lake
from tests.golden import make_prompts
from tests.golden.make_prompts import EXPLAINERS, GOLDEN, SCORERS, WORDINGS


NAMES = [*EXPLAINERS, *SCORERS]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_prompts.prompts(Lake.at(tmp_path_factory.mktemp("prompts")))


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_is_what_it_was(name, made):
    assert made[name] == (GOLDEN / f"{name}.txt").read_text("utf-8"), (
        "python -m tests.golden.make_prompts --regenerate"
    )


def test_there_is_no_golden_prompt_of_nothing():
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(NAMES)


def test_a_wording_never_changes_under_its_version():
    """Results name it: another wording is another file, `top-2.txt`, and `number = 2` of its class."""
    assert make_prompts.wordings() == json.loads(WORDINGS.read_text())


def test_a_text_cannot_be_another_example(made):
    numbered = [line for line in made["top-hostile"].splitlines() if line.startswith("[")]
    assert [line[:4] for line in numbered] == ["[1] ", "[2] "]
    assert "<|im_start|>" not in made["top-hostile"]
