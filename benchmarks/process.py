"""A process of another environment that answers questions, one JSON line each, until it is closed.

Compared libraries pin versions that contradict ours, so what they do is done in processes of their own
that live through all rounds. Only the standard library is imported: each environment lacks the others'
libraries.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


COMMAND = (
    sys.executable,
    "-c",
    "import sys; from saestore_cli.main import main; sys.exit(main())",
)
"""`saestore`, as this interpreter runs it."""


def serve(start: Callable[[], Any]) -> None:
    """Answer requests with the methods of what is started, until there are no more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries print
    served = start()
    print("{}", file=answers)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = getattr(served, asked.pop("do"))(**asked)
        except Exception as error:  # noqa: BLE001 - it is reported, in words
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers)


class Process:
    """Such a process, from outside."""

    def __init__(self, module: str, *arguments: str, python: str | Path = sys.executable) -> None:
        """Start it and wait until its imports are done.

        Args:
            module: What is run; it calls `serve`.
            arguments: Its arguments.
            python: The interpreter of its environment.

        Raises:
            RuntimeError: It died; with the last it said.
        """
        root = str(Path(__file__).parents[1])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        own = python == sys.executable
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TQDM_DISABLE": "1"}
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [str(python), "-m", module, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True, cwd=root,
            env={**os.environ, **offline, "PYTHONPATH": path if own else root},
        )  # fmt: skip
        try:
            self._answer()
        except RuntimeError:
            self.close()
            raise

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Return the process's answer.

        Raises:
            RuntimeError: It failed.
        """
        self.send(what, **arguments)
        return self.receive()

    def send(self, what: str, **arguments: Any) -> None:
        """Ask, and do not wait; `receive` brings the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
        self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """Return the answer to the oldest open question."""
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            if stream is not None:
                stream.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._said.seek(0)
            last = self._said.read().strip().rsplit("\n", 1)[-1]
            msg = f"its process ended with {self._process.wait()}: {last}"
            raise RuntimeError(msg)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer
