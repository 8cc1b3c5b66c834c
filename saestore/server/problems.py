"""Errors as answers: what was found, what was expected, what to do now, with a fitting status."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from saestore import errors
from saestore.errors import SaestoreError
from saestore.plain import plain
from saestore_schemas.wire import Problem


Render = Callable[[Request, Problem], Response]
"""How a problem is shown to a person."""

MEDIA = "application/problem+json"
API = "/api/"
"""Begin of the paths that programs ask."""

STATUS: Mapping[type[SaestoreError], int] = {
    errors.ArtefactNotFoundError: 404,
    errors.FeatureNotFoundError: 404,
    errors.HookpointNotFoundError: 404,
    errors.IncompleteArtefactError: 409,
    errors.ArtefactExistsError: 409,
    errors.ArtefactBusyError: 409,
    errors.ConfigError: 422,
    errors.QueryError: 422,
    errors.UnsupportedError: 422,
    errors.MissingExtraError: 501,
    errors.StorageError: 503,
}
"""HTTP status of each kind of error; all others are the server's own: 500."""

_TITLES = {
    400: "The request makes no sense",
    401: "A token is needed",
    403: "This is not allowed",
    404: "There is nothing here",
    405: "This cannot be done here",
    408: "The request took too long to arrive",
    413: "The request is too large",
    415: "The request has the wrong type",
    421: "This server has another name",
    500: "The server made a mistake",
    503: "The server has too much to do",
}

_LOG = logging.getLogger("saestore.server")


class Refused(HTTPException):
    """A request that is not answered.

    Attributes:
        problem: Why.
    """

    def __init__(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(problem.status, problem.detail, dict(headers or {}))
        self.problem = problem


def refused(
    status: int,
    detail: str,
    *,
    found: Any = None,
    expected: str | None = None,
    hint: str = "",
    headers: Mapping[str, str] | None = None,
) -> Refused:
    """Return why a request is not answered."""
    title = _TITLES.get(status, "This request is not answered")
    problem = Problem(
        type="urn:saestore:Refused",
        title=title,
        status=status,
        detail=detail,
        found=_said(found),
        expected=expected,
        hint=hint,
    )
    return Refused(problem, headers)


def problem_of(error: SaestoreError) -> Problem:
    """Return an error of the library as a problem."""
    kind = type(error)
    status = next((s for k, s in STATUS.items() if isinstance(error, k)), 500)
    return Problem(
        type=f"urn:saestore:{kind.__name__}",
        title=(kind.__doc__ or kind.__name__).split("\n", 1)[0],
        status=status,
        detail=error.message,
        found=_said(error.found),
        expected=error.expected,
        hint=error.hint,
    )


def respond(
    request: Request, problem: Problem, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a problem as an answer: a page to a browser that wants one, else JSON."""
    if headers and "Location" in headers:
        return Response(status_code=problem.status, headers=dict(headers))
    render: Render | None = getattr(request.app.state, "problem_page", None)
    wants_page = "text/html" in request.headers.get("accept", "")
    if render is not None and wants_page and not request.url.path.startswith(API):
        answer = render(request, problem)
        answer.headers.update(headers or {})
        return answer
    text = problem.model_dump_json()
    return Response(text, problem.status, headers=dict(headers or {}), media_type=MEDIA)


def crashed(request: Request, error: Exception) -> Response:
    """Return the answer to a request that met a mistake of ours; the log has the rest."""
    _LOG.exception("%s %s failed", request.method, request.url.path, exc_info=error)
    problem = Problem(
        type="urn:saestore:Mistake",
        title=_TITLES[500],
        status=500,
        detail="the server met an error that it did not expect",
        hint="its log says more; please report it",
    )
    return respond(request, problem)


def add_to(app: FastAPI) -> None:
    """Let an application answer errors so."""

    async def ours(request: Request, error: Exception) -> Response:
        if not isinstance(error, SaestoreError):
            raise error
        problem = problem_of(error)
        if problem.status >= 500:  # noqa: PLR2004 - the server's own
            _LOG.error("%s %s: %s", request.method, request.url.path, error.message)
        return respond(request, problem)

    async def http(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        where = f"{request.method} {request.url.path}: {error.detail}"
        said = error if isinstance(error, Refused) else refused(error.status_code, where)
        return respond(request, said.problem, error.headers)

    async def invalid(request: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            raise error
        return respond(request, _invalid(error.errors()))

    app.add_exception_handler(SaestoreError, ours)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)


def _invalid(found: Sequence[Mapping[str, Any]]) -> Problem:
    lines = [f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in found]
    first = found[0]
    return Problem(
        type="urn:saestore:RequestError",
        title="The request is not what this answers",
        status=422,
        detail="; ".join(lines),
        found=_said(first.get("input")),
        expected=str(first["msg"]),
        hint=f"{API}v1/openapi.json says what every request holds",
    )


def _said(value: Any) -> Any:
    """Return what was found, as JSON; what is long is cut."""
    if isinstance(value, str):
        return value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…"
    if value is None or isinstance(value, bool | int | float):
        return plain(value)
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


_SHOWN = 500
"""Characters of what was found that are shown."""
