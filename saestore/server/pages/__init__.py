"""The pages: drawn here, with a little script that makes them quicker to use."""

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.responses import HTMLResponse

from saestore.server.guard import LOGIN
from saestore.server.pages import artefact, ask, assets, dictionary, feature, lake, notes, text
from saestore.server.pages.drawing import page
from saestore.server.problems import refused
from saestore_schemas.wire import Problem


_FOR_GOOD = "public, max-age=31536000, immutable"

static = APIRouter(include_in_schema=False)


@static.get(assets.PREFIX + "/{digest}/{name:path}")
def asset(digest: str, name: str) -> Response:
    """Return a file that pages load."""
    found = assets.assets().get(name)
    if found is None or digest != assets.digest():
        raise refused(404, f"there is no file {name!r}", hint="load the page anew")
    return Response(found.body, media_type=found.media, headers={"Cache-Control": _FOR_GOOD})


def problem_page(request: Request, problem: Problem) -> HTMLResponse:
    """Return the page of a problem."""
    return page(request, "problem.html", {"problem": problem}, status=problem.status)


@static.get(LOGIN)
def login(request: Request) -> HTMLResponse:
    """Ask for the token; `failed` says that a wrong one was given."""
    given = request.query_params
    model = {"next": given.get("next", "/"), "wrong": "failed" in given}
    return page(request, "login.html", model)


def add_to(app: FastAPI) -> None:
    """Let an application answer with pages."""
    for each in (lake, artefact, dictionary, feature, ask, text, notes):
        app.include_router(each.routes)
    app.include_router(static)
    app.state.problem_page = problem_page
