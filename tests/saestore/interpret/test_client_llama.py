"""A real llama.cpp server understands what is asked, and is understood. How wise it is does not matter."""

import json

import pytest

from saestore.interpret.request import Asking, Form, Message


pytestmark = pytest.mark.serve

RATED = Form(
    "rated",
    {
        "type": "object",
        "properties": {"word": {"type": "string", "maxLength": 12}, "rating": {"enum": [1, 2, 3]}},
        "required": ["word", "rating"],
        "additionalProperties": False,
    },
)


def test_a_real_server_answers_in_the_form_that_is_asked_for(bench, llama_url):
    bench.endpoint |= {"base_url": llama_url, "max_tokens": 60}
    bench.settings["budget"] = {"tokens": 20_000}
    asking = Asking(bench.made().endpoint, seed=0)
    said = [Message("user", "Name a word that rhymes with cat, and rate it.")]
    formed = asking.chat(said, purpose="a word", form=RATED)
    likely = asking.chat(said, purpose="a word", logprobs=3)
    answer, free = bench.ask(formed, likely, seal=True)
    found = json.loads(answer.text)
    assert found["rating"] in {1, 2, 3}
    assert isinstance(found["word"], str)
    assert answer.finish == "stop"
    assert answer.prompt_tokens > 0 < answer.completion_tokens <= 60
    assert len(free.choices) == free.completion_tokens
    assert all(each.logprob <= 0 and len(each.others) == 3 for each in free.choices)
    assert bench.notes == []
    assert bench.ask(formed, likely) == [answer, free]


def test_a_real_server_refuses_what_it_cannot_do_in_words_that_are_shown(bench, llama_url):
    bench.endpoint |= {"base_url": llama_url, "max_tokens": 20}
    broken = Form("broken", {"type": "no such type"})
    question = Asking(bench.made().endpoint, seed=0).chat(
        [Message("user", "Say a number.")], purpose="a number", form=broken
    )
    (answer,) = bench.ask(question)
    assert answer.completion_tokens > 0
    assert "refuses response_format json_schema" in bench.notes[0]
