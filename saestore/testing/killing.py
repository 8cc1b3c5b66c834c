"""Work in a process of its own that is killed in the middle."""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from saestore.lake import Lake, Ref
from saestore.testing.stores import payload_bytes, scratch_lake


def ended(work: Callable[[], object], seconds: float | None) -> bool:
    """Do something in a forked process, and kill that after a time; return whether it ended by itself.

    Args:
        work: What is done.
        seconds: When SIGKILL comes; None, never.

    Raises:
        RuntimeError: It ended by itself, and failed.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:  # noqa: BLE001 - the parent reads the exit code; say why
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        finally:
            os._exit(code)
    end = None if seconds is None else time.monotonic() + seconds
    while end is None or time.monotonic() < end:
        done, status = os.waitpid(pid, 0 if end is None else os.WNOHANG)
        if done:
            if status:
                raise RuntimeError(f"it failed with {os.waitstatus_to_exitcode(status)}")
            return True
        time.sleep(0.0005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


@dataclass
class Kills:
    """What came of killing a run again and again.

    Attributes:
        kills: How often it was killed.
        rounds: How often it was started from nothing.
        resumed: After how many kills there was something to go on from.
        differing: Files whose bytes are not those of a quiet run.
    """

    kills: int = 0
    rounds: int = 0
    resumed: int = 0
    differing: list[str] = field(default_factory=list)


def killed(
    make: Callable[[Lake], object],
    ref: Ref,
    *,
    fill: Callable[[Lake], object],
    begun: Callable[[Lake], bool],
    kills: int,
    seed: int,
) -> Kills:
    """Kill a run at random moments, uniform over what it takes, and start it again until it ends.

    Args:
        make: The run, in a lake.
        ref: What it makes.
        fill: Puts into a lake what it is made of.
        begun: Whether an unfinished one has something to go on from.
        kills: How often it is killed in all.
        seed: Of the moments.
    """
    rng, found = np.random.default_rng(seed), Kills()
    with scratch_lake() as lake:
        fill(lake)
        start = time.monotonic()
        ended(lambda: make(lake), None)
        takes = time.monotonic() - start
        quiet = payload_bytes(lake, ref)
    while found.kills < kills:
        with scratch_lake() as lake:
            fill(lake)
            while found.kills < kills and not ended(lambda: make(lake), rng.uniform(0, takes)):
                found.kills += 1
                found.resumed += begun(lake)
            ended(lambda: make(lake), None)
            found.rounds += 1
            there = payload_bytes(lake, ref)
            paths = {*there, *quiet}
            found.differing += sorted(p for p in paths if there.get(p) != quiet.get(p))
    return found
