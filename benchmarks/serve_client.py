"""Clients of a server, in a process of their own: each asks, reads to the end, and asks again.

Answers are taken compressed, over connections that stay open, as browsers do. A time is that from the first
byte sent to the last one read. Only the standard library is used: the clients must cost less than the server.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from benchmarks import process


SORTS = ("density", "max", "mean", "n_firings", "q50", "top_token_share", "dec_norm", "feature")
CONDITIONS = (
    "density<0.001",
    "density>=0.00001",
    "n_firings>10",
    "q50!=null",
    "max>2",
    "top_token_share>0.1",
)
"""By what lists are asked for."""
ROWS, STRETCH = 60, 200
"""Lines of a stretch that a page scrolls to, and of one that a program asks for."""

MIX = {
    "feature page": 35,
    "feature JSON": 20,
    "list page": 15,
    "list rows": 10,
    "list JSON": 10,
    "search": 10,
}
"""Kinds of questions, and how often of a hundred."""
ALONE = "health"
"""A question about nothing: what the server costs without the lake."""


class Asking:
    """Clients of one server."""

    def __init__(self) -> None:
        self._host, self._port = "", 0
        self._makers: Mapping[str, Callable[[random.Random], str]] = {}

    def about(
        self, host: str, port: int, analysis: str, n_features: int, words: Sequence[str]
    ) -> dict[str, Any]:
        """Say which server is asked, about what."""
        self._host, self._port = host, port
        api = f"/api/v1/analyses/{analysis}"

        def listed(draw: random.Random) -> str:
            order = draw.choice(("asc", "desc"))
            filters = "".join(
                f"&filter={quote(each)}" for each in draw.sample(CONDITIONS, draw.randrange(3))
            )
            return f"sort={draw.choice(SORTS)}&order={order}{filters}"

        def stretch(draw: random.Random) -> str:
            return f"{listed(draw)}&offset={draw.randrange(0, n_features, ROWS)}"

        self._makers = {
            ALONE: lambda _: "/health",
            "feature page": lambda d: f"/features/{analysis}/{d.randrange(n_features)}?{listed(d)}",
            "feature JSON": lambda d: f"{api}/features/{d.randrange(n_features)}?n=20&around=32",
            "list page": lambda d: f"/features/{analysis}?{listed(d)}",
            "list rows": lambda d: f"/features/{analysis}?{stretch(d)}&limit={ROWS}&rows",
            "list JSON": lambda d: f"{api}/features?{stretch(d)}&limit={STRETCH}",
            "search": lambda d: f"/features/{analysis}?search={quote(d.choice(words))}&{listed(d)}",
            "lake": lambda _: "/",
        }
        return {}

    def alone(self, kind: str, n: int, seed: int) -> dict[str, Any]:
        """Ask one question after the other; return the seconds of each."""
        draw = random.Random(seed)
        asked = [(kind, self._makers[kind](draw)) for _ in range(n)]
        found = asyncio.run(self._all([iter(asked)]))
        if found["errors"]:
            raise RuntimeError(found["errors"][0])
        return {"seconds": found["times"][kind]}

    def together(self, clients: int, seconds: float, seed: int) -> dict[str, Any]:
        """Ask from several clients for a time; return the seconds of each answer by kind, and errors."""
        until = time.monotonic() + seconds

        def questions(draw: random.Random) -> Any:
            while time.monotonic() < until:
                (kind,) = draw.choices(list(MIX), list(MIX.values()))
                yield kind, self._makers[kind](draw)

        asking = [questions(random.Random(f"{seed} {n}")) for n in range(clients)]
        began = time.monotonic()
        found = asyncio.run(self._all(asking))
        return found | {"wall": time.monotonic() - began}

    async def _all(self, asking: Sequence[Any]) -> dict[str, Any]:
        times: dict[str, list[float]] = {}
        errors: list[str] = []
        await asyncio.gather(*(self._one(each, times, errors) for each in asking))
        return {"times": times, "errors": errors}

    async def _one(self, asked: Any, times: dict[str, list[float]], errors: list[str]) -> None:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        for kind, path in asked:
            began = time.perf_counter()
            writer.write(
                f"GET {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
                "Accept-Encoding: gzip\r\n\r\n".encode()
            )
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines if line)
                await reader.readexactly(int(headers["content-length"]))
            except (OSError, EOFError, KeyError, ValueError) as error:
                errors.append(f"{path}: {type(error).__name__}: {error}")
                writer.close()
                reader, writer = await asyncio.open_connection(self._host, self._port)
                continue
            if first.split()[1] != "200":
                errors.append(f"{path}: {first}")
            times.setdefault(kind, []).append(time.perf_counter() - began)
        writer.close()


if __name__ == "__main__":
    process.serve(Asking)
