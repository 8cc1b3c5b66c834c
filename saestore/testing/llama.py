"""A real llama.cpp server on loopback, with the small model that comes as a package: slow, and no wiser."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


_PROGRAM = """
import sys
import xllamacpp

given = xllamacpp.CommonParams()
given.model.path, given.port, given.hostnames = sys.argv[1], 0, ["127.0.0.1"]
given.n_ctx, given.n_parallel, given.verbosity = 4096, 2, 0
given.cpuparams.n_threads = 1
server = xllamacpp.Server(given)
print("listening on", server.listening_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def llama_server(model: Path) -> Iterator[str]:
    """Serve a model in a process of its own while the block runs; give its base URL.

    Raises:
        RuntimeError: It ended before it listened.
    """
    with subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-c", _PROGRAM, str(model)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("listening on "):
                    yield line.split()[-1] + "/v1"
                    return
            raise RuntimeError("llama.cpp's server ended before it listened")
        finally:
            process.kill()
