"""The key of an endpoint reaches the endpoint, and nothing else."""

import base64
import logging
import os
import pickle
import subprocess
import sys
import traceback
from urllib.parse import quote

import pytest

from saestore.errors import ConfigError, EndpointError
from saestore.interpret.key import HIDDEN, find_key
from saestore.testing.llm import Reply, echoing, failure


KEY = "sk-Very/Secret+9876543210=="


def spelled(text):
    """Whether the key stands in a text or in bytes, in any spelling."""
    data = text if isinstance(text, bytes) else text.encode()
    ways = (
        KEY,
        quote(KEY, safe=""),
        base64.b64encode(KEY.encode()).decode(),
        KEY.replace("/", r"\/"),
    )
    return any(way.encode() in data for way in ways)


@pytest.fixture
def keyed(bench, monkeypatch, caplog):
    monkeypatch.setenv("SAESTORE_LLM_KEY", KEY)
    caplog.set_level(logging.DEBUG)  # of every library too
    bench.server.key = KEY
    return bench


def test_it_is_sent_and_written_nowhere(keyed, caplog):
    keyed.ask(keyed.question(1), keyed.vectors("a"), seal=True)
    assert [each.headers["authorization"] for each in keyed.server.requests] == [
        f"Bearer {KEY}"
    ] * 2
    assert not spelled(caplog.text)
    files = [path for path in keyed.folder.rglob("*") if path.is_file()]
    assert keyed.cassette in files
    assert not any(spelled(path.read_bytes()) for path in files)
    assert not spelled(keyed.made().model_dump_json())
    assert not spelled(repr(find_key("x")))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
def test_an_endpoint_that_tells_it_in_an_error_is_not_repeated(keyed, caplog, capsys, status):
    keyed.server.persona = echoing(status)
    keyed.endpoint["attempts"] = 2
    with pytest.raises(EndpointError, match=str(status)) as caught:
        keyed.ask(keyed.question(1))
    error = caught.value
    assert HIDDEN in str(error)
    everything = [
        "".join(traceback.format_exception(error)),
        "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format()),
        repr(pickle.dumps(error)), error.hint, caplog.text, *keyed.notes, *capsys.readouterr(),
    ]  # fmt: skip
    assert not any(map(spelled, everything))
    assert not spelled(keyed.cassette.read_bytes())


@pytest.mark.parametrize(
    "body",
    [
        {"error": KEY},
        {"detail": [{"msg": KEY}]},
        f"<html>{KEY}</html>".encode(),
        {"error": {"message": quote(KEY, safe=""), "code": KEY, "param": KEY}},
        {"error": {"message": base64.b64encode(KEY.encode()).decode()}},
        f'{{"error": "{KEY}'.encode(),
    ],
)
def test_whatever_the_form_of_the_error(keyed, caplog, body):
    keyed.server.persona = lambda _: Reply(status=400, body=body)
    with pytest.raises(EndpointError) as caught:
        keyed.ask(keyed.question(1))
    assert not spelled("".join(traceback.format_exception(caught.value)))
    assert not spelled(caplog.text)


def test_an_answer_that_tells_it_is_kept_without_it(keyed):
    body = {
        "model": f"m {KEY}",
        "choices": [
            {
                "finish_reason": KEY,
                "message": {"content": f"you said {KEY}"},
                "logprobs": {"content": [{"token": KEY, "logprob": 0, "top_logprobs": [{"token": KEY, "logprob": 0}]}]},
            }
        ],
    }  # fmt: skip
    keyed.server.persona = lambda _: Reply(body=body)
    (answer,) = keyed.ask(keyed.question(1), seal=True)
    assert answer.text == f"you said {HIDDEN}"
    assert not spelled(repr(answer))
    assert not spelled(keyed.cassette.read_bytes())


def test_names_of_models_that_tell_it_are_not_repeated(keyed):
    keyed.server.models = (f"test-model-{KEY}",)
    with pytest.raises(EndpointError) as caught:
        keyed.ask(keyed.question(1))
    assert not spelled(caught.value.hint)


def test_the_other_variable_is_read_where_ours_is_not_set(bench, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    bench.ask(bench.question(1))
    monkeypatch.setenv("SAESTORE_LLM_KEY", " ")
    bench.ask(bench.question(2))
    monkeypatch.setenv("SAESTORE_LLM_KEY", "sk-ours\n")
    bench.ask(bench.question(3))
    sent = [each.headers["authorization"] for each in bench.server.requests]
    assert sent == ["Bearer sk-other", "Bearer sk-other", "Bearer sk-ours"]


def test_a_refused_key_is_named_by_its_variable(bench, monkeypatch):
    bench.server.persona = lambda _: failure(401, "no")
    for variable in ("OPENAI_API_KEY", "SAESTORE_LLM_KEY"):
        monkeypatch.setenv(variable, KEY)
        with pytest.raises(EndpointError) as caught:
            bench.ask(bench.question(1))
        assert f"check the key in {variable}" in caught.value.hint


@pytest.mark.parametrize("key", ["two words-of-it", "sk-söcret-thing", "sk-a\nb-thing"])
def test_what_no_header_can_hold_is_refused_and_not_shown(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY: holds characters") as caught:
        find_key("https://example.invalid/v1")
    assert key not in str(caught.value) + caught.value.hint


def test_importing_the_verb_loads_no_client():
    code = "import saestore.interpret.client, sys; sys.exit('openai' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


def test_proxies_of_the_environment_are_not_for_this_machine(bench, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert bench.ask(bench.question(1))[0].text == "yes"
    bench.endpoint["proxy"] = "http://127.0.0.1:9"  # one of the settings is
    bench.endpoint["attempts"] = 1
    with pytest.raises(EndpointError, match="cannot be reached"):
        bench.ask(bench.question(2))
