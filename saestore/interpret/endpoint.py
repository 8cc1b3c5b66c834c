"""One endpoint on the wire: a request is sent once, and what comes of it is returned, whatever it is.

The library `openai` does the sending; trying again, waiting and giving up are decided elsewhere. Its
exceptions never leave this file: they hold the request, and so the key.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import JsonValue

from saestore.errors import MissingExtraError
from saestore.interpret.key import Key, find_key
from saestore_schemas.interpret import EndpointSettings
from saestore_schemas.server import is_loopback


if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI


_SHOWN = 400
"""Characters of an endpoint's own words in a message."""


@dataclass(frozen=True)
class Refused:
    """The endpoint answered with an error.

    Attributes:
        status: Of HTTP.
        message: What it says, without the key, in one line.
        code: Its own code or type of error, if it has one.
        param: Which part of the request it is about, if it says.
        headers: Of the answer, names in lower case.
    """

    status: int
    message: str
    code: str = ""
    param: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def words(self) -> str:
        """All of its words, in lower case, to look for some in them."""
        return f"{self.param} {self.code} {self.message}".lower()


@dataclass(frozen=True)
class Unreached:
    """The endpoint could not be reached, said nothing in time, or sent what cannot be read.

    Attributes:
        reason: Which of these, in words.
        final: Whether another attempt would be no better.
    """

    reason: str
    final: bool = False


class Endpoint:
    """An open connection to an endpoint.

    Attributes:
        settings: Where it is.
        key: What it is given to know who asks.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        """Prepare it; nothing is sent.

        Raises:
            ConfigError: There is no key, or it cannot be one.
            MissingExtraError: openai is not installed.
        """
        self.settings = settings
        self.key = find_key(settings.base_url)
        self._client = _client(settings, self.key)

    async def send(
        self, path: str, body: Mapping[str, JsonValue]
    ) -> dict[str, Any] | Refused | Unreached:
        """Send a request once; return what was answered, or what went wrong."""
        try:
            # the library's own time is between two pieces of an answer
            async with asyncio.timeout(self.settings.timeout_s):
                sent = await self._client.post(f"/{path}", body=dict(body), cast_to=object)
        except Exception as error:  # noqa: BLE001 - told apart below; nothing of ours runs in here
            return self._failure(error)
        return self._object(sent)

    async def models(self) -> list[str]:
        """Return what models it offers; none where it does not say."""
        try:
            async with asyncio.timeout(min(10.0, self.settings.timeout_s)):
                sent = await self._client.get("/models", cast_to=object)
        except Exception as error:  # noqa: BLE001 - only a hint is lost
            sent = self._failure(error)
        found = sent.get("data") if isinstance(sent, dict) else None
        names = found if isinstance(found, list) else []
        return [
            self.key.hide(str(each["id"]))
            for each in names
            if isinstance(each, dict) and "id" in each
        ]

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()

    def _object(self, sent: object) -> dict[str, Any] | Refused | Unreached:
        """Return JSON that was sent with success: some tell an error that way."""
        if isinstance(sent, str):  # it does not call it JSON
            if sent.lstrip()[:1] == "<":
                reason = "answers with a page of HTML"
                return Unreached(reason, final=True)
            try:
                sent = json.loads(sent)
            except ValueError:
                return Unreached("answered what is no JSON")
        if not isinstance(sent, dict):
            return Unreached("answered what is no JSON object")
        error = sent.get("error")
        if error and "choices" not in sent and "data" not in sent:
            told = error.get("code") if isinstance(error, dict) else None
            status = told if isinstance(told, int) and told in range(400, 600) else 500
            return self._refused(status, error, {})
        return sent

    def _failure(self, error: Exception) -> Refused | Unreached:
        import openai  # noqa: PLC0415 - only where an endpoint is asked

        if isinstance(error, openai.APIStatusError):
            return self._refused(error.status_code, _body(error), error.response.headers)
        if isinstance(error, openai.APITimeoutError | TimeoutError):
            return Unreached(f"did not answer within {self.settings.timeout_s:g} s")
        if isinstance(error, openai.APIConnectionError):
            cause = error.__cause__
            why = (
                f": {_line(self.key.hide(str(cause)))}" if cause is not None and str(cause) else ""
            )
            return Unreached(f"cannot be reached{why}", final="CERTIFICATE_VERIFY" in why)
        if isinstance(error, ValueError):
            return Unreached("answered what is no JSON")
        return Unreached(f"could not be asked ({_line(self.key.hide(repr(error)))})")

    def _refused(self, status: int, body: object, headers: Mapping[str, str]) -> Refused:
        found = body if isinstance(body, dict) else {"message": body}
        said = found.get("message") or found.get("detail") or found.get("error") or found
        text = said if isinstance(said, str) else json.dumps(said, default=str)
        return Refused(
            status,
            _line(self.key.hide(text)),
            self.key.hide(str(found.get("code") or found.get("type") or "")),
            self.key.hide(str(found.get("param") or "")),
            {name.lower(): value for name, value in headers.items()},
        )


def _body(error: "APIStatusError") -> object:
    return error.body or error.response.text


def _line(text: str) -> str:
    """Return a text in one line, and not too long."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[:_SHOWN] + " …"


def _client(settings: EndpointSettings, key: Key) -> "AsyncOpenAI":
    try:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient  # noqa: PLC0415 - takes a second
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            package="openai", extra="interpret", purpose="asking a language model"
        ) from error
    local = is_loopback(urlsplit(settings.base_url).hostname or "")
    http = DefaultAsyncHttpxClient(
        timeout=settings.timeout_s,
        proxy=settings.proxy,
        # what the environment says of proxies is not meant for this machine itself
        trust_env=settings.proxy is None and not local,
    )
    return AsyncOpenAI(
        api_key=key.value.get_secret_value(),
        base_url=settings.base_url,
        timeout=settings.timeout_s,
        max_retries=0,
        http_client=http,
    )
