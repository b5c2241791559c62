"""Which connection a call to the console uses, as the console sees it."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from axomsync.console.client import Console
from axomsync.console.connections import KEPT_SECONDS
from axomsync.core.errors import Transient
from tests.rig.agent import PATIENCE, eventually
from tests.rig.tls import Authority, ConnectProxy, TlsFront

AT_ONCE = 5
TRIES = 110


class Listener(ThreadingHTTPServer):
    """A console without models; its answers wait for `opened`. `callers` are the ports of its requests, `kept` those that
    are still connected."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.callers: list[int] = []
        self.kept: set[int] = set()
        self.opened = threading.Event()
        self.opened.set()


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Listener

    def handle(self) -> None:
        self.server.kept.add(self.client_address[1])
        with suppress(ConnectionError):
            super().handle()
        self.server.kept.discard(self.client_address[1])

    def do_GET(self) -> None:
        self.server.callers.append(self.client_address[1])
        self.server.opened.wait(PATIENCE)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # its name in the base class
        pass


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as listener:
        listener.daemon_threads = True
        threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True).start()
        yield listener
        listener.opened.set()
        listener.shutdown()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def console_at(listener: Listener, clock: Clock) -> Console:
    return Console(f"http://127.0.0.1:{listener.server_port}", lambda: "key", clock=clock)


def call_at_once(console: Console, listener: Listener, number: int) -> list[int]:
    """So many calls that wait for each other; returns their ports."""
    listener.opened.clear()
    listener.callers.clear()
    with ThreadPoolExecutor(number) as pool:
        calls = [pool.submit(console.models) for _ in range(number)]
        eventually("all calls", lambda: len(listener.callers) == number)
        listener.opened.set()
        for call in calls:
            assert call.result(PATIENCE) == []
    return list(listener.callers)


def test_calls_keep_their_connections(listener: Listener) -> None:
    console = console_at(listener, Clock())
    first = call_at_once(console, listener, AT_ONCE)
    assert len(set(first)) == AT_ONCE
    assert set(call_at_once(console, listener, AT_ONCE)) == set(first)
    console.close()
    eventually("no connection", lambda: not listener.kept)


def test_connections_that_nobody_needs_are_closed(listener: Listener) -> None:
    clock = Clock()
    console = console_at(listener, clock)
    call_at_once(console, listener, AT_ONCE)
    listener.callers.clear()
    for _ in range(3):
        console.models()
    [last] = set(listener.callers)
    assert len(listener.kept) == AT_ONCE
    clock.now += KEPT_SECONDS + 1
    console.models()
    eventually("one connection", lambda: listener.kept == {last})
    console.close()


def test_calls_under_way_end_with_the_connections(listener: Listener) -> None:
    console = console_at(listener, Clock())
    listener.opened.clear()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(console.models)
        eventually("the call", lambda: listener.callers)
        console.close()
        listener.opened.set()
        with pytest.raises(Transient):
            call.result(PATIENCE)
    eventually("no connection", lambda: not listener.kept)


def test_a_connection_that_failed_is_not_waited_for(
    listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a proxy, to a certificate that is not trusted."""
    authority = Authority(tmp_path, "console.test")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with TlsFront(authority, ("127.0.0.1", listener.server_port)) as front, ConnectProxy(front.address) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.address[1]}")
        console = Console("https://console.test", lambda: "key")
        for _ in range(TRIES):
            with pytest.raises(Transient, match="its certificate is not trusted"):
                console.models()
        console.close()
        assert len(proxy.asked) == TRIES
