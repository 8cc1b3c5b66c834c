"""What an endpoint's refusals mean: come back later, ask in another form, or change a setting."""

from collections.abc import Mapping

from pydantic import JsonValue

from saestore.errors import EndpointError, nearest
from saestore.interpret.endpoint import Endpoint, Refused, Unreached


_KEPT = "what was answered is kept: run the same command again to go on"

_LATER = {408, 409, 425, 429, 529}
_NEVER = {501, 505}
_NOT_FOUND = 404
_EVERYONE = {429, 503, 529}

_NO_MONEY = (
    "insufficient_quota",
    "billing_hard_limit",
    "billing_not_active",
    "insufficient_credit",
)
_TOO_LONG = ("context_length", "context length", "maximum context", "context size", "too long")
_FORM = (
    "response_format",
    "json_schema",
    "json schema",
    "json_object",
    "grammar",
    "structured output",
    "'json'",
)

_SETTINGS = (
    ("max_completion_tokens", 'set endpoint.limit_as to "max_tokens"'),
    (
        "max_tokens",
        'set endpoint.limit_as to "max_completion_tokens", or endpoint.max_tokens to fewer',
    ),
    ("logprobs", 'its answers have no probabilities: set values to "numeric" in [scorers.NAME]'),
    ("temperature", "set endpoint.temperature to null: this model takes none but its own"),
    ("seed", "set endpoint.seed to false"),
    ("encoding_format", "its embeddings cannot be asked for as numbers: name another endpoint"),
)
"""What is refused, and which setting leaves it out; the first that is named counts."""


def come_back(refused: Refused) -> bool:
    """Return whether the same request may be answered later."""
    if out_of_money(refused):
        return False
    return refused.status in _LATER or (refused.status >= 500 and refused.status not in _NEVER)  # noqa: PLR2004 - a server's error


def everyone_waits(refused: Refused) -> bool:
    """Return whether the endpoint has too much to do, for whoever asks."""
    return refused.status in _EVERYONE


def out_of_money(refused: Refused) -> bool:
    """Return whether the account has nothing left: waiting would not help."""
    return refused.status == 402 or any(word in refused.words for word in _NO_MONEY)  # noqa: PLR2004 - payment required


def about_form(refused: Refused, body: Mapping[str, JsonValue]) -> bool:
    """Return whether a request was refused for the form in which its answer is wanted."""
    return (
        "response_format" in body
        and refused.status in {400, 404, 415, 422, 500, 501}
        and any(word in refused.words for word in _FORM)
    )


async def final_error(
    outcome: Refused | Unreached,
    endpoint: Endpoint,
    body: Mapping[str, JsonValue],
    *,
    attempts: int,
) -> EndpointError:
    """Return the error that ends a run, which says what to do.

    Args:
        outcome: What came of the last attempt.
        endpoint: The endpoint; it is asked for its models where that helps.
        body: What was sent.
        attempts: How often.
    """
    place = endpoint.settings.base_url
    times = f", {attempts} times in a row" if attempts > 1 else ""
    if isinstance(outcome, Unreached):
        return EndpointError(
            place=place,
            reason=f"{outcome.reason}{times}",
            expected="an answer",
            hint=f"check endpoint.base_url, which often ends in /v1, and the network; {_KEPT}",
        )
    said = f"refuses ({outcome.status}: {outcome.message}){times}"
    expected, hint = await _advice(outcome, endpoint, body)
    return EndpointError(place=place, reason=said, expected=expected, hint=hint)


async def _advice(
    refused: Refused, endpoint: Endpoint, body: Mapping[str, JsonValue]
) -> tuple[str, str]:
    """Return what was expected, and what to do."""
    status, model = refused.status, str(body.get("model"))
    hints = [hint for word, hint in _SETTINGS if word in body and word in refused.words]
    known = {
        401: ("a key that it knows", endpoint.key.advice),
        403: ("a key that may ask this", f"the key may not use {model}, or not from here; {_KEPT}"),
    }
    if out_of_money(refused):
        found = ("an account with something left", f"add credit, or raise its limit; {_KEPT}")
    elif status in known:
        found = known[status]
    elif any(word in refused.words for word in _TOO_LONG):
        found = (
            "room for the prompt",
            "show less in [explainers.NAME]: fewer examples, a smaller window",
        )
    elif status == _NOT_FOUND or refused.param == "model" or "model_not_found" in refused.code:
        found = await _advice_on_model(endpoint, model)
    elif come_back(refused):
        found = (
            "an answer",
            f"it has too much to do: try later, or with less concurrency; {_KEPT}",
        )
    elif hints:
        found = ("an answer", hints[0])
    else:
        found = ("an answer", f"change what it names, in [endpoint]; {_KEPT}")
    return found


async def _advice_on_model(endpoint: Endpoint, model: str) -> tuple[str, str]:
    known = await endpoint.models()
    if model in known or not known:
        return (
            "an endpoint that speaks as OpenAI's do",
            "check endpoint.base_url, which often ends in /v1, and endpoint.model",
        )
    close = nearest(model, known)
    return (
        f"one of {len(known)} models",
        f"set endpoint.model: did you mean {', '.join(close)}?"
        if close
        else f"set endpoint.model: there are {', '.join(sorted(known)[:10])}",
    )
