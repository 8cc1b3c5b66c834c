"""A real S3 server on loopback, and a slow network in front of it."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.request import urlopen


BUCKET = "lake"


@dataclass
class S3Server:
    """moto's S3 server in a process of its own, so that it can be killed.

    Attributes:
        port: Where it listens.
        process: The server.
    """

    port: int
    process: "subprocess.Popen[bytes]"

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.port}"

    def environment(self, endpoint: str | None = None) -> Mapping[str, str]:
        """Return what a client's environment must say."""
        return {
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run a server with one empty bucket, `BUCKET`, while the block runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env={**os.environ, **_KEYS}, **quiet)  # type: ignore[call-overload] # noqa: S603 - our own interpreter
    server = S3Server(port, process)
    try:
        _await(server)
        _make_bucket(server)
        yield server
    finally:
        process.kill()
        process.wait()


_KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests"}


def _await(server: S3Server) -> None:
    for _ in range(600):
        if server.process.poll() is not None:
            break
        with suppress(OSError), urlopen(f"{server.endpoint}/moto-api/", timeout=5):  # noqa: S310 - loopback
            return
        time.sleep(0.1)
    raise RuntimeError("moto's server did not start: pip install 'moto[s3]' flask flask-cors")


def _make_bucket(server: S3Server) -> None:
    import s3fs  # noqa: PLC0415 - only where a server runs

    keys = {"key": "tests", "secret": "tests"}
    reached = s3fs.S3FileSystem(**keys, endpoint_url=server.endpoint, skip_instance_cache=True)
    reached.mkdir(BUCKET)


@dataclass
class SlowNetwork:
    """A proxy that delays every request and limits the bandwidth of every connection.

    Attributes:
        target: Port of the server behind it.
        delay_s: Time to the first byte of an answer, beside what the server takes.
        bytes_per_s: Most bytes of answers a second on one connection; 0 is no limit.
        requests: Requests so far, as method and path.
    """

    target: int
    delay_s: float
    bytes_per_s: float = 0.0
    requests: list[str] = field(default_factory=list)
    _listener: socket.socket = field(default_factory=socket.socket, repr=False)
    _open: list[socket.socket] = field(default_factory=list, repr=False)

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> "SlowNetwork":
        """Begin to listen."""
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(256)
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop listening."""
        self.cut()

    def cut(self) -> None:
        """Break every connection, and take no more: the network is gone."""
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(client)
            threading.Thread(target=self._connection, args=(client,), daemon=True).start()

    def _connection(self, client: socket.socket) -> None:
        """Hand requests on and answers back, one connection of a keep-alive client."""
        with client, socket.create_connection(("127.0.0.1", self.target)) as server:
            back = threading.Thread(target=self._answers, args=(server, client), daemon=True)
            back.start()
            with suppress(OSError):
                while data := client.recv(1 << 16):
                    first = data.split(b"\r\n", 1)[0]
                    if first.endswith(b"HTTP/1.1"):
                        self.requests.append(first.decode(errors="replace"))
                        time.sleep(self.delay_s)
                    server.sendall(data)
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            back.join()

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                if self.bytes_per_s:
                    time.sleep(len(data) / self.bytes_per_s)
                client.sendall(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_WR)
