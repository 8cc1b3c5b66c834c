"""What may not be asked is not answered, whatever the route: host, token, origin, size, number."""

import anyio
import pytest
from fastapi import FastAPI, Response

from saestore.api.config import from_environment
from saestore.errors import ConfigError
from saestore.server import create_app
from saestore.server.guard import COOKIE, SECURITY, Guard
from saestore_schemas.server import ServerSettings, is_loopback


API = "/api/v1"
BEARER = {"Authorization": "Bearer a token of sixteen letters"}
PLAIN = "a token of sixteen letters"
SQL = {"sql": "SELECT 1 AS one"}


@pytest.fixture(scope="module")
def closed(client_of):
    """A client of a server that wants a token."""
    return client_of(token=PLAIN)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:24576", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:1", 200),
        ("192.168.1.7", 200),
        ("lake.example.org", 200),
        ("LAKE.example.org:443", 200),
        ("evil.example.org", 421),
        ("localhost.evil.example.org", 421),
        ("evil.example.org@localhost", 421),
        ("localhost:port", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
def test_it_answers_to_its_names_and_to_addresses_only(client_of, host, status):
    client = client_of(hosts=("lake.example.org", "other.example.org"))
    assert client.get("/health", headers={"Host": host}).status_code == status


def test_names_stand_between_commas_in_the_environment(monkeypatch):
    monkeypatch.setenv("SAESTORE_SERVER_HOSTS", "a.example.org, b.example.org")
    assert from_environment(ServerSettings).hosts == ("a.example.org", "b.example.org")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "lake.example.org"])  # noqa: S104 - that is the point
def test_beyond_this_machine_a_token_is_required(own_lake, host):
    assert not is_loopback(host)
    with pytest.raises(ConfigError, match="can be reached from other machines") as caught:
        create_app(own_lake.lake, ServerSettings(host=host))
    assert "SAESTORE_SERVER_TOKEN" in caught.value.hint
    create_app(own_lake.lake, ServerSettings(host=host, token=PLAIN))


def test_a_token_is_never_shown(monkeypatch):
    monkeypatch.setenv("SAESTORE_SERVER_TOKEN", "hunter2")
    with pytest.raises(ConfigError) as caught:
        from_environment(ServerSettings)
    assert "hunter2" not in f"{caught.value!r} {caught.value} {caught.value.found}"
    assert caught.value.__cause__ is None
    assert PLAIN not in repr(ServerSettings(token=PLAIN))


def test_without_the_token_nothing_is_answered(closed):
    paths = ["/", "/metrics", f"{API}/server", f"{API}/openapi.json", f"{API}/nothing", "/nothing"]
    for path in paths:
        answer = closed.get(path)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        for wrong in ("Bearer wrong", "Bearer", "Bearer é".encode(), f"Basic {PLAIN}", PLAIN):
            assert closed.get(path, headers={"Authorization": wrong}).status_code == 401
        assert closed.get(path, headers=BEARER).status_code in {200, 404}
    assert closed.post(f"{API}/sql", json=SQL).status_code == 401
    assert closed.post(f"{API}/sql", json=SQL, headers=BEARER).status_code == 200
    assert closed.get("/health").status_code == 200


def test_a_browser_logs_in_once_and_comes_back(closed):
    page = {"Accept": "text/html"}
    away = closed.get("/sql?q=1", headers=page)
    assert (away.status_code, away.headers["location"]) == (303, "/login?next=%2Fsql%3Fq%3D1")
    wrong = closed.post("/login", data={"token": "wrong", "next": "/sql?q=1"})
    assert wrong.headers["location"] == "/login?failed=1&next=%2Fsql%3Fq%3D1"
    assert COOKIE not in wrong.cookies
    right = closed.post("/login", data={"token": PLAIN, "next": "/sql?q=1"})
    assert (right.status_code, right.headers["location"]) == (303, "/sql?q=1")
    flags = right.headers["set-cookie"].lower()
    assert "httponly" in flags
    assert "samesite=strict" in flags
    assert PLAIN not in right.headers["set-cookie"]
    assert closed.get(f"{API}/server").status_code == 200
    sent = closed.post("/login", data={"token": PLAIN, "next": "/sql?q=東%2F&r=é"})
    assert sent.headers["location"] == "/sql?q=%E6%9D%B1%2F&r=%C3%A9"
    for target in ("//evil.example.org", "https://evil.example.org", "/\\evil", "javascript:0", ""):
        sent = closed.post("/login", data={"token": PLAIN, "next": target})
        assert sent.headers["location"] == "/"
    closed.post("/logout", json={})
    closed.cookies.clear()
    assert closed.get(f"{API}/server", headers={"Cookie": f"{COOKIE}=0"}).status_code == 401


