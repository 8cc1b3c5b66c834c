"""Answers about what does not change: made once, known by a tag, sent again only where they differ.

A tag is a digest of the release, the question and the fingerprints of what it is about. A browser that
has an answer sends its tag along; while nothing changed it is told so, and nothing is made.
"""

import hashlib
import importlib.metadata
from collections import OrderedDict
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from saestore.features.making import LazySequence


RELEASE = importlib.metadata.version("saestore")
"""The release that answers."""

_MEDIA = "application/json"


class Kept:
    """Bodies of answers by their tag, the last used ones up to a size; threads may share it."""

    def __init__(self, mib: int) -> None:
        """Keep nothing yet.

        Args:
            mib: MiB of bodies kept, at most.
        """
        self._room = mib << 20
        self._size = 0
        self._bodies: OrderedDict[str, bytes] = OrderedDict()
        self._lock = Lock()

    def get(self, tag: str) -> bytes | None:
        """Return a body that is kept."""
        with self._lock:
            found = self._bodies.get(tag)
            if found is not None:
                self._bodies.move_to_end(tag)
            return found

    def put(self, tag: str, body: bytes) -> None:
        """Keep a body, and drop those that were not used for the longest time."""
        with self._lock:
            if len(body) > self._room or tag in self._bodies:
                return
            self._bodies[tag] = body
            self._size += len(body)
            while self._size > self._room:
                self._size -= len(self._bodies.popitem(last=False)[1])


def tag_of(request: Request, about: Iterable[str]) -> str:
    """Return the tag of the answer to a request about things with these fingerprints."""
    parts = (RELEASE, request.url.path, request.url.query, *about)
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    # weak, because it may be sent compressed
    return f'W/"{digest}"'


def known(request: Request, tag: str) -> bool:
    """Return whether who asks has the answer with this tag."""
    given = request.headers.get("if-none-match", "")
    ours = tag.removeprefix("W/")
    return given.strip() == "*" or ours in {
        each.strip().removeprefix("W/") for each in given.split(",")
    }


def json_response(value: Any, *, headers: dict[str, str] | None = None) -> Response:
    """Return a value, a record or a model as JSON; undefined numbers are null."""
    return Response(json_of(value), headers=headers, media_type=_MEDIA)


def tagged(request: Request, kept: Kept, about: Iterable[str], make: Callable[[], Any]) -> Response:
    """Return the answer to a request about what changes only with these fingerprints.

    Args:
        request: The request.
        kept: Where bodies are kept.
        about: Fingerprints of everything that the answer depends on, but for the request.
        make: Makes the answer.
    """
    tag = tag_of(request, about)
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if known(request, tag):
        return Response(status_code=304, headers=headers)
    body = kept.get(tag)
    if body is None:
        body = json_of(make())
        kept.put(tag, body)
    return Response(body, headers=headers, media_type=_MEDIA)


def json_of(value: Any) -> bytes:
    """Return the body of an answer; of what is undefined, null."""
    return to_json(value, inf_nan_mode="null", fallback=_listed)


def _listed(value: Any) -> list[Any]:
    """Return what JSON says of a sequence that is neither list nor tuple."""
    if isinstance(value, LazySequence):
        return list(value)
    raise TypeError(f"no JSON of {type(value).__name__}")
