"""The command, as a process: it says where it listens, answers while SQL is slow, and ends in order."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx
import psutil
import pytest

from saestore.api.serving import token_in
from saestore.errors import ConfigError
from saestore_schemas.server import ServerSettings


SLOW = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE (a.range * b.range) % 7 = 3"
PROGRAM = [
    sys.executable, "-c", "import sys; from saestore_cli.main import main; sys.exit(main())",
]  # fmt: skip
PLACE = "/api/v1/analyses/demo/topk-32/default"

pytestmark = pytest.mark.serve


@contextmanager
def served(lake, *words, **environment):
    """Start `saestore serve`; yield the process and what it said."""
    command = [*PROGRAM, "serve", "--lake", str(lake), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--output", "json", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        yield process, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def test_what_takes_all_memory_or_time_ends_and_the_server_does_not(path):
    """DuckDB's limit on memory counts nothing of what a function makes of one row."""
    small = {"SAESTORE_SERVER_MEMORY_MIB": "1024", "SAESTORE_SERVER_BODY_SECONDS": "1"}
    with served(path, **small) as started:
        said = started[1]
        ask = {"sql": "SELECT range(1000000000)"}
        found = httpx.post(f"{said['url']}/api/v1/sql", json=ask, timeout=30)
        assert (found.status_code, "Out of Memory" in found.json()["detail"]) == (422, True)
        host, port = said["url"].removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as slow:
            slow.sendall(b"GET /health HTTP/1.1\r\nHost: localh")
            assert slow.recv(1) == b""  # a head that never ends is not waited for
        assert httpx.get(f"{said['url']}/health").status_code == 200
        found = httpx.post(f"{said['url']}/api/v1/sql", json={"sql": "SELECT 1"}, timeout=30)
        assert found.json()["rows"] == [[1]]


@pytest.fixture(scope="module")
def path(own_lake):
    return own_lake.lake.storage.url


def test_a_slow_question_delays_no_other_request_and_it_ends_in_order(path):
    with served(path, SAESTORE_SERVER_SQL_SECONDS="1", SAESTORE_SERVER_SQL_AT_ONCE="1") as started:
        process, said = started
        assert said == {"url": said["url"], "lake": str(path), "live": None, "annotate": False}
        with httpx.Client(base_url=said["url"], timeout=30) as client:
            wanted = client.get(f"{PLACE}/features/1").json()
            answers = []

            def ask():
                answer = httpx.post(f"{said['url']}/api/v1/sql", json={"sql": SLOW}, timeout=30)
                answers.append(answer.status_code)

            asking = [threading.Thread(target=ask) for _ in range(3)]
            for each in asking:
                each.start()
            while "saestore_sql_in_progress 1.0" not in client.get("/metrics").text:
                assert not answers
            assert client.get(f"{PLACE}/features/1").json() == wanted
            assert client.get(f"{PLACE}/features", params={"limit": 3}).status_code == 200
            assert not answers  # all of that while the first one was being answered
            for each in asking:
                each.join()
            # one was stopped when its time was up; of those that waited as long, one may have had a turn
            assert sorted(set(answers)) in ([422], [422, 503])
            last = threading.Thread(target=ask)
            last.start()
            while "saestore_sql_in_progress 1.0" not in client.get("/metrics").text:
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            last.join()
            assert answers[-1] == 422  # it was answered, before the end
        assert process.wait(20) == 0
        assert process.stderr.read() == ""


ENDLESS = "SELECT levenshtein(repeat('a', 10000000), repeat('b', 10000000))"
"""One step of the engine's, and so nothing interrupts it."""


def asked(said, sql):
    answer = httpx.post(f"{said['url']}/api/v1/sql", json={"sql": sql}, timeout=60)
    return answer.status_code, answer.json()


def processes_for_sql(server):
    """The server's processes that answer questions."""
    return psutil.Process(server.pid).children()


def test_a_question_that_nothing_interrupts_ends_and_the_next_one_is_answered(path):
    with served(path, SAESTORE_SERVER_SQL_SECONDS="0.5") as (process, said):
        began = time.monotonic()
        status, problem = asked(said, ENDLESS)
        assert (status, "time is up" in problem["detail"]) == (422, True)
        assert time.monotonic() - began < 30
        assert processes_for_sql(process) == []
        assert asked(said, "SELECT 1")[1]["rows"] == [[1]]
        (kept,) = processes_for_sql(process)
        assert asked(said, "SELECT 2")[1]["rows"] == [[2]]
        assert processes_for_sql(process) == [kept]  # it answers many


def test_who_looks_at_the_page_finds_a_process_ready(path):
    with served(path) as (process, said):
        assert processes_for_sql(process) == []
        assert httpx.get(f"{said['url']}/sql", timeout=30).status_code == 200
        while not processes_for_sql(process):
            time.sleep(0.01)
        (one,) = processes_for_sql(process)
        assert asked(said, "SELECT 1")[1]["rows"] == [[1]]
        assert processes_for_sql(process) == [one]


def test_a_process_that_is_killed_takes_only_its_question_along(path):
    with served(path, SAESTORE_SERVER_SQL_SECONDS="60") as (process, said):
        answers = []
        asking = threading.Thread(target=lambda: answers.append(asked(said, ENDLESS)))
        asking.start()
        while "saestore_sql_in_progress 1.0" not in httpx.get(f"{said['url']}/metrics").text:
            time.sleep(0.01)
        while not (found := processes_for_sql(process)) or found[0].cpu_times().user < 3:
            time.sleep(0.05)  # until it is past its imports
        found[0].kill()
        asking.join(30)
        ((status, problem),) = answers
        assert (status, "ended" in problem["detail"]) == (422, True)
        assert asked(said, "SELECT 1")[1]["rows"] == [[1]]


def test_no_process_outlives_a_server_that_is_killed(path):
    with served(path, SAESTORE_SERVER_SQL_SECONDS="1") as (process, said):
        assert asked(said, "SELECT 1")[0] == 200
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{said['url']}/api/v1/sql", json={"sql": ENDLESS}, timeout=0.5)
        left = processes_for_sql(process)
        assert left
        process.kill()
        gone, alive = psutil.wait_procs(left, timeout=30)
        assert (len(gone), alive) == (len(left), [])


def test_a_port_that_is_taken_is_said(own_lake):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match="cannot listen on 127") as caught:
            own_lake.serve(ServerSettings(port=port))
    assert "--port 0" in caught.value.hint


def test_an_address_of_another_machine_is_said(own_lake):
    with pytest.raises(ConfigError, match="cannot listen on 192"):
        own_lake.serve(ServerSettings(host="192.0.2.1", port=0, token="a" * 16))


def test_a_token_stands_in_a_file(tmp_path):
    file = tmp_path / "token"
    file.write_text("  a token of sixteen letters\n")
    assert token_in(file) == "a token of sixteen letters"
    file.write_text(" \n")
    for wrong in (file, tmp_path / "nothing", tmp_path):
        with pytest.raises(ConfigError) as caught:
            token_in(wrong)
        assert "openssl" in caught.value.hint
