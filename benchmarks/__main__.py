"""`python -m benchmarks NAME`: one table and one JSON line each; `all` for every one, hours of work."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import harness
from saestore.errors import nearest


BENCHES = {
    "analyze": "benchmarks.analyze",
    "analyze_memory": "benchmarks.analyze_memory",
    "analyze_sampling": "benchmarks.analyze_sampling",
    "capture": "benchmarks.capture",
    "capture_small": "benchmarks.capture_small",
    "clt_memory": "benchmarks.clt",
    "clt_step": "benchmarks.clt",
    "crosscoder_step": "benchmarks.crosscoder",
    "crosscoder_step_per_head": "benchmarks.crosscoder",
    "index": "benchmarks.index",
    "interpret": "benchmarks.interpret",
    "interpret_client": "benchmarks.interpret_client",
    "lake": "benchmarks.lake",
    "logits": "benchmarks.logits",
    "lorsa_step": "benchmarks.families",
    "match": "benchmarks.match",
    "molt_step": "benchmarks.molt",
    "remote": "benchmarks.remote",
    "serve": "benchmarks.serve",
    "stream": "benchmarks.stream",
    "transcoder_step": "benchmarks.families",
    "train_paths": "benchmarks.train_paths",
    "train_step": "benchmarks.train_step",
    "train_step_batchtopk": "benchmarks.train_step",
    "train_step_cuda": "benchmarks.train_paths",
    "train_step_cuda_bfloat16": "benchmarks.train_paths",
    "train_step_jumprelu": "benchmarks.train_step",
    "train_step_relu": "benchmarks.train_step",
    "train_step_wide": "benchmarks.train_step",
    "train_store": "benchmarks.train_store",
    "write": "benchmarks.write",
}
"""Name to module, imported when its benchmark runs; each has a `BENCH`, or several in `BENCHES`."""

ALL = "all"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named benchmarks; 0 when all ran, 2 without a name or for an unknown one."""
    asked = _parser().parse_args(arguments)
    if asked.list:
        for name in BENCHES:
            print(f"{name:21} {_bench(name).doc}")
        return 0
    if not asked.names:
        print(
            f"name some of {', '.join(BENCHES)}; or {ALL}; --list says what they are",
            file=sys.stderr,
        )
        return 2
    names = list(BENCHES) if asked.names == [ALL] else asked.names
    unknown = [name for name in names if name not in BENCHES]
    for name in unknown:
        close = nearest(name, (*BENCHES, ALL)) or list(BENCHES)
        print(f"no benchmark {name!r}: did you mean {' or '.join(close)}?", file=sys.stderr)
    if unknown:
        return 2
    options = harness.Options(
        rounds=asked.rounds, model=asked.model, threads=asked.threads, device=asked.device,
        quick=asked.quick, tune=asked.tune, firings=asked.firings, place=asked.place,
        seconds=asked.seconds, clients=asked.clients,
    )  # fmt: skip
    for name in names:
        harness.run(_bench(name), options, sys.stdout, _tell)
        print()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which, or `all`")
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument("--rounds", type=int, help="measured rounds")
    parser.add_argument("--model", help="model directory or hub name (capture)")
    parser.add_argument("--threads", type=int, help="CPU threads; absent, what torch chooses")
    parser.add_argument("--device", default="cpu", help="torch device")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try a change")
    parser.add_argument(
        "--tune", action="store_true", help="search the best settings of peers (stream)"
    )
    parser.add_argument(
        "--firings", type=_count, metavar="N", help="firings of the lake, such as 8M or 500M (lake)"
    )
    parser.add_argument(
        "--place",
        type=Path,
        metavar="FOLDER",
        help="where the lake is made, and kept (index, lake, serve)",
    )
    parser.add_argument("--seconds", type=float, help="time under load (serve)")
    parser.add_argument("--clients", type=int, help="clients at once (serve)")
    return parser


def _count(text: str) -> int:
    """Return a number that may end in k, M or G."""
    unit = {"k": 10**3, "M": 10**6, "G": 10**9}.get(text[-1:], 1)
    return int(float(text[:-1] if unit > 1 else text) * unit)


def _bench(name: str) -> harness.Bench:
    module = importlib.import_module(BENCHES[name])
    return module.BENCHES[name] if hasattr(module, "BENCHES") else module.BENCH


def _tell(message: str) -> None:
    print(message, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
