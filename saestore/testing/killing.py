"""Work in a process of its own that is killed in the middle."""

import os
import signal
import sys
import time
from collections.abc import Callable


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
