"""Who holds a lock: this process, said so that others can tell whether it lives."""

import os
import socket
import time
from pathlib import Path
from typing import Any


def me() -> dict[str, Any]:
    """Return what a lock says of this process."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "since": time.time(),
    }


def alive(owner: dict[str, Any]) -> bool | None:
    """Return whether an owner lives; None if it is on another machine, where nobody can look."""
    if owner["host"] != socket.gethostname():
        return None
    return owner["started"] is not None and _started(owner["pid"]) == owner["started"]


def described(owner: dict[str, Any]) -> str:
    """Return an owner in words."""
    return f"process {owner['pid']} on {owner['host']}"


def _started(pid: int) -> str | None:
    """Return what tells this process from a later one with the same id; None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
        try:  # no /proc here: existence is all that can be asked
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            return "running"
        return "running"
    return stat.rsplit(")", 1)[1].split()[19]
