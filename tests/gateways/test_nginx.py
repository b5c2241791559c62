"""The shipped configuration in real nginx, asked by hand: what it serves, to whom, and what it never does."""

import http.client
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from axomsync.transport.gateways import through
from tests.rig.faults import EXPIRED, FOREVER, Content, Fault, FaultyServer, s3_error
from tests.rig.gateway import SLICE, Gateway

MIB = 1 << 20
BIG = Content(3 * SLICE + 12_345, seed=1)
OTHER = Content(BIG.size, seed=2)


@pytest.fixture(autouse=True)
def _stored(server: FaultyServer) -> None:
    server.replace("big", BIG)


class Reply:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = response.status, response.headers, response.read()


def get(gateway: Gateway, url: str, start: int = 0, end: int | None = None, method: str = "GET", **headers: str) -> Reply:
    """Ask a gateway for bytes `start` to `end` of a signed URL, with the very bytes of its target."""
    host, port = gateway.url.removeprefix("http://").split(":")
    target = through(gateway.url, url).removeprefix(gateway.url)
    end = end if end is not None else start + 1000
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}:{port}", f"Range: bytes={start}-{end - 1}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    with socket.create_connection((host, int(port)), timeout=30) as connection:  # an HTTP client would tidy the target
        connection.sendall("".join(f"{line}\r\n" for line in [*lines, "Connection: close", ""]).encode())
        response = http.client.HTTPResponse(connection, method=method)
        response.begin()
        return Reply(response)


def test_bytes_come_from_storage_once(server: FaultyServer, gateway: Gateway) -> None:
    for start, end in [(0, 1000), (0, 1000), (SLICE - 5, 2 * SLICE + 5), (BIG.size - 7, BIG.size), (1, BIG.size)]:
        reply = get(gateway, server.presign("GET", "big"), start, end)
        assert (reply.status, reply.body) == (206, BIG.read(start, end))
        assert reply.headers["Content-Range"] == f"bytes {start}-{end - 1}/{BIG.size}"
        assert reply.headers["ETag"] == reply.headers["Axomsync-ETag"] == BIG.etag()
    assert server.sent() == BIG.size + 5  # and one byte for each question whether the link is good
    assert len(gateway.cached()) == 4


def test_a_cached_byte_needs_a_link_that_may_read_it(server: FaultyServer, gateway: Gateway) -> None:
    url = server.presign("GET", "big")
    assert get(gateway, url).status == 206
    forged = re.sub("Signature=.", "Signature=X", url)
    for bad in (forged, url.partition("?")[0], server.presign("GET", "other").replace("other", "big")):
        reply = get(gateway, bad)
        assert (reply.status, b"<Code>SignatureDoesNotMatch" in reply.body) == (403, True)  # storage's own words
    server.revoke_urls()
    assert get(gateway, url).status == 403
    assert get(gateway, server.presign("GET", "big")).status == 206


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (EXPIRED, 403),
        (s3_error(400, "ExpiredRequest", "late"), 400),
        (s3_error(404, "NoSuchKey", "gone"), 404),
        (s3_error(410, "Gone", "gone"), 410),
        (s3_error(503, "SlowDown", "less", Retry_After="7"), 503),
    ],
)
def test_what_storage_says_comes_through_whole(server: FaultyServer, gateway: Gateway, fault: Fault, status: int) -> None:
    assert get(gateway, server.presign("GET", "big")).status == 206
    server.inject(fault, times=FOREVER)
    reply = get(gateway, server.presign("GET", "big"))
    assert (reply.status, reply.body) == (status, fault.body)
    assert reply.headers.get("Retry-After") == fault.headers.get("Retry-After")


def test_after_a_replacement_no_old_byte_is_served(server: FaultyServer, gateway: Gateway) -> None:
    assert get(gateway, server.presign("GET", "big"), 0, BIG.size).body == BIG.read()
    server.replace("big", OTHER)
    reply = get(gateway, server.presign("GET", "big"), 0, BIG.size)
    assert (reply.body, reply.headers["ETag"]) == (OTHER.read(), OTHER.etag())
    assert get(gateway, server.presign("GET", "big"), If_Match=BIG.etag()).status == 412
    assert get(gateway, server.presign("GET", "big"), If_Match=OTHER.etag()).status == 206


def test_an_object_that_is_replaced_within_an_answer_ends_it(server: FaultyServer, gateway: Gateway) -> None:
    def replace() -> None:
        server.replace("big", OTHER)

    server.inject(Fault(first=replace), where=lambda request: request.start == SLICE)
    with pytest.raises(http.client.IncompleteRead) as ended:
        get(gateway, server.presign("GET", "big"), 0, BIG.size)
    assert BIG.read().startswith(ended.value.partial)
    server.replace("big", BIG)  # and nothing of the other one is kept under the name of this one
    assert get(gateway, server.presign("GET", "big"), 0, BIG.size).body == BIG.read()


