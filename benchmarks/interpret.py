"""Whole runs of `interpret`, 16 requests under way, each answered after 200 ms, in another process.

Nothing can be faster than 16 requests every 200 ms. A run draws contexts, reads their texts, makes prompts,
reads answers, scores them and writes tables beside that; that an explanation must come before it is scored
is part of it.

    python -m benchmarks.interpret    serves, as the benchmark's other process
"""

import itertools
import json
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness import Contender, Goal, Note, Options, Setup
from benchmarks.process import Process, serve
from saestore import interpret
from saestore.lake import Lake
from saestore_schemas.interpret import InterpretSettings


WORKERS = 16
LATENCY_S = 0.2
GOAL = 0.9
"""Share of what is possible."""
FEATURES, FEATURES_QUICK = 60, 12


class Server:
    """The endpoint, as another process runs it: it explains everything alike, and judges by number."""

    def __init__(self) -> None:
        from saestore.testing.llm import Asked, Reply, llm_server, slow  # noqa: PLC0415 - of that process

        def answer(asked: Asked) -> Reply:
            if "Explanation: " not in asked.text:
                said = {"explanation": "words of a kind", "consistency": 3, "complexity": 2}
                return Reply(json.dumps(said))
            numbers = re.findall(r"^\[(\d+)\]", asked.text, re.MULTILINE)
            return Reply(json.dumps({n: int(n) % 2 * 0.5 + 0.25 for n in numbers}))

        self._context = llm_server(slow(answer, LATENCY_S))
        self._server = self._context.__enter__()

    def url(self) -> dict[str, Any]:
        """Say where it is."""
        return {"url": self._server.url}

    def seen(self) -> dict[str, Any]:
        """Say what it saw."""
        return {"requests": len(self._server.requests), "peak": self._server.peak}


class Runs:
    """Runs about the same features, each under another name."""

    def __init__(self, lake: Lake, url: str, features: int) -> None:
        self._lake, self._url, self._features = lake, url, features
        self._names = itertools.count()
        self.requests = interpret.estimate(self._settings("never"), lake).requests
        self.cpu_ms: list[float] = []

    def ours(self) -> tuple[float, float]:
        """Make a run."""
        wall, cpu = time.perf_counter(), time.process_time()
        made = interpret.run(self._settings(f"run-{next(self._names)}"), self._lake)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        asked = made.manifest.counts["requests"]
        self.cpu_ms.append(1000 * cpu / asked)
        return asked, wall

    def ideal(self) -> tuple[float, float]:
        """Wait as long as its requests take, without any."""
        return self.requests, self.requests * LATENCY_S / WORKERS

    def _settings(self, name: str) -> InterpretSettings:
        return InterpretSettings.model_validate(
            {
                "name": name,
                "features": "planted/relu",
                "select": {"kind": "sample", "n": self._features},
                "endpoint": {"model": "test-model", "base_url": self._url},
                "concurrency": WORKERS,
            }
        )


class Interpret:
    """Whole runs, and what is possible."""

    name = "interpret"
    doc = "whole runs of interpret against an endpoint that answers after 200 ms, 16 under way"

    @contextmanager
    def setup(self, options: Options) -> Iterator[Setup]:
        """Plant an analysis and start the endpoint."""
        from saestore.testing.analyses import plant, planted_analysis  # noqa: PLC0415 - imports torch

        features = FEATURES_QUICK if options.quick else FEATURES
        server = Process("benchmarks.interpret")
        try:
            with tempfile.TemporaryDirectory(prefix="saestore-bench-") as folder:
                lake = Lake.at(Path(folder))
                planted_analysis(lake, planted=plant(contexts=2000, d_sae=features + 4))
                runs = Runs(lake, server.ask("url")["url"], features)
                yield Setup(
                    contenders=(Contender("saestore", runs.ours), Contender("ideal", runs.ideal)),
                    goals=(Goal("saestore", "ideal", "rate", ">=", GOAL),),
                    notes=(
                        Note(
                            "CPU of a request and all that belongs to it",
                            lambda: f"{min(runs.cpu_ms):.3g} ms",
                        ),
                        Note("most under way", lambda: str(server.ask("seen")["peak"])),
                    ),
                    unit="requests",
                    rounds=3,
                    sizes={"features": features, "requests": runs.requests},
                )
        finally:
            server.close()


BENCH = Interpret()


if __name__ == "__main__":
    serve(Server)
