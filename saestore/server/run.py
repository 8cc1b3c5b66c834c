"""The server process: one socket, one event loop, and an end that lets requests finish."""

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import h11
import uvicorn
from anyio import to_thread
from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

from saestore.errors import ConfigError
from saestore.lake import Lake
from saestore.server.app import check, create_app
from saestore.server.memory import held
from saestore.server.served import Live
from saestore_schemas.server import ServerSettings


_BACKLOG = 2048
_ENDS = (signal.SIGINT, signal.SIGTERM)
_HEADERS = 32 << 10
"""Bytes of a request's head, at most."""


@dataclass(frozen=True)
class Place:
    """Where a server listens.

    Attributes:
        host: Address.
        port: Port.
    """

    host: str
    port: int

    @property
    def url(self) -> str:
        """What a browser is given."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


class Impatient(H11Protocol):
    """A connection whose requests' heads have to arrive in time: else anybody could keep it, byte by byte.

    Bodies are timed by the guard, silence between requests by uvicorn.

    Attributes:
        head_seconds: In which time.
    """

    head_seconds = 20.0
    _due: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    @override
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget()

    def _watch(self) -> None:
        """Start the clock when a head is waited for, and stop it when it is there."""
        if self.conn.their_state is not h11.IDLE:
            self._forget()
        elif self._due is None:
            self._due = self.loop.call_later(self.head_seconds, self._late)

    def _late(self) -> None:
        self._due = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()

    def _forget(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None


class _Server(uvicorn.Server):
    """Says when it listens, and returns when it is told to end: that is no failure of the process."""

    def __init__(
        self, config: uvicorn.Config, started: Callable[[], None], *, threads: int
    ) -> None:
        super().__init__(config)
        self._say_started = started
        self._threads = threads

    @override
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM end the server, and nothing else."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.signal(each, self.handle_exit) for each in _ENDS}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        to_thread.current_default_thread_limiter().total_tokens = self._threads
        await super().startup(sockets)
        if not self.should_exit:
            self._say_started()


def serve(
    lake: Lake,
    settings: ServerSettings | None = None,
    *,
    live: Live | None = None,
    started: Callable[[Place], None] | None = None,
    log: str = "warning",
) -> None:
    """Serve a lake until the process is told to end (SIGINT, SIGTERM).

    Requests in progress are answered then, for as long as the settings say.

    Args:
        lake: The lake.
        settings: How; absent, what `SAESTORE_SERVER_*` variables say.
        live: Runs texts; absent, none are run.
        started: Called when it listens, with where.
        log: Level of what the web server says: `warning`, or `info` for a line of each request.

    Raises:
        ConfigError: The address cannot be listened on, or needs a token and has none.
    """
    chosen = ServerSettings() if settings is None else settings
    check(chosen)
    app = create_app(lake, chosen, live=live)
    patience = {"head_seconds": chosen.body_seconds}
    with _listening(chosen) as sock, held(chosen.memory_mib):
        address = sock.getsockname()
        config = uvicorn.Config(
            app,
            log_level=log,
            access_log=log == "info",
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=chosen.stop_seconds,
            backlog=_BACKLOG,
            h11_max_incomplete_event_size=_HEADERS,
            http=type("Connection", (Impatient,), patience),
            ws="none",
        )
        place = Place(address[0], address[1])
        say = (lambda: None) if started is None else lambda: started(place)
        _Server(config, say, threads=chosen.threads).run([sock])


def _listening(settings: ServerSettings) -> socket.socket:
    """Return a socket that listens where the settings say.

    Raises:
        ConfigError: It cannot.
    """
    host = settings.host.strip("[]")
    try:
        found = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise ConfigError(
            field="--port",
            found=f"{settings.host}:{settings.port}",
            problem=f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}",
            expected="an address of this machine, and a port that nobody else has",
            hint="choose another port with --port, or --port 0 for a free one",
        ) from error
    return sock
