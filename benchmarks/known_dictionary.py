"""Is a known dictionary found again, and by whom better? P1 for our variants and for sae-lens.

    python -m benchmarks.known_dictionary --results known-results

Rows are sparse sums of 256 known directions in 64 dimensions (`saestore.testing.known_data`); every
dictionary has 128 features, 8 of them on a row. Both libraries read the same array on disk in the
same order from the same starting matrices, one thread each, gradients clipped at 1. What differs and
stays: sae-lens' AuxK is not weighed by the data's variance, it clips thresholds' gradients together
with all others, sums Matryoshka's prefixes instead of averaging them, and saves BatchTopK with a
running mean of thresholds where ours is calibrated. `--libraries saestore-unit` adds ours with decoder
vectors of length 1.

Seeds 1 to 5 and 101 to 105 served to choose defaults and the weight of JumpReLU's penalty: what they
say is no evidence. The goals are judged on seeds 11 to 15, which decided nothing.

F1 and MCC depend on L0, so goals of JumpReLU, whose L0 no setting fixes, are worth nothing unless both
have the same: that is a goal too.

Runs that are in the results folder are not repeated, so it can be done in pieces. Superiority is
claimed only where the interval of the paired differences leaves out 0.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import machine
from benchmarks.known_run import BATCH, D_SAE, LIBRARIES, OURS, PEER, STEPS, K
from saestore.evaluate import known
from saestore.evaluate.intervals import interval
from saestore.testing.known_data import KnownData, stream


SEEDS = [11, 12, 13, 14, 15]
"""Seeds that decided nothing."""
SHOWN = {
    "EV": "EV", "MCC": "MCC", "F1": "F1", "uniqueness": "unique", "L0 train": "L0 train",
    "L0": "L0", "dead": "dead", "seconds": "seconds", "peak MiB": "peak MiB",
}  # fmt: skip
"""Scores in the table, with the heads of their columns."""
MINE = "saestore"
JUDGED = ("EV", "F1", "MCC")
"""What the goal is stated for: within one standard deviation over seeds of the peer, or better."""
COSTS = ("seconds", "peak MiB")
"""What must not be more than the peer's."""
L0_TOLERANCE = 0.01
"""How far L0 may be from k, or from the peer's, as a share."""
CALIBRATED = ("batchtopk", "matryoshka")
"""Variants whose L0 at inference is set by a threshold."""
PENALISED = ("jumprelu",)
"""Variants whose L0 comes from a penalty."""
LEGEND = """\
  EV        explained variance on 16 384 fresh rows (1 is best)
  MCC       mean cosine of true directions and decoder vectors, best one-to-one pairs
  F1        of each feature as a detector of its nearest true direction, mean over features
  unique    share of features whose nearest true direction is no other feature's
  L0        features that fire on a row, at inference; L0 train: in the last 200 steps
  dead      features that fire on none of the fresh rows
  seconds   of the training loop, one thread; runs side by side slow each other alike
  peak MiB  most memory of training above what the process had after imports and a warm-up"""

Results = dict[tuple[str, str, int], dict[str, Any]]
"""Scores, or an error, by library, variant and seed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and print the tables; 0 when every goal holds."""
    asked = _parser().parse_args(arguments)
    folder = asked.results or Path(tempfile.mkdtemp(prefix="known-"))
    folder.mkdir(parents=True, exist_ok=True)
    for seed in asked.seeds:
        _run_seed(seed, asked, folder)
    results = _read(folder, asked.steps)
    for line in tables(results, asked.steps):
        print(line)
    verdict = {goal.text: goal.holds for goal in judged(results)}
    print(json.dumps({"bench": "known_dictionary", "goals": verdict}))
    return 0 if all(verdict.values()) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.known_dictionary")
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--variants", nargs="*", choices=list(OURS), default=list(OURS))
    parser.add_argument("--libraries", nargs="*", choices=list(LIBRARIES), default=[MINE, PEER])
    parser.add_argument("--steps", type=int, default=STEPS, help="fewer, to try a change")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, a thread each")
    parser.add_argument("--results", type=Path, help="folder that keeps what was run")
    return parser


