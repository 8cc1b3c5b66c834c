"""How a browser shows that it knows the token: once, on a page of its own, then by a cookie."""

from urllib.parse import parse_qs, quote

from fastapi import APIRouter, Request, Response

from saestore.server.guard import COOKIE, LOGIN, same, session_of
from saestore.server.served import Served


routes = APIRouter()

_MONTH_S = 30 * 24 * 3600


@routes.post(LOGIN, include_in_schema=False)
async def log_in(request: Request) -> Response:
    """Set the cookie of who knows the token, and go where they came from; else back to the page."""
    sent = parse_qs((await request.body()).decode("utf-8", errors="replace"), max_num_fields=10)
    given, target = (sent.get(name, [""])[0] for name in ("token", "next"))
    where = local(target)
    token = Served.by(request).settings.token
    if token is not None and not same(given, token.get_secret_value()):
        return _go(f"{LOGIN}?failed=1&next={quote(where, safe='')}")
    answer = _go(where)
    if token is not None:
        answer.set_cookie(
            COOKIE,
            session_of(token.get_secret_value()),
            max_age=_MONTH_S,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
    return answer


@routes.post("/logout", include_in_schema=False)
async def log_out() -> Response:
    """Forget the cookie."""
    answer = _go(LOGIN)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


def local(target: str) -> str:
    r"""Return a place on this server to go to: the one that was asked for, if it is one.

    >>> local("/a?b=c"), local("//elsewhere.org"), local("https://elsewhere.org"), local("/\\x")
    ('/a?b=c', '/', '/', '/')
    """
    plain = target.isprintable() and "\\" not in target
    return target if plain and target.startswith("/") and not target.startswith("//") else "/"


def _go(where: str) -> Response:
    # a header holds no letters beyond Latin ones; what is escaped already stays
    return Response(
        status_code=303, headers={"Location": quote(where, safe="%/:?#[]@!$&'()*+,;=~")}
    )