def test_many_who_wait_for_a_slow_slice_cost_storage_one(server: FaultyServer, gateway: Gateway) -> None:
    server.rate = 1.2 * MIB  # a slice takes longer than the 5 s after which nginx by default asks once for each
    server.replace("big", Content(SLICE, seed=3))
    bodies: list[bytes] = []

    def ask() -> None:
        bodies.append(get(gateway, server.presign("GET", "big"), 0, SLICE).body)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(bodies) == {Content(SLICE, seed=3).read()}
    assert server.sent() == SLICE + 8


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_etag(server: FaultyServer, gateway: Gateway, etag: str | None) -> None:
    server.objects["big"].etag = etag
    for _ in range(2):
        assert get(gateway, server.presign("GET", "big"), 0, 2 * SLICE).body == BIG.read(0, 2 * SLICE)
    assert len(gateway.cached()) == (0 if etag is None else 2)  # what has no name can't be kept


def test_only_allowed_hosts_and_near_boxes_are_served(server: FaultyServer, gateway: Gateway, tmp_path: Path) -> None:
    host, port = server.address
    for url in (f"http://localhost:{port}/bucket/big", f"http://{host}:{port + 1}/x", f"https://{host}:{port}/bucket/big"):
        assert get(gateway, url).status == 421
    for target in ("/", "/http", "/ftp/127.0.0.1:1/x", "/_storage_says", "/http/127.0.0.1:1@evil:1/x", f"//{host}:{port}/x"):
        assert raw(gateway, f"GET {target} HTTP/1.1").split()[1] in (b"421", b"404"), target
    assert get(gateway, server.presign("GET", "big"), method="PUT").status == 405
    assert get(gateway, server.presign("GET", "big"), method="HEAD").status == 405
    assert server.storage_requests() == []
    assert raw(gateway, "GET /healthz HTTP/1.1").endswith(b"axomsync gateway\n")
    far = Gateway(tmp_path / "far", [server.endpoint], near=["10.0.0.0/8"])
    far.edit("127.0.0.0/8 1;", "")
    with far:
        assert get(far, server.presign("GET", "big")).status == 421
    assert server.storage_requests() == []


def raw(gateway: Gateway, line: str, host: str = "gateway") -> bytes:
    """Send a request line as it is."""
    address, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((address, int(port)), timeout=10) as connection:
        connection.sendall(f"{line}\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


class Echo:
    """Storage that answers with the target of each request, and keeps the heads."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @contextmanager
    def running(self) -> Iterator["Echo"]:
        threading.Thread(target=self._serve, daemon=True).start()
        yield self
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += connection.recv(65536)
                self.heads.append(head.decode("utf-8", "surrogateescape"))
                first = b"bytes=0-0" in head
                extent = b"bytes 0-0/4" if first else b"bytes 0-3/4"
                body = b"t" if first else b"tada"
                connection.sendall(
                    b'HTTP/1.1 206 Ok\r\nETag: "e"\r\nX-Accel-Redirect: /healthz\r\nSet-Cookie: a=b\r\n'
                    b"Cache-Control: no-store\r\n"
                    b"Vary: *\r\nContent-Range: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
                    % (extent, len(body), body)
                )


@pytest.mark.parametrize(
    "target",
    ["/b/a+b?x=a+b", "/b/a%20b", "/b/a%2Fb?s=%2F%3D", "/b//c///d", "/b/./c/../d?e", "/b/é?ö=ü", "/b/%C3%A9", "/b/a;b=c,d'e",
     "/b/%E2%82%AC%2f..%2F", "/b/k?", "/b/k?a=1&a=2&X-Amz-Signature=x?y/z"],
)  # fmt: skip
def test_storage_gets_the_target_byte_for_byte(tmp_path: Path, target: str) -> None:
    with Echo().running() as storage, Gateway(tmp_path / "gateway", [storage.endpoint]) as gateway:
        for _ in range(2):
            assert (
                get(gateway, f"{storage.endpoint}{target}", 0, 4, Cookie="a=b", X_Other="1", Authorization="x").body
                == b"tada"
            )
        assert [head.split(" ")[1] for head in storage.heads] == [target] * 3  # it is cached whatever its headers say
        for head in storage.heads:
            names = {line.partition(":")[0].lower() for line in head.split("\r\n")[1:] if line}
            assert names <= {"host", "accept-encoding", "user-agent", "range", "if-match"}
            assert f"Host: {storage.endpoint.removeprefix('http://')}\r\n" in head


def test_a_store_that_ignores_ranges_is_not_hidden(server: FaultyServer, gateway: Gateway) -> None:
    server.replace("small", Content(5000, seed=9))
    server.inject(Fault(ignores_range=True), times=FOREVER)
    reply = get(gateway, server.presign("GET", "small"), 1000, 2000)
    assert reply.body in (Content(5000, seed=9).read(), Content(5000, seed=9).read(1000, 2000))


def test_an_origin_that_is_down_is_told_as_such(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with Gateway(tmp_path / "gateway", [nobody]) as gateway:
        assert get(gateway, f"{nobody}/bucket/k?X-Amz-Signature=1").status == 502
        assert "Signature" not in gateway.all_logged()
