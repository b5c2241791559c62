"""Access to the status page: methods, Host, token, limits; each on the wire."""

import base64
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from axomsync.config import WebSettings
from axomsync.web import server
from axomsync.web.stream import WATCHERS_MOST
from tests.rig.agent import eventually
from tests.web.scenes import staged

TOKEN = "0123456789abcdef0123"
PATHS = ("/", "/page.css", "/page.js", "/icon.svg", "/api/status", "/healthz", "/readyz", "/metrics")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with staged(tmp_path_factory.mktemp("guard"), "busy") as stage, stage.page() as url:
        yield url


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("locked")
    (home / "token").write_text(f"{TOKEN}\n", encoding="utf-8")
    web = WebSettings.model_validate({"listen": "127.0.0.1:0", "token_file": str(home / "token")})
    with staged(home, "empty", web) as stage, stage.page() as url:
        yield url


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((str(parts.hostname), parts.port or 80), timeout=20)


@pytest.mark.parametrize("path", PATHS)
def test_answers_have_security_headers(page: str, path: str) -> None:
    answer = httpx.get(page + path.lstrip("/"))
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-frame-options"] == "DENY"
    assert "server" not in answer.headers
    assert httpx.head(page + path.lstrip("/")).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_methods_that_change_are_refused(page: str, method: str) -> None:
    answer = httpx.request(method, page + "api/status")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9464", 200), ("localhost", 200), ("LOCALHOST:80", 200), ("[::1]:9464", 200), ("10.1.2.3", 200),
        ("evil.example", 421), ("localhost.evil.example", 421), ("127.0.0.1.evil.example:9464", 421), ("", 421),
    ],
)  # fmt: skip
def test_foreign_host_names_are_refused(page: str, host: str, status: int) -> None:
    assert httpx.get(page + "api/status", headers={"Host": host}).status_code == status


def test_token_works_as_bearer_and_as_password(locked: str) -> None:
    def status(authorization: str | None, path: str = "api/status", host: str = "127.0.0.1") -> int:
        headers = {"Host": host} | ({} if authorization is None else {"Authorization": authorization})
        return httpx.get(locked + path, headers=headers).status_code

    def basic(password: str) -> str:
        return "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()

    for path in ("", "api/status", "metrics", "page.js"):
        assert status(None, path) == 401
        assert status(f"Bearer {TOKEN}", path) == 200
    assert status(basic(TOKEN)) == 200
    assert status(f"bearer {TOKEN}", host="box.example") == 200, "whoever has the token is nobody else's page"
    for wrong in (basic("wrong"), f"Bearer {TOKEN}x", "Bearer", "Basic !!", f"Digest {TOKEN}", basic("")):
        assert status(wrong) == 401
    assert status(None, "healthz") == 200
    assert status(None, "healthz", "evil.example") == 200
    assert httpx.get(locked).headers["www-authenticate"].startswith("Basic ")


def test_requests_are_bounded(page: str) -> None:
    assert httpx.get(page + "x" * 2000).status_code == 414
    with connect(page) as flood:  # headers without an end
        flood.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 2 * server.HEADERS_MOST)
        assert b" 400 " in flood.recv(4096)
    with connect(page) as flood:  # an unrequested body
        flood.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999\r\n\r\n")
        assert b"405" in flood.recv(4096)


def test_connections_are_limited_and_a_probe_is_always_answered(page: str) -> None:
    with ExitStack() as hostile:
        for number in range(200):
            held = hostile.enter_context(connect(page))
            held.sendall(b"" if number % 2 else b"GET /healthz HTTP/1.1\r\nHost: local")
        began = time.monotonic()
        assert httpx.get(page + "healthz").status_code == 200
        assert time.monotonic() - began < 1
        assert httpx.get(page + "readyz").status_code in (200, 503)
        assert len(_established(page)) <= server.CONNECTIONS_MOST + 2


def _established(url: str) -> list[str]:
    """Lines of the kernel's table for the page's connections."""
    port = f":{urlsplit(url).port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [line[1] for line in lines if line[1].endswith(port) and line[3] == "01"]


def _answers(page: str) -> bool:
    try:
        return httpx.get(page).status_code == 200
    except httpx.TransportError:
        return False


def test_idle_client_is_disconnected(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_SECONDS", 0.2)
    for opening in (b"", b"GET / HTTP/1.1\r\nHost: loc", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /"):
        with connect(page) as slow:
            slow.sendall(opening)
            while slow.recv(65536):  # until it is closed
                pass


def test_event_streams_are_limited(page: str) -> None:
    with httpx.Client() as client, ExitStack() as watching:
        for _ in range(WATCHERS_MOST):
            assert watching.enter_context(client.stream("GET", page + "api/events")).status_code == 200
        refused = httpx.get(page + "api/events")
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
    eventually("a free place", lambda: _stream_status(page) == 200)


def _stream_status(page: str) -> int:
    with httpx.stream("GET", page + "api/events") as answer:
        return answer.status_code


def test_token_file_without_a_token_is_a_problem_and_nothing_is_served(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("short", encoding="utf-8")
    web = WebSettings.model_validate({"listen": "127.0.0.1:0", "token_file": str(tmp_path / "token")})
    with staged(tmp_path, "empty", web) as stage, pytest.raises(AssertionError), stage.page(patience=0.3):
        pass
    with staged(tmp_path, "empty", web) as stage:
        problems = {problem.subject: problem.reason for problem in stage.ledger.read.problems()}
    assert "16 characters or more" in problems["status page"]


def test_listen_on_a_taken_port_is_a_problem_that_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("axomsync.web.page.AGAIN_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        listen = f"127.0.0.1:{squatter.getsockname()[1]}"
        with staged(tmp_path, "empty", WebSettings(listen=listen)) as stage:
            page = stage.made([])
            page.start()
            eventually("the problem", lambda: [p for p in stage.ledger.read.problems() if "another program" in p.reason])
            squatter.close()
            eventually("the page", lambda: _answers(f"http://{listen}/"))
            assert stage.ledger.read.problems() == []
            page.stop()


def test_client_that_connects_during_the_stop_is_disconnected(tmp_path: Path) -> None:
    told: list[str | None] = []
    with staged(tmp_path, "empty") as stage:
        page = stage.made(told)
        page.start()
        url = str(eventually("a page", lambda: told and told[0]))
        eventually("its loop", lambda: page._server is not None and page._server._loop is not None)
        assert page._server is not None
        assert page._server._loop is not None
        page._server._loop.call_soon_threadsafe(time.sleep, 0.3)  # so that one turn of the loop meets connection and end
        with connect(url) as late:
            page.stop()
            with suppress(ConnectionResetError):
                assert late.recv(1) == b""
