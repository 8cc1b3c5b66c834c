"""Names on the hub: the real client against a hub on loopback, its cache, and no network at all."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import huggingface_hub
import pytest

from saestore.errors import ConfigError, StorageError
from saestore.exchange.dictionaries.hub import locate


COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model": "tiny"}',
    "README.md": b"about",
    "layers.1/cfg.json": b"{}",
    "layers.1/sae.safetensors": b"weights",
    "layers.2/cfg.json": b"{}",
    "layers.2/sae.safetensors": b"others",
}

PROGRAM = """
import sys
from saestore.errors import SaestoreError
from saestore.exchange.dictionaries.hub import locate
for name in sys.argv[1:]:
    try:
        found = locate(name)
        files = sorted(p.relative_to(found.place).as_posix() for p in found.place.rglob("*") if p.is_file())
        print("FOUND", found.name, found.revision, *files)
    except SaestoreError as error:
        print("ERROR", error, "|", error.hint)
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """What the client asks a hub for one repository."""

    def log_message(self, *_):
        """Say nothing."""

    def do_HEAD(self):
        """Answer without a body."""
        self.answer(body=False)

    def do_GET(self):
        """Answer."""
        self.answer(body=True)

    def answer(self, *, body):
        """Answer the listing of a repository, or one of its files."""
        path = self.path.split("?")[0]
        listed = [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}  # noqa: S324
            for name, data in FILES.items()
        ]
        if path.startswith("/api/models/org/repo/tree/"):
            self.send(json.dumps(listed).encode(), body=body)
        elif path.startswith("/api/models/org/repo"):
            siblings = [{"rfilename": name} for name in FILES]
            info = {"id": "org/repo", "modelId": "org/repo", "sha": COMMIT, "siblings": siblings}
            self.send(json.dumps(info | {"private": False}).encode(), body=body)
        elif path.startswith("/org/repo/resolve/") and path.split("/", 5)[5] in FILES:
            self.server.fetched.append(path.split("/", 5)[5])
            self.send(FILES[path.split("/", 5)[5]], body=body)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def send(self, data, *, body):
        """Send bytes with the headers that the client looks at."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')  # noqa: S324 - no secret
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(data)


@pytest.fixture
def hub():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.fetched = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def located(tmp_path, *names, endpoint, offline="0"):
    env = {
        **os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": offline,
        "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "HF_HUB_ETAG_TIMEOUT": "2",
    }  # fmt: skip
    env.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, *names],
        capture_output=True, text=True, check=False, env=env, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def test_only_the_files_of_a_folder_are_downloaded_and_the_cache_serves_without_a_network(
    hub, tmp_path
):
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    names = ("org/repo:layers.1", "org/repo", "org/repo:layers.9", "org/nothing")
    found, many, missing, nothing = located(tmp_path, *names, endpoint=endpoint)
    assert found == f"FOUND org/repo/layers.1 {COMMIT} cfg.json sae.safetensors"
    assert set(hub.fetched) == {"config.json", "layers.1/cfg.json", "layers.1/sae.safetensors"}
    assert "holds several dictionaries" in many
    assert "name one: org/repo:layers.1" in many
    assert "no folder 'layers.9'" in missing
    assert "there is no org/nothing: neither on this disk nor on the hub" in nothing
    hub.shutdown()
    again, other = located(
        tmp_path, "org/repo:layers.1", "org/repo:layers.2", endpoint=endpoint, offline="1"
    )
    assert again == found
    assert "it cannot be had from the hub" in other
    assert "hf download org/repo --include 'layers.2/*' --local-dir FOLDER" in other


def test_offline_the_cache_is_used_and_otherwise_it_is_said_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(StorageError, match="cannot be had from the hub") as caught:
        locate("org/repo:layers.1")
    assert "hf download org/repo" in caught.value.hint
    repo = tmp_path / "cache" / "models--org--repo"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    place = repo / "snapshots" / COMMIT / "layers.1"
    place.mkdir(parents=True)
    (place / "cfg.json").write_text("{}")
    found = locate("org/repo:layers.1")
    assert (found.place, found.name, found.revision) == (place, "org/repo/layers.1", COMMIT)
    with pytest.raises(StorageError, match="cannot be had"):
        locate("org/repo:layers.2")


def test_what_lies_on_this_disk_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "repo").mkdir(parents=True)
    assert locate("org/repo").place == Path("org/repo").resolve()
    assert locate("org/repo").name == ""
    with pytest.raises(ConfigError, match="there is no org/rep") as caught:
        locate("org/rep")
    assert "did you mean org/repo" in caught.value.hint
    with pytest.raises(ConfigError, match="there is no nowhere"):
        locate("nowhere")