def _run_seed(seed: int, asked: argparse.Namespace, folder: Path) -> None:
    """Run what is missing of a seed, on an array that is removed afterwards."""
    missing = [
        (library, variant)
        for variant in asked.variants
        for library in asked.libraries
        if not _file(folder, library, variant, seed, asked.steps).exists()
    ]
    if not missing:
        return
    with tempfile.TemporaryDirectory(prefix="known-rows-") as scratch:
        array = Path(scratch) / "rows.f32"
        digest = write_rows(array, seed, asked.steps)
        _tell(f"seed {seed}: {array.stat().st_size / 1e6:.0f} MB of rows, sha256 {digest[:16]}")
        with ThreadPoolExecutor(asked.jobs) as pool:
            jobs = [(pool.submit(_child, *each, seed, array), each) for each in missing]
            for job, (library, variant) in jobs:
                found = {**job.result(), "rows_sha256": digest}
                _tell(f"seed {seed}: {library} {variant}: {found.get('scores') or found['error']}")
                path = _file(folder, library, variant, seed, asked.steps)
                path.write_text(json.dumps(found))


def write_rows(path: Path, seed: int, steps: int) -> str:
    """Write the training rows of a seed; return their SHA-256."""
    digest, data = hashlib.sha256(), KnownData.p1()
    with path.open("wb") as file:
        for batch in data.batches(steps, BATCH, stream(seed, "train")):
            held = batch.tobytes()
            digest.update(held)
            file.write(held)
    return digest.hexdigest()


def _child(library: str, variant: str, seed: int, array: Path) -> dict[str, Any]:
    """Return what one run prints, or its error: failures stay in the table."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.known_run", library, variant, str(seed), str(array)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        error = done.stderr.strip().splitlines()[-1:] or ["no message"]
        return {"library": library, "variant": variant, "seed": seed, "error": error[0]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _file(folder: Path, library: str, variant: str, seed: int, steps: int) -> Path:
    return folder / f"{variant}-{library}-{seed}-{steps}.json"


def _read(folder: Path, steps: int) -> Results:
    found: Results = {}
    for path in sorted(folder.glob(f"*-{steps}.json")):
        each = json.loads(path.read_text())
        found[each["library"], each["variant"], each["seed"]] = each
    return found


def tables(results: Results, steps: int) -> Iterator[str]:
    """Yield the lines of all tables: means over seeds, verdicts, paired differences."""
    ran = [each for each in results.values() if "scores" in each]
    known_versions = {f"{n} {v}" for each in ran for n, v in each.get("versions", {}).items()}
    yield f"known_dictionary: P1, {D_SAE} features, k {K}, {steps} steps of {BATCH} rows"
    yield f"  {machine()}"
    yield f"  {', '.join(sorted(known_versions))}"
    yield f"  seeds {', '.join(str(s) for s in sorted({seed for _, _, seed in results}))}"
    yield ""
    yield LEGEND
    yield ""
    yield f"  {'mean ± std over seeds':26}" + "".join(f"{head:>17}" for head in SHOWN.values())
    floor = known.floor(D_SAE, KnownData.p1().directions)
    chance = f"{floor.mcc[0]:.4f} ± {floor.mcc[1]:.4f}"
    yield f"  {'random dictionary (floor)':26}{'':17}{chance:>17}"
    for variant in OURS:
        for library in LIBRARIES:
            cells = values(results, library, variant)
            if cells is None:
                continue
            shown = "".join(f"{_spread(cells[name]):>17}" for name in SHOWN)
            yield f"  {variant + ' ' + library:26}{shown}  n {len(cells['EV'])}"
    for (library, variant, seed), each in results.items():
        if "error" in each:
            yield f"  {variant} {library} seed {seed}: {each['error']}"
    yield ""
    for goal in judged(results):
        yield f"  {'holds ' if goal.holds else 'FAILS '} {goal.text}: {goal.found}"
    yield ""
    yield f"  minus {PEER}, same seed: mean and 95 % bootstrap interval over seeds"
    for variant in OURS:
        for library in LIBRARIES:
            pairs = paired(results, library, variant) if library != PEER else []
            for name in SHOWN if len(pairs) > 1 else ():
                mean, low, high = difference(pairs, name)
                sure = "" if low <= 0 <= high else "  leaves out 0"
                yield (
                    f"  {variant:12}{library:15}{name:12}{mean:+.4f}  "
                    f"[{low:+.4f}, {high:+.4f}]{sure}"
                )


def values(results: Results, library: str, variant: str) -> dict[str, np.ndarray] | None:
    """Return each score of a variant over the seeds that ran; None when none did."""
    found = [
        each["scores"]
        for (by, what, _), each in results.items()
        if (by, what) == (library, variant) and "scores" in each
    ]
    if not found:
        return None
    return {name: np.array([each[name] for each in found], float) for name in found[0]}


def paired(
    results: Results, library: str, variant: str
) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Return our scores and theirs of each seed that both ran."""
    seeds = sorted({seed for _, what, seed in results if what == variant})
    both = [
        (results.get((library, variant, seed), {}), results.get((PEER, variant, seed), {}))
        for seed in seeds
    ]
    return [(a["scores"], b["scores"]) for a, b in both if "scores" in a and "scores" in b]


