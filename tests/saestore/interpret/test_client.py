"""Requests are sent once, again where that helps, and never where it does not."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from saestore.errors import BudgetError, ConfigError, EndpointError, ReplayError
from saestore.testing.llm import (
    Reply,
    dropped_then,
    failure,
    garbled_then,
    refused_then,
    refusing,
    says,
    slow,
    truncated,
    without_usage,
)


def test_an_answer_is_what_the_endpoint_said_and_counted(bench):
    bench.server.persona = says("yes, it does")
    answer, other = bench.ask(bench.question(1), bench.question(2))
    assert answer.text == other.text == "yes, it does"
    assert (answer.finish, answer.model, answer.created) == ("stop", "test-model", 1_700_000_000)
    assert answer.request == bench.question(1).hash != other.request
    assert bench.facts == {
        "requests": 2, "reused": 0, "retries": 0, "prompt_tokens": bench.server.prompt_tokens,
        "completion_tokens": 8, "cost": None, "unpriced": ["test-model"],
    }  # fmt: skip
    assert bench.notes == []


def test_what_was_answered_is_not_asked_again(bench):
    first = bench.ask(bench.question(1), bench.question(2))
    facts = bench.facts
    bench.server.persona = says("something else")
    assert bench.ask(bench.question(1), bench.question(2)) == first
    assert len(bench.server.requests) == 2
    assert bench.facts == facts


def test_the_same_request_at_once_is_sent_once(bench):
    bench.server.persona = slow(says("yes"), 0.1)
    answers = bench.ask(*[bench.question(1)] * 8)
    assert len(bench.server.requests) == 1
    assert len(set(answers)) == 1


def test_no_more_are_under_way_than_the_settings_say(bench):
    bench.settings["concurrency"] = 3
    bench.server.persona = slow(says("yes"), 0.03)
    bench.ask(*map(bench.question, range(12)))
    assert bench.server.peak == 3


@pytest.mark.parametrize(
    "made",
    [
        lambda yes: refused_then(yes, 2),
        lambda yes: refused_then(yes, 2, retry_after="0.01"),
        lambda yes: refused_then(yes, 2, status=500),
        lambda yes: refused_then(yes, 2, status=503, retry_after="0"),
        lambda yes: dropped_then(yes, 2),
        lambda yes: garbled_then(yes, 2),
        lambda yes: lambda asked: Reply(body=["no object"]) if asked.times < 2 else yes(asked),
        lambda yes: (
            lambda asked: (
                Reply(body={"error": {"code": 429, "message": "wait"}})
                if asked.times < 2
                else yes(asked)
            )
        ),
    ],
    ids=["429", "429 after", "500", "503", "dropped", "garbled", "list", "200 with an error"],
)
def test_what_fails_for_now_is_sent_again(bench, made):
    bench.server.persona = made(says("yes"))
    answers = bench.ask(*map(bench.question, range(3)))
    assert [each.text for each in answers] == ["yes"] * 3
    assert bench.facts["retries"] == 6
    assert len(bench.server.requests) == 9
    assert any("asked again" in note for note in bench.notes)


def test_a_timeout_is_of_the_whole_answer_and_is_sent_again(bench):
    bench.endpoint["timeout_s"] = 0.6
    yes = says("yes")
    bench.server.persona = lambda asked: slow(yes, 0.0 if asked.times else 5.0)(asked)
    assert bench.ask(bench.question())[0].text == "yes"
    assert bench.facts["retries"] == 1
    assert "did not answer within 0.6 s" in bench.notes[0]


def test_all_workers_wait_when_one_is_told_to(bench):
    arrived = []

    def decide(asked):
        arrived.append(time.monotonic())
        if asked.number == 0:
            when = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
            return failure(429, "slow down", headers={"retry-after": when})
        return Reply("yes", wait_s=0.05)

    bench.settings["concurrency"] = 2
    bench.server.persona = decide
    bench.ask(*map(bench.question, range(6)))
    # what was under way when the pause began is answered; nothing is sent until it is over
    early = [at for at in arrived if at - arrived[0] < 0.9]
    assert len(early) == 2
    assert len(arrived) == 7


def test_a_run_ends_after_so_many_attempts_and_says_what_was_wrong(bench):
    bench.server.persona = refused_then(says("yes"), 99, status=500)
    with pytest.raises(EndpointError, match=r"500: come back later\), 4 times in a row") as caught:
        bench.ask(bench.question())
    assert "run the same command again" in caught.value.hint
    assert len(bench.server.requests) == 4


def test_a_pause_longer_than_anybody_waits_ends_the_run(bench):
    bench.server.persona = refused_then(says("yes"), 1, retry_after="86400")
    with pytest.raises(EndpointError, match="429"):
        bench.ask(bench.question())


def test_an_endpoint_that_is_not_there_is_named(bench):
    bench.endpoint |= {"attempts": 2, "base_url": "http://127.0.0.1:9/v1"}
    with pytest.raises(
        EndpointError, match=r"127\.0\.0\.1:9/v1 cannot be reached.*2 times"
    ) as caught:
        bench.ask(bench.question())
    assert "endpoint.base_url" in caught.value.hint


@pytest.mark.parametrize(
    ("reply", "hint"),
    [
        (failure(401, "bad key"), "set SAESTORE_LLM_KEY"),
        (failure(403, "not in your country"), "may not use test-model"),
        (failure(402, "pay first"), "add credit"),
        (failure(429, "You exceeded your quota", code="insufficient_quota"), "add credit"),
        (failure(400, "maximum context length is 10"), "fewer examples"),
        (failure(400, "Unsupported parameter: 'seed'"), "set endpoint.seed to false"),
        (failure(400, "use max_tokens, no max_completion_tokens"), 'to "max_tokens"'),
        (failure(400, "temperature must be 1"), "endpoint.temperature to null"),
        (failure(400, "logprobs are not supported", param="logprobs"), '"numeric"'),
        (failure(400, "no"), "in [endpoint]"),
        (Reply(status=404, body=b"nothing here"), "ends in /v1"),
        (Reply(body=b"<html>", headers={"content-type": "text/html"}), "ends in /v1"),
    ],
    ids=lambda each: each.status if isinstance(each, Reply) else each,
)
def test_what_no_attempt_helps_ends_the_run_at_once_and_says_what_to_do(bench, reply, hint):
    bench.server.persona = lambda _: reply
    with pytest.raises(EndpointError) as caught:
        bench.ask(bench.question(logprobs=5))
    assert hint in caught.value.hint
    assert bench.server.url in str(caught.value)
    assert len(bench.server.requests) == 1


def test_a_model_that_is_not_there_is_answered_with_the_nearest(bench):
    bench.endpoint["model"] = "tset-model"
    with pytest.raises(EndpointError, match="no model tset-model") as caught:
        bench.ask(bench.question())
    assert caught.value.hint == "set endpoint.model: did you mean test-model?"
    bench.server.models = ("xyzzy", "tset-model")
    bench.server.persona = lambda _: failure(400, "cannot be had", code="model_not_found")
    with pytest.raises(EndpointError) as caught:
        bench.ask(bench.question())
    assert "endpoint.model" in caught.value.hint  # it is there: something else is wrong
    bench.server.models = ("xyzzy",)
    with pytest.raises(EndpointError) as caught:
        bench.ask(bench.question())
    assert caught.value.hint == "set endpoint.model: there are xyzzy"


def test_after_an_error_nobody_else_is_sent(bench):
    bench.server.persona = lambda _: failure(401, "bad key")
    bench.settings["concurrency"] = 2

    async def ask():
        async with bench.opened() as asker:
            found = await asyncio.gather(
                *map(asker.ask, map(bench.question, range(9))), return_exceptions=True
            )
            with pytest.raises(EndpointError, match="401"):
                await asker.ask(bench.question(10))
        return found

    assert {type(each) for each in asyncio.run(ask())} == {EndpointError}
    assert len(bench.server.requests) <= 2


def test_a_form_that_is_refused_is_left_out_from_then_on(bench):
    bench.settings["concurrency"] = 1
    bench.server.persona = refusing(says("{}"), "json_schema")
    bench.ask(bench.question(1, form=bench.form), bench.question(2, form=bench.form))
    sent = [each.body.get("response_format", {}).get("type") for each in bench.server.requests]
    assert sent == ["json_schema", "json_object", "json_object"]
    bench.server.persona = refusing(says("{}"), "response_format")
    bench.ask(bench.question(3, form=bench.form))
    sent = [each.body.get("response_format", {}).get("type") for each in bench.server.requests]
    assert sent[3:] == ["json_schema", "json_object", None]
    assert [note for note in bench.notes if "refuses response_format" in note]
    # the request that is kept is the one that was meant: it is found again
    assert bench.ask(bench.question(1, form=bench.form))[0].text == "{}"
    assert len(bench.server.requests) == 6


def test_answers_that_end_otherwise_say_so(bench):
    question = bench.question
    bench.server.persona = truncated(says("a long story"), 6)
    assert [(a.text, a.finish) for a in bench.ask(question(1))] == [("a long", "length")]
    bench.server.persona = lambda _: Reply(None, refusal="I would rather not")
    assert [(a.text, a.finish) for a in bench.ask(question(2))] == [
        ("I would rather not", "refusal")
    ]
    bench.server.persona = lambda _: Reply("", finish="content_filter")
    assert [(a.text, a.finish) for a in bench.ask(question(3))] == [("", "content_filter")]


@pytest.mark.parametrize(
    "body",
    [
        {"choices": []},
        {"choices": [{"message": {"content": None}}]},
        {"choices": [{"message": None, "finish_reason": None}], "usage": None, "created": None},
        {"choices": [{}], "usage": {"prompt_tokens": None}},
    ],
)
def test_odd_answers_are_empty_and_their_tokens_a_bound(bench, body):
    bench.server.persona = lambda _: Reply(body=body)
    (answer,) = bench.ask(bench.question())
    assert answer.text == ""
    assert answer.model == "test-model"
    assert abs(answer.created - time.time()) < 60
    assert answer.completion_tokens == 1000
    assert "does not say how many tokens" in bench.notes[0]


def test_parts_and_halves_of_characters_are_read(bench):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b\ud83d"}, {"type": "image"}]
    bench.server.persona = lambda _: Reply(body={"choices": [{"message": {"content": parts}}]})
    assert bench.ask(bench.question())[0].text == "ab?"


def test_log_probabilities_are_kept(bench):
    tokens = (("7", {"7": -0.5, "8": -1.5}), (" ", {" ": float("-inf")}))
    bench.server.persona = lambda _: Reply("7 ", logprobs=tokens)
    (answer,) = bench.ask(bench.question(logprobs=2))
    assert [each.text for each in answer.choices] == ["7", " "]
    assert answer.choices[0].others == (("7", -0.5), ("8", -1.5))
    assert answer.choices[1].logprob == -9999
    assert bench.ask(bench.question(logprobs=2)) == [answer]


def test_embeddings_come_in_the_order_of_the_texts(bench):
    vectors = ((1.0, 0.5), (0.25, 3.0), (1e-3, 0.0))
    bench.server.persona = lambda _: Reply(vectors=vectors)
    (answer,) = bench.ask(bench.vectors("a", "b", "c"))
    assert answer.vectors == vectors
    assert answer.completion_tokens == 0 < answer.prompt_tokens == bench.facts["prompt_tokens"]
    assert bench.ask(bench.vectors("a", "b", "c")) == [answer]


@pytest.mark.parametrize(
    "data",
    [
        [{"index": 0, "embedding": [1.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [1.0, 2.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [None]}],
        [{"index": 0, "embedding": []}, {"index": 1, "embedding": []}],
        [{"index": 0, "embedding": "no"}, {"index": 1, "embedding": "no"}],
        None,
    ],
)
def test_embeddings_that_do_not_fit_are_an_error(bench, data):
    bench.server.persona = lambda _: Reply(body={"data": data})
    with pytest.raises(EndpointError, match="embeddings with what is no answer"):
        bench.ask(bench.vectors("a", "b"))


def test_embeddings_as_bytes_are_read(bench):
    data = [{"index": 0, "embedding": "AACAPwAAAEA="}]
    bench.server.persona = lambda _: Reply(body={"data": data})
    assert bench.ask(bench.vectors("a"))[0].vectors == ((1.0, 2.0),)


def test_a_budget_ends_the_run_before_it_is_passed_and_with_more_it_goes_on(bench):
    bench.settings |= {"budget": {"tokens": 1500}, "concurrency": 8}
    bench.endpoint["max_tokens"] = 100
    bench.server.persona = slow(says("a b c d"), 0.01)

    async def ask(n):
        async with bench.opened() as asker:
            return await asyncio.gather(
                *map(asker.ask, map(bench.question, range(n))), return_exceptions=True
            )

    found = asyncio.run(ask(100))
    errors = [each for each in found if isinstance(each, BaseException)]
    assert {type(each) for each in errors} == {BudgetError}
    assert "1,500 tokens" in str(errors[0])
    used = bench.facts["prompt_tokens"] + bench.facts["completion_tokens"]
    assert used == bench.server.prompt_tokens + bench.server.completion_tokens
    assert 1000 < used <= 1500
    answered = len(found) - len(errors)
    bench.settings["budget"] = {"tokens": 1_000_000}
    asyncio.run(ask(100))
    assert len(bench.server.requests) == 100
    assert bench.facts["requests"] == 100 > answered


def test_cost_is_the_price_of_what_the_server_counted(bench):
    bench.settings |= {"prices": {"test-model": {"prompt": 2.0, "completion": 8.0}}}
    bench.ask(*map(bench.question, range(5)), bench.vectors("a b c"))
    counted = bench.server.prompt_tokens * 2 + bench.server.completion_tokens * 8
    assert bench.facts["cost"] == pytest.approx(counted / 1e6, rel=1e-12)
    assert bench.facts["unpriced"] == []


def test_a_replay_answers_from_the_cassette_alone(bench):
    first = bench.ask(*map(bench.question, range(5)), seal=True)
    sealed = bench.cassette.read_bytes()
    again = bench.beside("other", None)
    again.endpoint["base_url"] = "https://example.invalid/v1"  # and no key
    assert again.ask(*map(bench.question, range(5)), seal=True, replay=bench.cassette) == first
    assert again.cassette.read_bytes() == sealed
    assert again.facts["requests"] == 0
    with pytest.raises(ReplayError, match="question 9") as caught:
        again.ask(bench.question(9), replay=bench.artefact.url)
    assert caught.value.hint
    assert len(bench.server.requests) == 5


def test_answers_of_other_cassettes_cost_nothing(bench):
    bench.settings |= {"prices": {"test-model": {"prompt": 1.0}}}
    first = bench.ask(*map(bench.question, range(3)), seal=True)
    again = bench.beside("other", bench.server)
    found = again.ask(*map(bench.question, range(4)), cassettes=[bench.cassette])
    assert found[:3] == first
    assert len(bench.server.requests) == 4
    assert (again.facts["requests"], again.facts["reused"]) == (1, 3)
    assert again.facts["prompt_tokens"] == found[3].prompt_tokens
    # and are its own from then on
    assert again.ask(*map(bench.question, range(4))) == found
    assert (again.facts["requests"], again.facts["reused"]) == (1, 3)


def test_whoever_stops_asking_loses_no_answer_that_is_on_its_way(bench):
    bench.server.persona = slow(says("yes"), 0.9)

    async def ask():
        async with bench.opened() as asker:
            tasks = [asyncio.create_task(asker.ask(bench.question(n))) for n in range(4)]
            await asyncio.sleep(0.15)
            for task in tasks:
                task.cancel()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(ask())
    assert "4 requests are on their way" in bench.notes[0]
    assert bench.facts["requests"] == 4
    bench.ask(*map(bench.question, range(4)))
    assert len(bench.server.requests) == 4


def test_an_end_does_not_wait_for_pauses(bench):
    bench.server.persona = refused_then(says("yes"), 9, retry_after="4")

    async def ask():
        async with bench.opened() as asker:
            task = asyncio.create_task(asker.ask(bench.question()))
            await asyncio.sleep(0.2)
            task.cancel()

    start = time.monotonic()
    asyncio.run(ask())
    assert time.monotonic() - start < 2


def test_without_usage_a_bound_is_counted(bench):
    bench.server.persona = without_usage(says("yes"))
    bench.ask(bench.question())
    used = bench.facts["prompt_tokens"] + bench.facts["completion_tokens"]
    assert used > bench.server.prompt_tokens + bench.server.completion_tokens
    assert len(bench.notes) == 1


def test_beyond_loopback_a_key_is_needed(bench):
    bench.endpoint["base_url"] = "https://example.invalid/v1"
    with pytest.raises(
        ConfigError, match="SAESTORE_LLM_KEY: is not set, and OPENAI_API_KEY"
    ) as caught:
        bench.ask(bench.question())
    assert "export SAESTORE_LLM_KEY" in caught.value.hint
