"""What an endpoint sent, as an answer: tolerant of what servers leave out or do their own way."""

import base64
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from saestore.interpret.budget import Tokens, bound
from saestore.interpret.request import Answer, Choice, Request


IMPOSSIBLE = -9999.0
"""Log-probability of what cannot be, as JSON has no infinity; OpenAI's endpoints write the same."""


class UnreadableError(ValueError):
    """What was sent is no answer to the request."""


@dataclass(frozen=True)
class Read:
    """What was read.

    Attributes:
        answer: The answer.
        counted: Whether the endpoint told its tokens; else they are a bound.
    """

    answer: Answer
    counted: bool


def read(request: Request, sent: Mapping[str, Any], *, hide: Callable[[str], str]) -> Read:
    """Return what an endpoint answered.

    Args:
        request: What was asked.
        sent: Its JSON.
        hide: Takes the key out of a text: an endpoint may tell it.

    Raises:
        UnreadableError: It is nothing that answers the request.
    """
    embeds = request.path == "embeddings"
    text, finish, choices = ("", "stop", ()) if embeds else _chat(sent)
    tokens, counted = _tokens(request, sent)
    created = sent.get("created")
    answer = Answer(
        request=request.hash,
        text=hide(_whole(text)),
        finish=hide(_whole(finish)),
        prompt_tokens=tokens.prompt,
        completion_tokens=tokens.completion,
        created=int(created) if _is_number(created) else int(time.time()),
        model=hide(_whole(str(sent.get("model") or request.body.get("model")))),
        choices=tuple(
            Choice(
                hide(_whole(each.text)),
                each.logprob,
                tuple((hide(_whole(other)), value) for other, value in each.others),
            )
            for each in choices
        ),
        vectors=_vectors(request, sent) if embeds else (),
    )
    return Read(answer, counted)


def _chat(sent: Mapping[str, Any]) -> tuple[str, str, tuple[Choice, ...]]:
    """Return what was said, why it ended, and its tokens."""
    found = sent.get("choices")
    if not isinstance(found, list):
        raise UnreadableError("it has no choices")
    if not found or not isinstance(found[0], dict):
        return "", "empty", ()
    choice = found[0]
    message = choice.get("message")
    if not isinstance(message, dict):
        message = {}
    text = _text(message.get("content"))
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal:
        return text or refusal, "refusal", ()
    return text, str(choice.get("finish_reason") or "stop"), _choices(choice.get("logprobs"))


def _text(content: object) -> str:
    """Return what a message says: some servers send it in parts, or null."""
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _choices(found: object) -> tuple[Choice, ...]:
    tokens = found.get("content") if isinstance(found, dict) else None
    if not isinstance(tokens, list):
        return ()
    return tuple(
        Choice(str(each["token"]), _log(each["logprob"]), tuple(_others(each.get("top_logprobs"))))
        for each in tokens
        if isinstance(each, dict) and "token" in each and _is_number(each.get("logprob"))
    )


def _others(found: object) -> list[tuple[str, float]]:
    return [
        (str(each["token"]), _log(each["logprob"]))
        for each in (found if isinstance(found, list) else ())
        if isinstance(each, dict) and "token" in each and _is_number(each.get("logprob"))
    ]


def _log(value: int | float) -> float:
    return float(value) if math.isfinite(value) else IMPOSSIBLE


def _vectors(request: Request, sent: Mapping[str, Any]) -> tuple[tuple[float, ...], ...]:
    """Return one vector of each text, in their order."""
    found = sent.get("data")
    texts = request.body.get("input")
    wanted = len(texts) if isinstance(texts, list) else 1
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise UnreadableError("it has no vectors")
    places = [each.get("index", n) for n, each in enumerate(found)]
    if sorted(places, key=str) != sorted(range(wanted), key=str):
        raise UnreadableError(f"it has {len(found)} vectors, of the places {places[:20]}")
    ordered = sorted(zip(places, found, strict=True), key=lambda each: int(each[0]))
    vectors = tuple(_vector(each.get("embedding")) for _, each in ordered)
    if len({len(vector) for vector in vectors}) > 1 or not vectors[0]:
        raise UnreadableError(f"its vectors have {sorted({len(v) for v in vectors})} numbers")
    return vectors


def _vector(found: object) -> tuple[float, ...]:
    if isinstance(found, str):  # as bytes, although numbers were asked for
        try:
            found = np.frombuffer(base64.b64decode(found, validate=True), "<f4").tolist()
        except ValueError as error:
            raise UnreadableError("a vector is neither numbers nor their bytes") from error
    given = found if isinstance(found, list) else []
    numbers = [each for each in given if _is_number(each) and math.isfinite(each)]
    if not numbers or len(numbers) < len(given):
        raise UnreadableError("a vector has something in it that is no number")
    return tuple(map(float, numbers))


def _tokens(request: Request, sent: Mapping[str, Any]) -> tuple[Tokens, bool]:
    """Return the tokens that it took; where the endpoint does not tell, the most it can have been."""
    usage = sent.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    most = bound(request)
    told = _is_number(prompt) and (_is_number(completion) or request.path == "embeddings")
    return (
        Tokens(
            int(prompt) if _is_number(prompt) else most.prompt,
            int(completion) if _is_number(completion) else most.completion,
        ),
        told,
    )


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(text: str) -> str:
    """Return a text with halves of characters replaced, which JSON can name and no file can hold."""
    return text.encode("utf-8", "replace").decode() if not text.isascii() else text
