"""What is asked of an endpoint, and what it answers: plain data, the same from a wire or a cassette."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from pydantic import JsonValue

from saestore.mixing import mixed
from saestore_schemas.interpret import EndpointSettings


Path = Literal["chat/completions", "embeddings"]
"""Which of an endpoint's services is asked, below its base URL."""


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: Who speaks.
        content: What is said.
    """

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Form:
    """The form in which an answer is wanted.

    Attributes:
        name: What it is called.
        schema: Its JSON Schema: an object, all of whose properties are required.
    """

    name: str
    schema: Mapping[str, JsonValue]


@dataclass(frozen=True)
class Request:
    """One request, without key and place: what decides its answer.

    Attributes:
        path: Which service.
        body: What is sent, as JSON.
        purpose: What for, in words for messages; not part of it.
    """

    path: Path
    body: Mapping[str, JsonValue]
    purpose: str = field(default="", compare=False)

    @property
    def canonical(self) -> str:
        """Path and body as JSON with sorted keys and no spaces: equal texts are the same request."""
        return json.dumps(
            {"body": self.body, "path": self.path},
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
        )

    @cached_property
    def hash(self) -> str:
        """SHA-256 of it, in hexadecimal: its key in cassettes."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()


@dataclass(frozen=True)
class Choice:
    """One token of an answer, and what could have stood in its place.

    Attributes:
        text: The token.
        logprob: Its natural log-probability.
        others: Tokens that were likeliest there, it among them, with theirs.
    """

    text: str
    logprob: float
    others: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Answer:
    """What an endpoint answered.

    Attributes:
        request: Hash of the request.
        text: What it said; empty of embeddings.
        finish: `stop`, or why it ended else: `length` (cut at the limit), `content_filter`, `refusal`,
            or what the endpoint calls it.
        prompt_tokens: Tokens sent, as it counts them.
        completion_tokens: Tokens that came back.
        created: When, in seconds since 1970, going by the endpoint.
        model: Which model it says answered.
        choices: Its tokens with log-probabilities, if they were asked for and it tells them.
        vectors: Of embeddings: one of each text.
    """

    request: str
    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int
    created: int
    model: str
    choices: tuple[Choice, ...] = ()
    vectors: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Asking:
    """How requests are put: by the endpoint's settings and the run's seed.

    Attributes:
        endpoint: Who is asked.
        seed: The run's.
    """

    endpoint: EndpointSettings
    seed: int

    def chat(
        self,
        messages: Sequence[Message],
        *,
        purpose: str,
        form: Form | None = None,
        logprobs: int = 0,
    ) -> Request:
        """Return a question to the chat model.

        Args:
            messages: What is said.
            purpose: What for, in words.
            form: In which form the answer is wanted, where the endpoint can be told.
            logprobs: How many likeliest tokens are wanted at each place of the answer; 0, none.
        """
        body: dict[str, JsonValue] = {
            "model": self.endpoint.model,
            "messages": [{"role": each.role, "content": each.content} for each in messages],
            self.endpoint.limit_as: self.endpoint.max_tokens,
        }
        if self.endpoint.temperature is not None:
            body["temperature"] = self.endpoint.temperature
        if self.endpoint.seed:
            body["seed"] = _seed_of(self.seed, json.dumps(body["messages"], ensure_ascii=False))
        if form is not None and self.endpoint.structured == "json_schema":
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": form.name, "strict": True, "schema": dict(form.schema)},
            }
        elif form is not None and self.endpoint.structured == "json_object":
            body["response_format"] = {"type": "json_object"}
        if logprobs:
            body["logprobs"] = True
            body["top_logprobs"] = logprobs
        return Request("chat/completions", body, purpose)

    def embed(self, texts: Sequence[str], *, purpose: str) -> Request:
        """Return a question for the vectors of some texts.

        Raises:
            ValueError: No model of embeddings is named.
        """
        if self.endpoint.embedding_model is None:
            msg = "no endpoint.embedding_model"
            raise ValueError(msg)
        body: dict[str, JsonValue] = {
            "model": self.endpoint.embedding_model,
            "input": list(texts),
            "encoding_format": "float",
        }
        return Request("embeddings", body, purpose)


def _seed_of(seed: int, text: str) -> int:
    """Return a seed of 31 bits, another one for each run's seed and text."""
    digest = hashlib.sha256(text.encode()).digest()
    return mixed(seed, int.from_bytes(digest[:8], "little")) >> 33
