"""`saestore serve` under load, over a dictionary of 131 072 features.

The server is the command, in a process of its own; clients are in another one, and ask for features,
lists by any order and condition, stretches of them, and words, all drawn at random, so that hardly anything is
asked twice. Alone, each kind of question has one client; `health` is what the server costs without a lake.
Then many clients ask at once, while the server's memory is watched. A real browser says when pages are ready.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import sync_playwright

import saestore
from benchmarks import index_data
from benchmarks.harness import Amount, Contender, Limit, Note, Options, Setup
from benchmarks.process import COMMAND, Process
from benchmarks.serve_client import ALONE, MIX
from saestore.features import Analysis
from saestore.lake import Lake
from saestore.progress import Silent


NAME = f"{index_data.NAME}/default"
BITS, QUICK_BITS = 17, 12
ROWS, QUICK_ROWS = 250_000, 20_000
CLIENTS, SECONDS, QUICK_SECONDS = 64, 60.0, 5.0
_TIMES = 30
"""Questions of one client in a round."""
_PAGES = 12
"""Pages that are opened in a browser, and whose bytes are counted."""
_USABLE_MS = 300
_BYTES = 200_000
_GROWTH = 1.05

_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


class ServeBench:
    """The benchmark."""

    name = "serve"
    doc = "pages and answers of `saestore serve` over many features: alone, and under load"

    @contextmanager
    def setup(self, options: Options) -> Iterator[Setup]:
        """Write the lake and serve it; it is gone afterwards, unless a folder was given."""
        with ExitStack() as stack:
            folder = options.place
            if folder is None:
                made = tempfile.TemporaryDirectory(prefix="saestore-bench-")
                folder = Path(stack.enter_context(made))
            bits, rows = (QUICK_BITS, QUICK_ROWS) if options.quick else (BITS, ROWS)
            analysis = index_data.build(folder, bits=bits, rows=rows, progress=Silent())
            seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
            server = stack.enter_context(_serving(analysis.lake))
            client = Process("benchmarks.serve_client")
            stack.callback(client.close)
            yield prepare(_Server(analysis, *server, client, options.clients or CLIENTS, seconds))


def prepare(of: "_Server") -> Setup:
    """Return the contenders."""
    kinds = (*MIX, "lake", ALONE)
    version = f"saestore {saestore.__version__}"
    return Setup(
        contenders=tuple(Contender(kind, lambda k=kind: of.alone(k), version) for kind in kinds),
        goals=(),
        unit="answer",
        sizes={
            "features": f"{of.n_features:,}, of {of.analysis.manifest.counts['firings']:,} firings",
            "alone": f"one client, {_TIMES} questions a round",
            "together": f"{of.clients} clients for {of.seconds:g} s, "
            + ", ".join(f"{share} % {kind}" for kind, share in MIX.items()),
        },
        limit=Limit(ALONE, "one client: what the server costs without a lake"),
        rounds=3,
        amounts=(
            Amount("errors under load", "answers", lambda: len(of.load["errors"]), "<=", 0),
            Amount("memory at the end against the middle", "times", of.growth, "<=", _GROWTH),
            *(
                Amount(f"largest {kind}", "bytes", lambda k=kind: of.largest(k), "<=", _BYTES)
                for kind in ("feature page", "list page")
            ),
            *(
                Amount(f"{kind} usable", "ms", lambda k=kind: of.usable(k), "<=", _USABLE_MS)
                for kind in ("feature page", "list page")
            ),
        ),
        notes=(
            Note("together", of.told),
            *(Note(f"  {kind}", lambda k=kind: of.times(k)) for kind in MIX),
            Note("memory", of.memory),
            Note("first visit, nothing in the browser", of.first_visits),
        ),
    )


class _Server:
    """A server, its clients, and what was found out."""

    def __init__(
        self, analysis: Analysis, url: str, pid: int, client: Process, clients: int, seconds: float
    ) -> None:
        self.analysis = analysis
        self.n_features = analysis.n_features
        self.clients, self.seconds = clients, seconds
        self._url, self._pid, self._client = url, pid, client
        self._round = 0
        self._idle = _resident(pid)
        place = urlsplit(url)
        frequent = self.analysis.sql(
            "SELECT trim(token) AS word FROM vocabulary WHERE regexp_matches(token, '^ [a-z]{2,}$') "
            "ORDER BY n_rows DESC, token_id LIMIT 400"
        )
        client.ask(
            "about", host=place.hostname, port=place.port, analysis=NAME,
            n_features=self.n_features, words=frequent["word"].to_pylist(),
        )  # fmt: skip

    def alone(self, kind: str) -> tuple[float, float]:
        """Ask from one client."""
        self._round += 1
        told = self._client.ask("alone", kind=kind, n=_TIMES, seed=self._round)
        return _TIMES, sum(told["seconds"])

    @cached_property
    def load(self) -> dict[str, Any]:
        """What many clients found, and MiB of the server's memory every half second meanwhile."""
        found: list[float] = [_resident(self._pid)]
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.5):
                found.append(_resident(self._pid))

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            told = self._client.ask("together", clients=self.clients, seconds=self.seconds, seed=0)
        finally:
            over.set()
            watching.join()
        return {**told, "memory": found}

    def told(self) -> str:
        """Return how much was answered, in words."""
        errors = self.load["errors"]
        n = sum(map(len, self.load["times"].values()))
        first = f", such as {errors[0]}" if errors else ""
        every = sorted(x for each in self.load["times"].values() for x in each)
        return (
            f"{n:,} answers in {self.load['wall']:.1f} s, {n / self.load['wall']:.0f}/s, "
            f"{_latencies(every)}; {len(errors)} errors{first}"
        )

    def times(self, kind: str) -> str:
        """Return how long answers of a kind took under load, in words."""
        found = sorted(self.load["times"].get(kind, ()))
        return f"{len(found):,}, {_latencies(found)}" if found else "none"

    def growth(self) -> float:
        """Return the server's memory in the last tenth of the load, over that around its middle."""
        found = self.load["memory"]
        tenth = max(1, len(found) // 10)
        middle = len(found) // 2
        return statistics.mean(found[-tenth:]) / statistics.mean(found[middle - tenth : middle + 1])

    def memory(self) -> str:
        """Return the server's memory, in words."""
        found = self.load["memory"]
        marks = {"when it listens": self._idle, "before the load": found[0]}
        marks |= {
            "after a quarter": found[len(found) // 4],
            "at its middle": found[len(found) // 2],
        }
        marks |= {"at its end": found[-1]}
        return ", ".join(f"{mib:.0f} MiB {when}" for when, mib in marks.items())

    def largest(self, kind: str) -> float:
        """Return the bytes of the largest of some pages, not compressed."""
        sizes = []
        for path in self._pages(kind):
            with urllib.request.urlopen(self._url + path) as answer:  # noqa: S310 - our own server
                sizes.append(len(answer.read()))
        return max(sizes)

    def _pages(self, kind: str) -> list[str]:
        """Return pages of a kind: features from the most frequent to the rarest."""
        table = f"/features/{NAME}"
        if kind == "list page":
            return [f"{table}?sort={s}&order=desc" for s in ("density", "max", "q50", "mean")] * (
                _PAGES // 4
            )
        order = self.analysis.sql(
            "SELECT feature FROM features WHERE n_firings > 0 ORDER BY n_firings DESC, feature"
        )["feature"].to_pylist()
        step = len(order) // _PAGES
        return [f"{table}/{order[n * step]}" for n in range(_PAGES)]

    @cached_property
    def _opened(self) -> dict[str, list[tuple[float, float]]]:
        """Milliseconds until each page is usable, first in an empty browser, then with what it keeps."""
        with sync_playwright() as play, ExitStack() as stack:
            browser = play.chromium.launch(
                executable_path=_chromium(),
                args=["--no-sandbox", "--disable-gpu", "--no-first-run"],
            )
            stack.callback(browser.close)
            found: dict[str, list[tuple[float, float]]] = {}
            for kind in ("feature page", "list page"):
                for path in self._pages(kind):
                    context = browser.new_context(viewport={"width": 1280, "height": 900})
                    view = context.new_page()
                    both = []
                    for _ in range(2):
                        view.goto(self._url + path, wait_until="load")
                        view.wait_for_function("performance.timing.loadEventEnd > 0")
                        view.locator(".plot canvas").first.wait_for()
                        both.append(float(view.evaluate(_READY)))
                        view.goto("about:blank")
                    context.close()
                    found.setdefault(kind, []).append((both[0], both[1]))
            return found

    def usable(self, kind: str) -> float:
        """Return the median time until a page is usable whose files the browser has."""
        return statistics.median(again for _, again in self._opened[kind])

    def first_visits(self) -> str:
        """Return the same of a browser that has nothing yet, in words."""
        return ", ".join(
            f"{kind} {statistics.median(first for first, _ in found):.0f} ms, the slowest "
            f"{max(max(each) for each in found):.0f} ms"
            for kind, found in self._opened.items()
        )


_READY = "performance.timing.loadEventEnd - performance.timing.navigationStart"
"""From the click to the end of all scripts: lines can be scrolled, keys work, charts are drawn."""


@contextmanager
def _serving(lake: Lake) -> Iterator[tuple[str, int]]:
    """Start the command; yield where it listens, and the number of its process."""
    process = subprocess.Popen(
        [
            *COMMAND, "serve", "--lake", str(lake.storage.url), "--port", "0", "--output", "json",
        ],
        stdout=subprocess.PIPE, text=True, env={**os.environ},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"], process.pid
    finally:
        process.terminate()
        process.wait(30)


def _resident(pid: int) -> float:
    """Return MiB of a process that lie in memory."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return 0.0 if found is None else int(found[1]) / 1024


def _latencies(ordered: list[float]) -> str:
    """Return p50, p99 and the longest of some times, in words."""
    marks = (ordered[int(share * (len(ordered) - 1))] * 1000 for share in (0.5, 0.99, 1.0))
    return "p50 {:.1f} ms, p99 {:.1f} ms, longest {:.0f} ms".format(*marks)


def _chromium() -> str:
    """Return the browser of this machine.

    Raises:
        FileNotFoundError: It has none.
    """
    for name in _CHROMIUM:
        if found := shutil.which(name):
            return found
    raise FileNotFoundError("no Chromium on PATH: apt-get install chromium")


BENCH = ServeBench()
