"""Memory of an analysis with all tables of a wide dictionary, and of one of twice the rows.

Each runs in a process of its own, with default settings, and says what it had at most above what it had
after its imports, compiled loops among them. Firings are more than sorting has room for, so what is
measured is spilled and merged. Rows are narrow: weights are what they are, whatever is analysed.
"""

import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.analyze import EVERY, RELEASE
from benchmarks.analyze_data import Size, filled
from benchmarks.harness import Amount, Note, Options, Setup
from benchmarks.process import Process, serve
from saestore import analyze
from saestore.lake import Lake


WIDTH, D_SAE, K = 16, 1 << 17, 128
WHOLE, QUICK = Size(98_304, WIDTH, D_SAE, K), Size(1 << 14, WIDTH, 4096, 32)
SMALL = Size(512, WIDTH, 512, 32)
"""Analysed first: to import and to compile."""
QUICK_MIB = 16
"""Memory for sorting the small one, which would fit into the default."""
BOUND, SAME = 2000, 1.05
"""MB, and how much more twice the rows may take."""


class Memory:
    """The benchmark."""

    name = "analyze_memory"
    doc = f"peak memory of an analysis with all tables, {WHOLE.shapes}, and of twice the rows"

    @contextmanager
    def setup(self, options: Options) -> Iterator[Setup]:
        """Each size is analysed once, by a process of its own."""
        size, room = (QUICK, QUICK_MIB) if options.quick else (WHOLE, EVERY.memory_mib)
        found: dict[int, dict[str, Any]] = {}

        def of(rows: int) -> dict[str, Any]:
            if rows not in found:
                process = Process("benchmarks.analyze_memory")
                try:
                    found[rows] = process.ask("measure", rows=rows, d_sae=size.d_sae, k=size.k,
                                              memory_mib=room)  # fmt: skip
                finally:
                    process.close()
            return found[rows]

        def said(rows: int) -> str:
            each = of(rows)
            return (
                f"{each['firings']:,} firings in {each['seconds']:.0f} s; peak {each['peak']:,.0f} MB "
                f"above {each['before']:,.0f} MB after imports"
            )

        once, twice = size.rows, 2 * size.rows
        yield Setup(
            contenders=(),
            goals=(),
            unit="row",
            sizes={"shapes": size.text, "release": RELEASE, "memory_mib": room},
            amounts=(
                Amount(f"peak of {once:,} rows", "MB", lambda: of(once)["peak"], "<=", BOUND),
                Amount(f"peak of {twice:,} rows", "MB", lambda: of(twice)["peak"], "<=", BOUND),
                Amount(
                    "the latter over the former", "times",
                    lambda: of(twice)["peak"] / of(once)["peak"], "<=", SAME,
                ),
            ),
            notes=tuple(
                Note(f"{rows:,} rows", lambda rows=rows: said(rows))  # type: ignore[misc]
                for rows in (once, twice)
            ),
        )  # fmt: skip


class Served:
    """What the process does when asked."""

    def measure(self, rows: int, d_sae: int, k: int, memory_mib: int) -> dict[str, Any]:
        """Analyse so many rows; return what it took.

        The store is written by another process, so that what is measured is the analysis alone.
        """
        size = Size(rows, WIDTH, d_sae, k)
        settings = EVERY.model_copy(update={"memory_mib": memory_mib})
        with tempfile.TemporaryDirectory(prefix="saestore-bench-") as place:
            for name, each in (("small", SMALL), ("whole", size)):
                writer = Process("benchmarks.analyze_memory")
                try:
                    writer.ask("write", folder=f"{place}/{name}", rows=each.rows, d_sae=each.d_sae,
                               k=each.k)  # fmt: skip
                finally:
                    writer.close()
            analyze.run(EVERY, Lake.at(Path(place) / "small"), device="cpu")
            before = _memory("VmRSS")
            lake = Lake.at(Path(place) / "whole")
            began = resource.getrusage(resource.RUSAGE_SELF)
            ref = analyze.run(settings, lake, device="cpu")
            ended = resource.getrusage(resource.RUSAGE_SELF)
            return {
                "peak": _memory("VmHWM") - before,
                "before": before,
                "seconds": ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime,
                "firings": lake.manifest(ref).counts["firings"],
            }

    def write(self, folder: str, rows: int, d_sae: int, k: int) -> dict[str, Any]:
        """Write a store and its dictionary."""
        filled(Lake.at(Path(folder)), Size(rows, WIDTH, d_sae, k))
        return {}


def _memory(field: str) -> float:
    """Return a line of the process's status, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024 / 1e6


BENCH = Memory()

if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(Served)
