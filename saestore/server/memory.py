"""How much memory a process may take."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def hold(mib: int) -> tuple[int, int] | None:
    """Let this process take no more memory than it has and so many MiB, where the system can see to it.

    DuckDB's own limit does not count what a function makes of one row, such as `range(1000000000)`. So
    that fails, instead of everything.

    Returns:
        The limits before, as `release` takes them.
    """
    if sys.platform != "linux":
        return None
    import resource  # noqa: PLC0415 - of Linux alone

    found = re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
    before = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = (int(found[1]) << 10 if found else 0) + (mib << 20)
    hard = before[1]
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    return before


def release(before: tuple[int, int] | None) -> None:
    """Let this process take as much memory as before `hold`."""
    if before is None:
        return
    import resource  # noqa: PLC0415 - of Linux alone

    resource.setrlimit(resource.RLIMIT_DATA, before)


@contextmanager
def held(mib: int) -> Iterator[None]:
    """Let this process take no more than so many MiB more while the block runs: see `hold`."""
    before = hold(mib)
    try:
        yield
    finally:
        release(before)
