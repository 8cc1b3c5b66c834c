"""Who may ask, and how much: what stands between the socket and every route.

    host      a request must name this server, or an IP address: a page elsewhere cannot make its own
              name lead here (DNS rebinding)
    token     where one is set: `Authorization: Bearer`, or the cookie that the login page sets
    origin    what writes or computes must come from a page of this server, or from no page
    body      no larger and no slower than the settings say
    at once   no more than the settings say; others are told to come back
    headers   browsers are told to load and run nothing that this server did not send

The cookie holds a digest of the token, not the token; it is for this site alone, and no script reads it.
"""

import asyncio
import hashlib
import hmac
from ipaddress import ip_address
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from saestore.server import problems
from saestore.server.problems import Refused, refused
from saestore_schemas.server import LOOPBACK_NAMES, ServerSettings


COOKIE = "saestore_session"
LOGIN = "/login"
OPEN_PATHS = ("/health", LOGIN, "/static/")
"""What is answered without a token."""

_SAFE = {"GET", "HEAD", "OPTIONS"}
_JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"

SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
"""What every answer says."""


def session_of(token: str) -> str:
    """Return what the cookie holds of who knows a token."""
    return hmac.new(token.encode(), b"saestore session", hashlib.sha256).hexdigest()


def same(one: str, other: str) -> bool:
    """Return whether two texts are equal, in a time that does not say where they differ."""
    return hmac.compare_digest(one.encode(), other.encode())


class Guard:
    """Answers what may not be asked, and hands on the rest."""

    def __init__(self, app: ASGIApp, *, settings: ServerSettings) -> None:
        """Stand before an application."""
        self._app = app
        self._settings = settings
        self._token = settings.token.get_secret_value() if settings.token else None
        self._names = {settings.host.lower(), *LOOPBACK_NAMES, *(h.lower() for h in settings.hosts)}
        self._busy = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on a request, or answer why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        send = _with_headers(send)
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        self._busy += 1
        try:
            self._check(request)
            body = _Body(receive, self._settings)
            await self._app(scope, body, watched)
        except Refused as error:
            if started:
                raise
            await problems.respond(request, error.problem, error.headers)(scope, receive, send)
        except Exception as error:
            if started:
                raise
            await problems.crashed(request, error)(scope, receive, send)
        finally:
            self._busy -= 1

    def _check(self, request: Request) -> None:
        """Refuse what may not be asked.

        Raises:
            Refused: Why.
        """
        if self._busy > self._settings.at_once:
            raise refused(
                503,
                f"{self._settings.at_once} requests are in progress",
                hint="come back in a second",
                headers={"Retry-After": "1"},
            )
        self._check_host(request.headers)
        path = str(request.scope["path"])  # that of `url` is put together with the Host header
        if self._token is not None and not any(
            path == each or (each.endswith("/") and path.startswith(each)) for each in OPEN_PATHS
        ):
            self._check_token(request, self._token)
        if request.method not in _SAFE:
            _check_origin(request)
        self._check_length(request.headers)

    def _check_host(self, headers: Headers) -> None:
        host = headers.get("host", "")
        name = _host_name(host)
        if name is None or not (name in self._names or _is_address(name)):
            raise refused(
                421,
                f"this server is not called {host!r}",
                found=host,
                expected="its address, localhost, or a name it was given",
                hint="name it: SAESTORE_SERVER_HOSTS=lake.example.org",
            )

    def _check_token(self, request: Request, token: str) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and same(given.strip(), token):
            return
        cookie = request.cookies.get(COOKIE)
        if cookie is not None and same(cookie, session_of(token)):
            return
        wants_page = "text/html" in request.headers.get("accept", "")
        if wants_page and request.method == "GET" and not request.url.path.startswith(problems.API):
            here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            where = f"{LOGIN}?next={quote(here, safe='')}"
            raise refused(303, "log in first", headers={"Location": where})
        raise refused(
            401,
            "the token is wrong" if given or cookie else "there is no token",
            expected="the server's token",
            hint="send the header `Authorization: Bearer TOKEN`, or log in at /login",
            headers={"WWW-Authenticate": 'Bearer realm="saestore"'},
        )

    def _check_length(self, headers: Headers) -> None:
        length = headers.get("content-length", "0")
        most = self._settings.max_body_kib << 10
        if not length.isdecimal() or int(length) > most:
            raise _too_large(self._settings)


def _check_origin(request: Request) -> None:
    """Refuse what a page of another site sends, and what a plain form of one could send."""
    host = request.headers.get("host", "")
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site", "same-origin")
    if (origin is not None and urlsplit(origin).netloc != host) or site not in {
        "same-origin",
        "none",
    }:
        raise refused(
            403,
            "this came from a page of another site",
            found=origin or site,
            expected=f"a page of {host}",
            hint="open this server's own pages",
        )
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    wanted = _FORM if request.url.path == LOGIN else _JSON
    if media != wanted:
        raise refused(
            415,
            f"the request is {media or 'of no type'}",
            found=media,
            expected=wanted,
            hint=f"send the header `Content-Type: {wanted}`",
        )


def _host_name(host: str) -> str | None:
    """Return the name in a `Host` header, lower case; None where it is none."""
    try:
        found = urlsplit(f"//{host}")
        name, _ = found.hostname, found.port
    except ValueError:
        return None
    return name if host and found.netloc == host and "@" not in host else None


def _is_address(name: str) -> bool:
    """Return whether a name is an IP address: no name server can make it lead elsewhere."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _too_large(settings: ServerSettings) -> Refused:
    most = settings.max_body_kib
    return refused(
        413,
        f"more than {most} KiB were sent",
        expected=f"{most} KiB or less, with a Content-Length that is a number",
        hint="send less at once, or set SAESTORE_SERVER_MAX_BODY_KIB",
    )


class _Body:
    """Receives a request's body, as long as it is neither too large nor too slow."""

    def __init__(self, receive: Receive, settings: ServerSettings) -> None:
        self._receive = receive
        self._settings = settings
        self._left = settings.max_body_kib << 10
        self._until = asyncio.get_running_loop().time() + settings.body_seconds
        self._whole = False

    async def __call__(self) -> Message:
        if self._whole:  # what comes now is the end of the connection, whenever
            return await self._receive()
        left = self._until - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(self._receive(), max(left, 0))
        except TimeoutError as error:
            raise refused(
                408,
                f"the request did not arrive within {self._settings.body_seconds:g} s",
                hint="send it faster, or set SAESTORE_SERVER_BODY_SECONDS",
                headers={"Connection": "close"},
            ) from error
        self._left -= len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._left < 0:
            raise _too_large(self._settings)
        return message


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sent
