"""Endpoints on loopback that speak as OpenAI's do: one in a thread that says what a test wants.

What is said is decided by a persona, a function of what was asked; wrappers make it slow, refuse for a
while, drop connections, or answer what no endpoint should:

    with llm_server(refused_then(says("yes"), 2)) as server:
        ...  # ask server.url; then look at server.requests, server.peak, server.prompt_tokens
"""

import asyncio
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, TypeVar


_T = TypeVar("_T")


@dataclass(frozen=True)
class Asked:
    """One request as it arrived.

    Attributes:
        path: Which service, such as `chat/completions`.
        body: What was sent.
        headers: Its headers, names in lower case.
        number: How many requests came before it.
        times: How many times this same request came before.
    """

    path: str
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    number: int
    times: int

    @property
    def text(self) -> str:
        """The contents of all messages, one after the other."""
        return "\n".join(str(each["content"]) for each in self.body.get("messages", ()))


@dataclass(frozen=True)
class Reply:
    """What is answered.

    Attributes:
        text: What is said; None, null.
        finish: Why it ended.
        refusal: Why it would not answer.
        logprobs: Of each token: its text, and log-probabilities of it and others by text.
        vectors: Of embeddings: one of each text.
        usage: Whether tokens are told.
        status: Of HTTP.
        headers: Further headers.
        body: Sent instead of all that, as JSON or, if bytes, as it is.
        wait_s: Seconds before it is sent.
        drop: Close the connection instead.
    """

    text: str | None = ""
    finish: str | None = "stop"
    refusal: str | None = None
    logprobs: tuple[tuple[str, Mapping[str, float]], ...] = ()
    vectors: tuple[tuple[float, ...], ...] | None = None
    usage: bool = True
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    wait_s: float = 0.0
    drop: bool = False


Persona = Callable[[Asked], Reply]
"""Decides what is answered."""


def says(text: str) -> Persona:
    """Return a persona that always says one thing."""
    return lambda _: Reply(text)


def slow(persona: Persona, seconds: float) -> Persona:
    """Return one that takes its time."""
    return lambda asked: replace(persona(asked), wait_s=seconds)


def refused_then(
    persona: Persona, n: int, *, status: int = 429, retry_after: str | None = None
) -> Persona:
    """Return one that refuses each request `n` times, and then answers it.

    Args:
        persona: Who answers then.
        n: How many times.
        status: With which status.
        retry_after: What it says of when to come back, in the header's own words.
    """
    headers = {} if retry_after is None else {"retry-after": retry_after}

    def decide(asked: Asked) -> Reply:
        if asked.times < n:
            return failure(status, "come back later", headers=headers)
        return persona(asked)

    return decide


def dropped_then(persona: Persona, n: int) -> Persona:
    """Return one that closes the connection `n` times for each request, and then answers it."""
    return lambda asked: Reply(drop=True) if asked.times < n else persona(asked)


def garbled_then(persona: Persona, n: int) -> Persona:
    """Return one whose answers are no JSON `n` times for each request, and then are."""
    return lambda asked: Reply(body=b'{"choices": [') if asked.times < n else persona(asked)


def truncated(persona: Persona, characters: int) -> Persona:
    """Return one whose answers are cut at a length, as at the limit of tokens."""

    def decide(asked: Asked) -> Reply:
        reply = persona(asked)
        return replace(reply, text=(reply.text or "")[:characters], finish="length")

    return decide


def without_usage(persona: Persona) -> Persona:
    """Return one that does not tell how many tokens it used."""
    return lambda asked: replace(persona(asked), usage=False)


def echoing(status: int) -> Persona:
    """Return one that refuses, and tells everyone which key it was given."""
    return lambda asked: failure(status, f"no entry with {asked.headers.get('authorization')}")


def refusing(persona: Persona, *parts: str) -> Persona:
    """Return one that refuses requests that have some part, such as `seed` or `json_schema`."""

    def decide(asked: Asked) -> Reply:
        form = asked.body.get("response_format", {}).get("type")
        for part in parts:
            if part in asked.body or part == form:
                name = "response_format" if part == form else part
                return failure(400, f"Unsupported parameter: '{part}'", param=name)
        return persona(asked)

    return decide


