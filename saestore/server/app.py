"""The application: guard, routes and what they serve, put together."""

from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware

from saestore.errors import ConfigError
from saestore.lake import Lake
from saestore.server import login, pages, problems
from saestore.server.answers import RELEASE
from saestore.server.guard import Guard
from saestore.server.metrics import Counted
from saestore.server.routes import (
    VERSION,
    annotations,
    dictionaries,
    features,
    health,
    lake,
    live,
    sql,
)
from saestore.server.served import Live, Served
from saestore_schemas.server import ServerSettings


_ROUTES = (health, lake, dictionaries, features, annotations, sql, live, login)

_ABOUT = """Features of sparse dictionaries, read from a lake.

Everything is read only, but for annotations where the server allows them. Answers about finished
artefacts carry an `ETag`. Errors are `application/problem+json`: `detail`, `found`, `expected` and a
`hint` that says what to do.
"""


def create_app(
    lake: Lake, settings: ServerSettings | None = None, *, live: Live | None = None
) -> FastAPI:
    """Return the application that serves a lake.

    Args:
        lake: The lake; it need not exist yet.
        settings: How it is served; absent, what `SAESTORE_SERVER_*` variables say.
        live: Runs texts; absent, none are run.

    Raises:
        ConfigError: It would listen beyond this machine without a token.
    """
    chosen = ServerSettings() if settings is None else settings
    check(chosen)
    app = FastAPI(
        title="saestore",
        version=RELEASE,
        description=_ABOUT,
        openapi_url=f"{VERSION}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    served = Served(lake, chosen, live)
    app.state.served = served
    problems.add_to(app)
    for module in _ROUTES:
        app.include_router(module.routes)
    pages.add_to(app)
    # the last one added stands outermost
    app.add_middleware(GZipMiddleware, minimum_size=1024, compresslevel=5)
    app.add_middleware(Guard, settings=chosen)
    app.add_middleware(Counted, metrics=served.metrics)
    return app


def check(settings: ServerSettings) -> None:
    """Refuse to be reached by others without a token.

    Raises:
        ConfigError: There is none.
    """
    if not settings.loopback and settings.token is None:
        raise ConfigError(
            field="SAESTORE_SERVER_TOKEN",
            found=None,
            expected=f"a token, because {settings.host} can be reached from other machines",
            hint="set it to a long random text: export SAESTORE_SERVER_TOKEN=$(openssl rand -hex 32)",
        )