def test_pages_of_other_sites_can_send_nothing(client):
    ours = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert client.post(f"{API}/sql", json=SQL, headers=ours).status_code == 200
    for theirs in (
        {"Origin": "http://evil.example.org"},
        {"Origin": "null"},
        {"Origin": "http://localhost:81"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        assert client.post(f"{API}/sql", json=SQL, headers=theirs).status_code == 403
    # what a plain form of another site could send, without asking first
    for media in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        answer = client.post(f"{API}/sql", content=b"{}", headers={"Content-Type": media})
        assert answer.status_code == 415


def test_every_answer_tells_browsers_to_stay_here(client):
    for path in ("/health", f"{API}/server", "/nothing", f"{API}/sql", "/", "/login"):
        headers = client.get(path).headers
        assert {name: headers[name] for name in SECURITY} == SECURITY
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers
    assert "unsafe" not in SECURITY["Content-Security-Policy"]
    preflight = client.options(
        f"{API}/sql",
        headers={"Origin": "http://evil.example.org", "Access-Control-Request-Method": "POST"},
    )
    assert preflight.status_code == 405


def test_no_more_is_read_than_the_settings_say(client_of):
    small = client_of(max_body_kib=1)
    assert small.post(f"{API}/sql", json=SQL).status_code == 200
    long = small.post(f"{API}/sql", json={"sql": "SELECT 1 --" + "x" * 2000})
    assert (long.status_code, "MAX_BODY_KIB" in long.json()["hint"]) == (413, True)
    headers = {"Content-Type": "application/json"}

    def pieces():
        for _ in range(100):
            yield b" " * 100

    assert small.post(f"{API}/sql", content=pieces(), headers=headers).status_code == 413
    for length in ("-1", "1e3", "x"):
        given = {**headers, "Content-Length": length}
        assert small.post(f"{API}/sql", content=b"{}", headers=given).status_code == 413


async def asked(guard, *, receive=None):
    """Ask a guard, and return the status of its answer."""
    statuses = []

    async def whole():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        statuses.append(message.get("status"))

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {
        "type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers,
        "app": FastAPI(),
    }  # fmt: skip
    await guard(scope, receive or whole, send)
    return statuses[0]


def test_no_more_is_answered_at_once_than_the_settings_say():
    async def run():
        inside, go_on = anyio.Event(), anyio.Event()

        async def waits(scope, receive, send):
            inside.set()
            await go_on.wait()
            await Response()(scope, receive, send)

        guard = Guard(waits, settings=ServerSettings(at_once=1))
        first = []

        async def ask_first():
            first.append(await asked(guard))

        async with anyio.create_task_group() as group:
            group.start_soon(ask_first)
            await inside.wait()
            assert await asked(guard) == 503
            go_on.set()
        assert first == [200]
        assert await asked(guard) == 200

    anyio.run(run)


def test_what_arrives_too_slowly_is_not_waited_for():
    async def run():
        async def reads(scope, receive, send):
            while (await receive())["more_body"]:
                pass

        async def drips():
            await anyio.sleep(0.02)
            return {"type": "http.request", "body": b" ", "more_body": True}

        guard = Guard(reads, settings=ServerSettings(body_seconds=0.1))
        assert await asked(guard, receive=drips) == 408

    anyio.run(run)


PLACES = [
    "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e", ".progress", "...", "a%00b",
    "%5c..%5c", "~root", "a b", "a:b", "C:", "x" * 101, "-rf",
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_no_path_of_a_request_is_one_of_the_file_system(client, place):
    for path in (
        f"{API}/analyses/{place}/topk-32/default/overview",
        f"{API}/analyses/demo/topk-32/{place}/overview",
        f"{API}/artefacts/features/{place}",
        f"{API}/artefacts/features/demo/topk-32/{place}",
        f"{API}/lineage/activations/{place}",
        f"{API}/dictionaries/demo/{place}/metrics",
        f"/static/{place}",
        f"/static/x/{place}",
    ):
        assert client.get(path).status_code in {404, 422}
    asked = {"analysis": f"demo/{place}", "params": {"feature": 1}}
    assert client.post(f"{API}/queries/top_contexts", json=asked).status_code in {404, 422}


def test_a_mistake_of_ours_says_nothing_of_itself(client_of, monkeypatch, caplog):
    client = client_of()

    def broken(*args, **kwargs):
        raise RuntimeError("a secret of the program")

    monkeypatch.setattr(type(client.app.state.served.lake), "refs", broken)
    answer = client.get(f"{API}/artefacts")
    assert answer.status_code == 500
    assert answer.json()["type"] == "urn:saestore:Mistake"
    assert "secret" not in answer.text
    assert answer.headers["content-security-policy"]
    assert "a secret of the program" in caplog.text


def test_metrics_count_requests_by_route(client_of):
    client = client_of()
    for number in (1, 2, 3):
        client.get(f"{API}/analyses/demo/topk-32/default/features/{number}/logits")
    client.get("/nothing")
    client.post(f"{API}/sql", json=SQL)
    text = client.get("/metrics").text
    route = f"{API}/analyses/{{series}}/{{name}}/{{analysis}}/features/{{feature}}/logits"
    assert f'saestore_requests_total{{method="GET",route="{route}",status="200"}} 3.0' in text
    assert 'route="none",status="404"' in text
    assert "saestore_sql_seconds_count 1.0" in text
    assert "/features/1/" not in text
