"""An end for each answer: servers and proxies that send a byte now and then, against each user of httpx's transports."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpcore
import httpx
import pytest

from axomsync.console.client import Console
from axomsync.core.errors import AxomsyncError, Rejected, Transient
from axomsync.engines.client import Client
from axomsync.storage.client import SHORT_BODY, Storage
from axomsync.transport.deadlines import Deadline, limited
from axomsync.transport.http import network_reason
from tests.rig.faults import KEY, Fault, FaultyServer

RATE = 20.0  # bytes a second: the longest silence is far below each limit
LIMIT = 0.5
GIVEN_UP = 5.0  # with time for a busy machine; the answers below would take much longer
LONG = {"X-Slow": "a" * 2000}


@pytest.fixture
def storage() -> Iterator[Storage]:
    with closing(Storage(loopback=True, stall=LIMIT, answer_seconds=LIMIT, document_seconds=LIMIT)) as storage:
        yield storage


def given_up(call: Callable[[], object], kind: type[AxomsyncError] = Transient) -> str:
    began = time.monotonic()
    with pytest.raises(kind) as failure:
        call()
    assert time.monotonic() - began < GIVEN_UP
    return str(failure.value)


def put(storage: Storage, url: str, size: int) -> object:
    return storage.put(url, iter([b"x" * (size // 2), b"y" * (size - size // 2)]), size, "application/jsonl")


def endless_chunk(rate: float) -> Fault:
    """A chunk whose size is written for ever, a digit at a time: the body begins and has no byte."""
    return Fault(200, {"Content-Length": None, "Transfer-Encoding": "chunked", "ETag": '"1"'}, b"0" * 2000, rate=rate)


# The console


def test_console_that_sends_its_headers_slowly_is_given_up(server: FaultyServer) -> None:
    server.inject(Fault(headers=LONG, head_rate=RATE), "/api/")
    with closing(Console(server.url, lambda: KEY, answer_seconds=LIMIT)) as console:
        assert "the answer took more than 0.5 s" in given_up(console.models)


def test_console_that_writes_a_chunk_size_for_ever_is_given_up(server: FaultyServer) -> None:
    server.inject(endless_chunk(RATE), "/api/")
    with closing(Console(server.url, lambda: KEY, answer_seconds=LIMIT)) as console:
        assert "the answer took more than 0.5 s" in given_up(console.models)


def test_console_whose_refusal_is_written_for_ever_is_told_as_one(server: FaultyServer) -> None:
    fault = endless_chunk(RATE)
    server.inject(Fault(403, fault.headers, fault.body, rate=RATE), "/api/")
    with closing(Console(server.url, lambda: KEY, answer_seconds=LIMIT)) as console:
        assert "lacks the scope 'read' (no detail given)" in given_up(console.models, Rejected)


def test_console_that_sends_each_page_slowly_is_given_up(server: FaultyServer) -> None:
    now = [0.0]

    def slow_page(number: int) -> Fault:
        return Fault(
            200,
            {"Link": f'</api/models?page={number}>; rel="next"'},
            b"[]",
            first=lambda: now.__setitem__(0, now[0] + 299.0),
        )

    for number in range(20):
        server.inject(slow_page(number), "/api/models")
    with closing(Console(server.url, lambda: KEY, clock=lambda: now[0])) as console:
        assert "/models: the console's list took more than 3000 s" in given_up(console.models)


# Storage


@pytest.mark.parametrize("size", [10, SHORT_BODY + 1])
def test_storage_that_sends_the_headers_after_a_put_slowly_is_given_up(
    size: int, storage: Storage, server: FaultyServer
) -> None:
    server.inject(Fault(headers=LONG, head_rate=RATE), "/bucket/", method="PUT")
    given_up(lambda: put(storage, server.presign("PUT", "new"), size))


@pytest.mark.parametrize("size", [10, SHORT_BODY + 1])
def test_storage_that_writes_a_chunk_size_for_ever_is_given_up(size: int, storage: Storage, server: FaultyServer) -> None:
    server.inject(endless_chunk(RATE), "/bucket/", method="PUT")
    given_up(lambda: put(storage, server.presign("PUT", "new"), size))


def test_storage_that_sends_the_headers_of_an_object_slowly_is_given_up(storage: Storage, server: FaultyServer) -> None:
    server.inject(Fault(headers=LONG, head_rate=RATE), "/bucket/")

    def get() -> None:
        with storage.get(server.presign("GET", "object"), 0, 10, 10, None):
            pass

    given_up(get)


def test_body_may_take_longer_than_its_answer(storage: Storage, server: FaultyServer) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(8):
            time.sleep(LIMIT / 3)
            yield b"x" * SHORT_BODY

    assert storage.put(server.presign("PUT", "new"), pieces(), 8 * SHORT_BODY, "application/jsonl").etag


# Engines


@pytest.mark.parametrize("fault", [Fault(200, LONG, head_rate=RATE), endless_chunk(RATE)])
def test_engine_that_answers_slowly_is_given_up(fault: Fault, server: FaultyServer) -> None:
    server.inject(fault, "/")
    with closing(Client(server.endpoint, timeout=LIMIT)) as client:
        assert "the answer took more than 0.5 s" in given_up(lambda: client.ask("GET", "/v1/models"))


def test_file_for_an_engine_may_take_longer_than_the_answer(server: FaultyServer) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(8):
            time.sleep(LIMIT / 3)
            yield b"x"

    server.inject(Fault(201, body=b""), "/", method="POST")
    with closing(Client(server.endpoint, wait=LIMIT)) as client:
        assert client.send("/api/blobs/x", pieces(), 8).status == 201


# Proxies


@pytest.fixture
def talker() -> Iterator[Callable[[bytes], int]]:
    """Start a server that sends this text a byte at a time, whatever it is asked; returns its port."""
    listeners: list[socket.socket] = []

    def start(text: bytes) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            try:
                connection, _ = listener.accept()
                with connection:
                    for byte in text:
                        connection.sendall(bytes([byte]))
                        time.sleep(1 / RATE)
                    connection.recv(65536)
                    connection.recv(1)
            except OSError:  # the client has given up
                pass

        threading.Thread(target=serve, daemon=True).start()
        return int(listener.getsockname()[1])

    yield start
    for listener in listeners:
        listener.close()


def test_proxy_that_answers_slowly_is_given_up(
    talker: Callable[[bytes], int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    port = talker(b"HTTP/1.1 200 Connected\r\nX-Slow: " + b"a" * 2000)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
    with closing(Console("https://console.invalid/api", lambda: KEY, answer_seconds=LIMIT)) as console:
        assert "the answer took more than 0.5 s" in given_up(console.models)


def test_socks_proxy_that_says_nothing_is_given_up(talker: Callable[[bytes], int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("axomsync.transport.deadlines.HANDSHAKE_SECONDS", LIMIT)
    monkeypatch.setenv("ALL_PROXY", f"socks5://127.0.0.1:{talker(b'')}")
    with closing(Console("https://console.invalid/api", lambda: KEY, answer_seconds=LIMIT)) as console:
        assert "no answer in time" in given_up(console.models)


# The deadline itself


def test_a_deadline_ends_at_its_time_and_begins_anew() -> None:
    now, allowed = [100.0], list[float]()
    deadline = Deadline(10.0, silence=4.0, clock=lambda: now[0])

    def read(seconds: float) -> bytes:
        allowed.append(seconds)
        return b"x"

    def wait(seconds: float) -> bytes:
        now[0] += seconds
        raise httpcore.ReadTimeout("timed out")

    with pytest.raises(httpcore.ReadTimeout, match="timed out"):
        deadline.read(wait)
    now[0] += 3
    deadline.read(read)
    with pytest.raises(httpcore.ReadTimeout, match="the answer took more than 10 s"):
        deadline.read(wait)
    with pytest.raises(httpcore.ReadTimeout, match="the answer took more than 10 s"):
        deadline.read(read)
    assert list(deadline.renewed_by([b"a", b"b"])) == [b"a", b"b"]
    deadline.read(read)
    assert allowed == [3.0, 4.0]


def test_plain_limits_of_httpx_hold_as_before(server: FaultyServer) -> None:
    server.inject(Fault(cut=0, ending="stall"), "/")
    with (
        httpx.Client(transport=limited(httpx.HTTPTransport()), timeout=0.2) as client,
        pytest.raises(httpx.ReadTimeout) as error,
    ):
        client.get(server.endpoint).read()
    assert network_reason(error.value, None, "silent") == "silent"
