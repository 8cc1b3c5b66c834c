"""Requests to a language model's endpoint, 16 under way, each answered after 200 ms, in another process.

Nothing can be faster than 16 requests every 200 ms. The peer is what one would write by hand: `openai`'s
client, asked by as many tasks. Ours does more with each request: it keeps request and answer in a
cassette, counts tokens and money, and reserves of a budget.

    python -m benchmarks.interpret_client    serves, as the benchmark's other process
"""

import asyncio
import itertools
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai

from benchmarks.harness import Amount, Contender, Goal, Note, Options, Setup
from benchmarks.process import Process, serve
from saestore.interpret.client import open_asker
from saestore.interpret.request import Asking, Message, Request
from saestore.lake import Storage
from saestore_schemas.interpret import InterpretSettings


WORKERS = 16
LATENCY_S = 0.2
GOAL = 0.9
"""Share of what is possible."""
BESIDE = 0.98
"""Share of what openai's client does by hand: keeping and counting answers costs nothing that is seen."""
CPU_MS = 4.0
"""Milliseconds of one core that a request may take: 16 workers then take a third of it."""
PROMPT = "In which of these texts does the feature fire? " * 60
"""As long as a prompt with examples is."""
ANSWER = '{"judgements": [0.9, 0.1, 0.8, 0.2, 0.5]}'


class Server:
    """The endpoint, as another process runs it."""

    def __init__(self) -> None:
        from saestore.testing.llm import llm_server, says, slow  # noqa: PLC0415 - of that process alone

        self._context = llm_server(slow(says(ANSWER), LATENCY_S))
        self._server = self._context.__enter__()

    def url(self) -> dict[str, Any]:
        """Say where it is."""
        return {"url": self._server.url}

    def seen(self) -> dict[str, Any]:
        """Say what it saw."""
        return {"requests": len(self._server.requests), "peak": self._server.peak}


class Client:
    """Asks as many requests as it is told, each another one, and says how long it took."""

    def __init__(self, url: str, requests: int, folder: Path) -> None:
        self.settings = InterpretSettings.model_validate(
            {
                "features": "series/name",
                "endpoint": {"model": "test-model", "base_url": url},
                "budget": {"tokens": 10**12, "money": 1e9},
                "prices": {"test-model": {"prompt": 1.0, "completion": 4.0}},
                "concurrency": WORKERS,
            }
        )
        self._n, self._folder, self._runs = requests, folder, itertools.count()
        self.cpu_ms: dict[str, list[float]] = {"saestore": [], "openai": []}

    def ours(self) -> tuple[float, float]:
        """Ask through the run's client."""
        run = next(self._runs)
        return self._timed("saestore", lambda: self._ours(run))

    def theirs(self) -> tuple[float, float]:
        """Ask through openai's client."""
        run = next(self._runs)
        return self._timed("openai", lambda: self._theirs(run))

    def ideal(self) -> tuple[float, float]:
        """Wait as long as requests take, without any."""
        return self._n, self._n * LATENCY_S / WORKERS

    def _timed(
        self, who: str, work: Callable[[], Coroutine[Any, Any, tuple[float, float]]]
    ) -> tuple[float, float]:
        seconds, cpu = asyncio.run(work())
        self.cpu_ms[who].append(1000 * cpu / self._n)
        return self._n, seconds

    def _requests(self, run: int) -> list[Request]:
        asking = Asking(self.settings.endpoint, seed=0)
        texts = (f"{run} {n} {PROMPT}" for n in range(self._n))
        return [asking.chat([Message("user", text)], purpose="") for text in texts]

    async def _ours(self, run: int) -> tuple[float, float]:
        requests = self._requests(run)
        place = Storage.at(self._folder / str(run))
        async with open_asker(self.settings, place, name="run") as asker:
            with _clock() as took:
                await asyncio.gather(*map(asker.ask, requests))
        return took[0], took[1]

    async def _theirs(self, run: int) -> tuple[float, float]:
        requests = self._requests(run)
        slots = asyncio.Semaphore(WORKERS)
        url = self.settings.endpoint.base_url
        async with openai.AsyncOpenAI(api_key="none", base_url=url, max_retries=0) as client:

            async def one(body: Any) -> object:
                async with slots:
                    return await client.chat.completions.create(**body)

            with _clock() as took:
                await asyncio.gather(*(one(each.body) for each in requests))
        return took[0], took[1]


@contextmanager
def _clock() -> Iterator[list[float]]:
    """Give a list that holds wall seconds and seconds of this process's CPU after the block."""
    took: list[float] = []
    wall, cpu = time.perf_counter(), time.process_time()
    yield took
    took += [time.perf_counter() - wall, time.process_time() - cpu]


class InterpretClient:
    """Ours, openai's by hand, and what is possible."""

    name = "interpret_client"
    doc = "requests to an endpoint that answers after 200 ms, 16 under way"

    @contextmanager
    def setup(self, options: Options) -> Iterator[Setup]:
        """Start the endpoint."""
        requests = 160 if options.quick else 960
        server = Process("benchmarks.interpret_client")
        try:
            with tempfile.TemporaryDirectory(prefix="saestore-bench-") as folder:
                client = Client(server.ask("url")["url"], requests, Path(folder))
                yield Setup(
                    contenders=(
                        Contender("saestore", client.ours),
                        Contender("openai", client.theirs, f"openai {openai.__version__}"),
                        Contender("ideal", client.ideal),
                    ),
                    goals=(
                        Goal("saestore", "ideal", "rate", ">=", GOAL),
                        Goal("saestore", "openai", "rate", ">=", BESIDE),
                    ),
                    amounts=(
                        Amount(
                            "CPU of a request",
                            "ms",
                            lambda: min(client.cpu_ms["saestore"]),
                            "<=",
                            CPU_MS,
                        ),
                    ),
                    notes=(
                        Note(
                            "CPU of a request of openai's client",
                            lambda: f"{min(client.cpu_ms['openai']):.3g} ms",
                        ),
                        Note("most under way", lambda: str(server.ask("seen")["peak"])),
                    ),
                    unit="requests",
                    rounds=3,
                    sizes={"requests": requests, "bytes of a prompt": len(PROMPT)},
                )
        finally:
            server.close()


BENCH = InterpretClient()


if __name__ == "__main__":
    serve(Server)
