"""Kill generate and merge at random moments; what they end with must be the bytes of one quiet run.

    python tests/faults/kill_generate.py --kills 100

Every attempt is a process of its own, ended by SIGKILL after a random time, then started again, until
it ends by itself; the next round begins anew. One time in four is uniform over what the whole run
takes, the others over what is left of it when the first draft appears: beginning takes most of the
time and writes nothing. A killed
round is compared with an uninterrupted one: every payload file, byte for byte. Moments are counted
by what the process was doing, told from what it left: nothing yet, drafts of shards, whole shards
without a commit, everything but the manifest, manifest there but progress not gone.

By default a process is forked from one that has imported everything, so that a hundred kills take
minutes; `--command` starts `saestore` itself each time.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tomli_w

from saestore.lake import Lake, Ref, layout
from saestore.lake.parts import Part
from saestore.testing.corpora import tiny_corpus
from saestore.testing.stores import payload_bytes, scratch_lake
from saestore_schemas.corpus import CorpusSettings, JsonlSource
from saestore_schemas.generate import GenerateSettings
from saestore_schemas.lm import LmSettings


COMMAND = "import sys; from saestore_cli.main import main; sys.exit(main())"
"""What the installed `saestore` runs."""


REF = Ref("activations", "killed")
PARTS = 2
SHARD_ROWS = 64
WIDTH = 24


@dataclass
class Job:
    """What is killed: the commands of one round, in order, and how to run each in this process."""

    name: str
    commands: list[list[str]]
    prepare: Callable[[Path], None] = lambda _: None


@dataclass
class Result:
    """What happened.

    Attributes:
        kills: Processes killed.
        rounds: Rounds that were compared.
        moments: Kills by what the process had left.
        differing: Rounds whose bytes differ, with the files.
    """

    kills: int = 0
    rounds: int = 0
    moments: Counter[str] = field(default_factory=Counter)
    differing: list[str] = field(default_factory=list)


def settings_in(folder: Path, *, tokens: int) -> GenerateSettings:
    """Write a tiny random model, a corpus and the settings; return the settings."""
    from saestore.testing.models import tiny_model

    model = tiny_model("gpt2", folder / "model")
    corpus = tiny_corpus(folder)
    settings = GenerateSettings(
        name=REF.name,
        lm=LmSettings(model=str(model)),
        corpus=CorpusSettings(
            sources=(JsonlSource(path=str(corpus), metadata=("shelf", "year")),),
            context_size=24,
            block_documents=5,
        ),
        hookpoints=("blocks.1.hook_resid_post", "blocks.0.mlp.hook_out"),
        tokens=tokens,
        dtype="bfloat16",
        forward_contexts=3,
        store={"chunk_kib": 1, "shard_mib": SHARD_ROWS * WIDTH * 2 / 2**20},
    )
    data = settings.model_dump(mode="json", exclude_none=True)
    (folder / "killed.toml").write_text(tomli_w.dumps(data))
    return settings


def work(words: list[str], lake: Path, settings: GenerateSettings) -> None:
    """Do in this process what a command does."""
    from saestore import generate
    from saestore.activations.merge import merge

    at = Lake.at(lake)
    if words[0] == "merge":
        merge(at, REF.name)
    elif "--shard" in words:
        generate.run_part(settings, at, Part.parse(words[-1]), device="cpu")
    else:
        generate.run(settings, at, device="cpu")


class Forked:
    """A process forked from this one, which has imported everything already."""

    def __init__(self, words: list[str], lake: Path, settings: GenerateSettings) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                work(words, lake, settings)
                code = 0
            except BaseException as error:  # noqa: BLE001 - the parent reads the exit code; say why
                sys.stderr.write(f"{words}: {type(error).__name__}: {error}\n")
            finally:
                os._exit(code)

    def wait(self, seconds: float | None) -> int | None:
        """Return the exit code, or None when it still runs after so long."""
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG if end is not None else 0)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if end is not None and time.monotonic() >= end:
                return None
            time.sleep(0.0005)

    def kill(self) -> None:
        """End it as the system would."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class Started:
    """The command itself."""

    def __init__(self, words: list[str], lake: Path, _: GenerateSettings) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *words, "--lake", str(lake)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def wait(self, seconds: float | None) -> int | None:
        """Return the exit code, or None when it still runs after so long."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        if code:
            sys.stderr.write(self._process.stderr.read().decode())
        self._process.stderr.close()
        return code

    def kill(self) -> None:
        """End it as the system would."""
        self._process.kill()
        self._process.wait()
        self._process.stderr.close()


def moment(folder: Path) -> str:
    """Return what a killed process was doing, as what it left shows."""
    progress = folder / layout.PROGRESS
    if (folder / layout.MANIFEST).exists():
        return "after the manifest"
    if (folder / layout.FILES).exists():
        return "before the manifest"
    if (folder / "zarr.json").exists() or (folder / layout.VOCABULARY).exists():
        return "small arrays"
    commits = list((progress / "commits").glob("*.json"))
    whole = list((folder / layout.TOKENS).glob("c.*"))
    if len(whole) > len(commits):
        return "between rename and commit"
    if any(folder.glob("hooks/*/.tmp-*")):
        return "inside a shard"
    return "between shards" if commits else "before the first shard"


def rounds(job: Job, folder: Path, settings: GenerateSettings, start, *, kills: int, seed: int):
    """Run rounds of a job until so many processes were killed; return what happened."""
    draw = np.random.default_rng(seed)
    quiet = folder / f"quiet-{job.name}"
    expected, spans = _quiet(job, quiet, settings, start)
    result = Result()
    while result.kills < kills:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            lake = Path(place) / "lake"
            job.prepare(lake)
            for number, words in enumerate(job.commands):
                while True:
                    process = start(words, lake, settings)
                    enough = result.kills >= kills
                    begun, took = spans[number]
                    least = 0.0 if draw.random() < 0.25 else begun
                    code = process.wait(None if enough else draw.uniform(least, took * 1.1))
                    if code is not None:
                        if code:
                            raise SystemExit(f"{job.name}: {words} ended with {code}")
                        break
                    process.kill()
                    result.kills += 1
                    result.moments[moment(_written(lake, words))] += 1
            result.rounds += 1
            found = payload_bytes(Lake.at(lake), REF)
            if found != expected:
                wrong = sorted(
                    p for p in found.keys() | expected if found.get(p) != expected.get(p)
                )
                result.differing.append(f"round {result.rounds}: {', '.join(wrong)}")
    return result


def _written(lake: Path, words: list[str]) -> Path:
    folder = lake / REF.path
    return folder / Part.parse(words[-1]).folder if "--shard" in words else folder


def _quiet(job: Job, lake: Path, settings: GenerateSettings, start):
    """Return the bytes of an uninterrupted round, and of each of its commands when its first draft
    appears and how long it takes."""
    job.prepare(lake)
    spans = []
    for words in job.commands:
        begun, started = None, time.monotonic()
        process, code = start(words, lake, settings), None
        while code is None:
            code = process.wait(0.002)
            if begun is None and moment(_written(lake, words)) != "before the first shard":
                begun = time.monotonic() - started
        if code:
            raise SystemExit(f"{job.name}: {words} ended with {code}")
        spans.append((begun or 0.0, time.monotonic() - started))
    return payload_bytes(Lake.at(lake), REF), spans


def jobs(folder: Path, settings: GenerateSettings, start) -> dict[str, Job]:
    """Return what can be killed, by name."""
    config = str(folder / "killed.toml")
    parts = [["generate", config, "--shard", f"{n}/{PARTS}"] for n in range(PARTS)]
    made = folder / "parts"

    def copy(lake: Path) -> None:
        if not made.exists():
            for words in parts:
                if start(words, made, settings).wait(None):
                    raise SystemExit("the parts could not be made")
        subprocess.run(["cp", "-r", str(made), str(lake)], check=True)

    return {
        "generate": Job("generate", [["generate", config]]),
        "parts": Job("parts", [*parts, ["merge", REF.name]]),
        "merge": Job("merge", [["merge", REF.name]], copy),
    }


def run(names, *, kills: int, seed: int, command: bool, tokens: int, folder: Path):
    """Kill each of some jobs so many times; return the results by name."""
    settings = settings_in(folder, tokens=tokens)
    start = Started if command else Forked
    if not command:
        _warm(settings)
    known = jobs(folder, settings, start)
    return {
        name: rounds(known[name], folder, settings, start, kills=kills, seed=seed) for name in names
    }


def _warm(settings: GenerateSettings) -> None:
    """Import and load in this process what forked ones inherit: the model above all."""
    import torch

    from saestore.lm import LanguageModel

    torch.set_num_threads(1)  # a forked process must not inherit threads
    model = LanguageModel.load(settings.lm, device="cpu")
    LanguageModel.load = staticmethod(lambda *_, **__: model)


def main() -> int:
    """Run as asked and print one JSON line for each job; 1 if any bytes differ."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--kills", type=int, default=100, help="processes to kill in each job")
    parser.add_argument("--jobs", nargs="+", default=["generate", "parts", "merge"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=700, help="rows of the store")
    parser.add_argument("--command", action="store_true", help="start saestore itself, not forks")
    given = parser.parse_args()
    with scratch_lake() as scratch:
        results = run(
            given.jobs, kills=given.kills, seed=given.seed, command=given.command,
            tokens=given.tokens, folder=Path(scratch.storage.url),
        )  # fmt: skip
    for name, result in results.items():
        line = {"job": name, **vars(result), "moments": dict(result.moments)}
        sys.stdout.write(f"{json.dumps(line)}\n")
    return int(any(result.differing for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
