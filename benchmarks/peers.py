"""Environments of compared libraries: one virtual environment each under `.bench/`, on demand.

Peers pin versions that contradict each other and ours, so none of them is installed beside
saestore. torch comes first, alone and exact; everything after is held to our constraints, except
the packages a peer is known to need otherwise. An environment is made anew when its own packages'
constraints change, not when others do.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


ROOT = Path(__file__).parents[1]
HOME = ROOT / ".bench"
CONSTRAINTS = ROOT / "constraints.txt"
TORCH = "torch==2.13.0"


@dataclass(frozen=True)
class Peer:
    """One environment.

    Attributes:
        name: Its folder under `.bench/`.
        requirements: What pip installs after torch, pinned.
        unconstrained: Packages whose line in our constraints does not bind this peer.
    """

    name: str
    requirements: tuple[str, ...]
    unconstrained: tuple[str, ...] = ()


SAE_LENS = Peer("sae-lens", ("sae-lens==6.54.12",))
LLAMASCOPIUM = Peer("llamascopium", ("llamascopium==2.0.0b34", "transformer-lens==3.9.0"))
SPARSIFY = Peer("sparsify", ("eai-sparsify==1.3.3",))
DICTIONARY_LEARNING = Peer("dictionary-learning", ("dictionary-learning==0.1.0",))


def python_of(
    peer: Peer,
    *,
    home: Path = HOME,
    constraints: Path = CONSTRAINTS,
    call: Callable[[Sequence[str]], object] | None = None,
) -> Path:
    """Return the interpreter of a peer's environment, made first if it is not there or outdated.

    Args:
        peer: Which.
        home: Where environments lie.
        constraints: The constraints file.
        call: Runs a command and raises if it fails; for tests.
    """
    execute = call or (lambda command: subprocess.run(command, check=True))
    folder = home / peer.name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ready = folder / "ready"
    if ready.exists() and ready.read_text() == _fingerprint(peer, folder, constraints):
        return python
    ready.unlink(missing_ok=True)
    bound = folder / "constraints.txt"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    execute([sys.executable, "-m", "venv", "--clear", str(folder)])
    folder.mkdir(parents=True, exist_ok=True)
    bound.write_text("\n".join(_bound(peer, constraints)) + "\n")
    execute([*pip, "--constraint", str(bound), TORCH])
    execute([*pip, "--constraint", str(bound), *peer.requirements])
    ready.write_text(_fingerprint(peer, folder, constraints))
    return python


def _bound(peer: Peer, constraints: Path) -> list[str]:
    free = {_name(package) for package in peer.unconstrained}
    return [
        line
        for line in constraints.read_text().splitlines()
        if line and not line.startswith("#") and _name(line.split("==")[0]) not in free
    ]


def _name(package: str) -> str:
    return package.strip().lower().replace("_", "-")


def _fingerprint(peer: Peer, folder: Path, constraints: Path) -> str:
    """Return what an environment depends on: constraints count for the packages it holds."""
    held = {
        _name(path.name.split("-")[0])
        for path in folder.glob("[Ll]ib/**/site-packages/*.dist-info")
    }
    bound = [line for line in _bound(peer, constraints) if _name(line.split("==")[0]) in held]
    what = [TORCH, *peer.requirements, *bound, sys.version]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()