def difference(
    pairs: list[tuple[dict[str, float], dict[str, float]]], name: str
) -> tuple[float, float, float]:
    """Return the mean paired difference of a score with its bootstrap interval over seeds."""
    gaps = np.array([ours[name] - theirs[name] for ours, theirs in pairs])
    return float(gaps.mean()), *interval(gaps, np.ones(len(gaps)))


@dataclass(frozen=True)
class Judged:
    """A goal with its verdict.

    Attributes:
        text: What is wanted.
        holds: Whether it is so.
        found: The numbers behind it.
    """

    text: str
    holds: bool
    found: str


def judged(results: Results) -> list[Judged]:
    """Return each goal that could be judged."""
    found = []
    for variant in OURS:
        ours, theirs = values(results, MINE, variant), values(results, PEER, variant)
        if ours is not None and variant in CALIBRATED:
            found.append(_near(f"{variant}: L0 on fresh rows within 1 % of k", ours["L0"], K))
        if ours is None or theirs is None or len(theirs["EV"]) == 1:
            continue
        if variant in PENALISED:
            text = f"{variant}: L0 within 1 % of {PEER}'s"
            found.append(_near(text, ours["L0"], float(theirs["L0"].mean())))
        for name in JUDGED:
            mean, peer, std = ours[name].mean(), theirs[name].mean(), theirs[name].std(ddof=1)
            text = f"{variant}: {name} within one std of {PEER} or better"
            numbers = f"{mean:.4f}, theirs {peer:.4f} ± {std:.4f}"
            found.append(Judged(text, bool(mean >= peer - std), numbers))
        for name in COSTS:
            mean, peer = ours[name].mean(), theirs[name].mean()
            text = f"{variant}: {name} at most {PEER}'s"
            found.append(Judged(text, bool(mean <= peer), f"{mean:.1f}, theirs {peer:.1f}"))
    return found


def _near(text: str, found: np.ndarray, wanted: float) -> Judged:
    mean = float(found.mean())
    return Judged(text, abs(mean - wanted) <= L0_TOLERANCE * wanted, f"{mean:.3f} and {wanted:.3f}")


def _spread(x: np.ndarray) -> str:
    digits = 4 if np.abs(x).max() < 1 else 2
    std = x.std(ddof=1) if len(x) > 1 else 0.0
    return f"{x.mean():.{digits}f} ± {std:.{digits}f}"


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