def failure(
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Return a refusal as OpenAI words them."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return Reply(status=status, body={"error": error}, headers=headers or {})


def tokens_in(text: str) -> int:
    """Return how many tokens the server counts in a text: words and single marks.

    >>> tokens_in("says: stop it!")
    5
    """
    return len(re.findall(r"\w+|[^\w\s]", text))


def vector_of(text: str, *, width: int = 32) -> tuple[float, ...]:
    """Return a vector of a text in which texts with the same words are near each other."""
    found = [0.0] * width
    for word in re.findall(r"\w+", text.lower()):
        found[hashlib.sha256(word.encode()).digest()[0] % width] += 1.0
    return tuple(found)


@dataclass
class LlmServer:
    """A server in a thread, and what it saw. It may be read while it runs.

    Attributes:
        persona: Who answers; may be changed.
        key: The key that it wants; None, any or none.
        models: What it offers.
        port: Where it listens on loopback.
        requests: All that were asked, models aside, in the order they came.
        answered: How often each request was answered whole, by its body as canonical JSON.
        peak: Most requests that were under way at once.
        prompt_tokens: Tokens of what it answered, as it told them.
        completion_tokens: Tokens it said.
    """

    persona: Persona
    key: str | None = None
    models: Sequence[str] = ("test-model",)
    port: int = 0
    requests: list[Asked] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    peak: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    _times: Counter[str] = field(default_factory=Counter)
    _under_way: int = 0

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer what comes over one connection, one after the other."""
        # the client has gone: killed, or it lost patience; or the server ends
        gone = (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError)
        try:
            with suppress(*gone):
                while await self._one(reader, writer):
                    pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection goes on."""
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        pairs = (line.split(":", 1) for line in lines)
        headers = {name.lower(): value.strip() for name, value in pairs}
        sent = await reader.readexactly(int(headers.get("content-length", 0)))
        path = first.split()[1].removeprefix("/v1/")
        if self.key is not None and headers.get("authorization") != f"Bearer {self.key}":
            reply = failure(401, "Incorrect API key provided", code="invalid_api_key")
            writer.write(_http(reply, _json(reply.body)))
        elif path == "models":
            found = [{"id": name, "object": "model"} for name in self.models]
            writer.write(_http(Reply(), _json({"object": "list", "data": found})))
        else:
            return await self._answer(path, headers, json.loads(sent), writer)
        await writer.drain()
        return True

    async def _answer(
        self, path: str, headers: dict[str, str], body: dict[str, Any], writer: asyncio.StreamWriter
    ) -> bool:
        which = json.dumps(body, sort_keys=True)
        asked = Asked(path, body, headers, len(self.requests), self._times[which])
        self._times[which] += 1
        self.requests.append(asked)
        self._under_way += 1
        self.peak = max(self.peak, self._under_way)
        try:
            reply = self.persona(asked)
            if body.get("model") not in self.models:
                reply = failure(404, f"no model {body.get('model')}", code="model_not_found")
            if reply.wait_s:
                await asyncio.sleep(reply.wait_s)
        finally:
            self._under_way -= 1
        if reply.drop:
            return False
        whole, prompt, completion = _whole(asked, reply)
        writer.write(_http(reply, whole))
        await writer.drain()
        if reply.status == HTTPStatus.OK and reply.body is None:
            self.answered[which] += 1
            self.prompt_tokens += prompt
            self.completion_tokens += completion
        return True


def _whole(asked: Asked, reply: Reply) -> tuple[bytes, int, int]:
    """Return the body of an answer, and its tokens: sent and said."""
    if reply.body is not None:
        return (reply.body if isinstance(reply.body, bytes) else _json(reply.body)), 0, 0
    found: dict[str, Any] = {"model": asked.body.get("model")}
    if asked.path == "embeddings":
        texts = list(asked.body["input"])
        prompt, completion = sum(tokens_in(text) for text in texts), 0
        vectors = (
            reply.vectors if reply.vectors is not None else [vector_of(each) for each in texts]
        )
        # the last first: clients must go by the index
        found["data"] = [
            {"object": "embedding", "index": n, "embedding": list(vector)}
            for n, vector in reversed(list(enumerate(vectors)))
        ]
    else:
        prompt = sum(tokens_in(str(m["content"])) + 4 for m in asked.body["messages"])
        completion = tokens_in(reply.text or "")
        message = {"role": "assistant", "content": reply.text, "refusal": reply.refusal}
        choice = {"index": 0, "message": message, "finish_reason": reply.finish, "logprobs": None}
        if reply.logprobs and asked.body.get("logprobs"):
            choice["logprobs"] = {"content": [_logprob(*each) for each in reply.logprobs]}
        found |= {"object": "chat.completion", "created": 1_700_000_000, "choices": [choice]}
    if reply.usage:
        found["usage"] = {"prompt_tokens": prompt, "total_tokens": prompt + completion}
        found["usage"] |= {} if asked.path == "embeddings" else {"completion_tokens": completion}
    return _json(found), prompt, completion


def _logprob(token: str, others: Mapping[str, float]) -> dict[str, Any]:
    top = [{"token": other, "logprob": value} for other, value in others.items()]
    return {"token": token, "logprob": others[token], "top_logprobs": top}


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _http(reply: Reply, body: bytes) -> bytes:
    headers = {"content-type": "application/json", **reply.headers, "content-length": len(body)}
    lines = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@contextmanager
def llm_server(
    persona: Persona, *, key: str | None = None, models: Sequence[str] = ("test-model",)
) -> Iterator[LlmServer]:
    """Run a server on a free port of loopback while the block runs.

    Args:
        persona: Who answers.
        key: The key that it wants; None, any or none.
        models: What it offers.
    """
    server = LlmServer(persona, key, models)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="llm-server", daemon=True)
    thread.start()
    listening = _in(loop, asyncio.start_server(server.serve, "127.0.0.1", 0))
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        _in(loop, _end_all())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _in(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, _T]) -> _T:
    return asyncio.run_coroutine_threadsafe(work, loop).result(timeout=10)


async def _end_all() -> None:
    """End every connection that is still open."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
