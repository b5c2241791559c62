"""The mirror through real gateways: each byte comes from storage once, and whatever a gateway does, the model is whole."""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from axomsync.core.errors import GatewayFault, Rejected
from axomsync.core.records import ModelState
from axomsync.storage.client import Storage
from tests.mirror.inprocess import MirrorHere
from tests.mirror.test_faults import published
from tests.rig.faults import FOREVER, Content, Fault, FaultyServer, s3_error
from tests.rig.gateway import SLICE, Gateway

MIB = 1 << 20
BIG = Content(5 * SLICE + 12_345, seed=1)
FILES = {
    "weights/big.bin": BIG,
    "a.bin": Content(SLICE + 1, seed=2),
    "config.json": Content(1234, seed=3),
    "empty": Content(0),
}
TOTAL = sum(content.size for content in FILES.values())
ASKED = 60  # bytes for questions, one each: more than there are requests


@pytest.fixture
def model_id(server: FaultyServer) -> str:
    return server.add_model("chassis", "v1", FILES)


def from_gateways(mirror: MirrorHere, model_id: str) -> int:
    return mirror.model(model_id).bytes_from_gateways


def test_four_boxes_cost_storage_one(tmp_path: Path, server: FaultyServer, ring: list[Gateway], model_id: str) -> None:
    boxes = [MirrorHere(tmp_path / f"box{number}", server) for number in range(4)]
    for number, box in enumerate(boxes):
        box.gateways, box.identity = [gateway.url for gateway in ring], f"box{number}"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(MirrorHere.sync, boxes))
    for box in boxes:
        published(box, model_id, FILES)
        assert from_gateways(box, model_id) == TOTAL
        assert box.ring.totals()["owner"] == TOTAL
        assert box.told == []
    assert server.sent() < TOTAL + 4 * ASKED
    slices = sum(-(-content.size // SLICE) for content in FILES.values())
    assert sum(len(gateway.cached()) for gateway in ring) == slices  # each at its owner, and nowhere else


def test_without_gateways_nothing_came_from_one(mirror: MirrorHere, model_id: str) -> None:
    mirror.sync()
    published(mirror, model_id, FILES)
    assert from_gateways(mirror, model_id) == 0
    assert sum(mirror.ring.totals().values()) == 0


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A gateway that is none: `serve` gets each connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=guarded, args=(connection,), daemon=True).start()

    def guarded(connection: socket.socket) -> None:
        try:
            with connection:
                serve(connection)
        except OSError:
            pass

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def answering(head: bytes, body: bytes = b"") -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 " + head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    return serve


def silent(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.recv(65536)


def closed(connection: socket.socket) -> None:
    connection.close()


def cutting(connection: socket.socket) -> None:
    connection.recv(65536)
    head = b"HTTP/1.1 206 P\r\nContent-Range: bytes 0-999/%d\r\nContent-Length: 1000\r\n\r\nabc" % BIG.size
    connection.sendall(head)


@pytest.mark.parametrize(
    "serve",
    [
        pytest.param(closed, id="closes"),
        pytest.param(answering(b"500 Oh"), id="500"),
        pytest.param(answering(b"502 Bad", b"<html>nginx</html>"), id="502"),
        pytest.param(answering(b"403 No", b"<html>nginx</html>"), id="403"),
        pytest.param(answering(b"404 No", b"<html>nginx</html>"), id="404"),
        pytest.param(answering(b"412 No"), id="412"),
        pytest.param(answering(b"421 No"), id="421"),
        pytest.param(answering(b"302 Go\r\nLocation: http://127.0.0.1:1/"), id="302"),
        pytest.param(answering(b"200 Ok\r\nContent-Type: text/html", b"<html>sign in</html>"), id="page"),
        pytest.param(answering(b"206 P\r\nContent-Range: bytes 7-9/10", b"abc"), id="another range"),
        pytest.param(lambda connection: connection.sendall(b"garbage\r\n\r\n"), id="garbage"),
        pytest.param(cutting, id="cut"),
        pytest.param(silent, id="silent"),
    ],
)
def test_a_gateway_that_fails_is_not_the_models_fault(
    server: FaultyServer, mirror: MirrorHere, model_id: str, serve: Callable[[socket.socket], None]
) -> None:
    with listening(serve) as bad:
        mirror.gateways, mirror.stall = [bad], 0.5
        mirror.sync()
        published(mirror, model_id, FILES)
        assert from_gateways(mirror, model_id) == 0
        assert mirror.ring.totals()["storage"] == TOTAL
        (told,) = mirror.told
        assert told.startswith(f"gateways: {bad}: ")
        assert told.endswith("; the next gateway, then storage, is asked instead")


def test_the_next_gateway_takes_over_for_one_that_is_down(
    server: FaultyServer, ring: list[Gateway], mirror: MirrorHere, model_id: str
) -> None:
    mirror.gateways = [gateway.url for gateway in ring]
    for gateway in ring[1:]:
        gateway.kill()
    mirror.sync()
    published(mirror, model_id, FILES)
    assert from_gateways(mirror, model_id) == TOTAL
    assert mirror.ring.totals()["storage"] == 0
    assert server.sent() < TOTAL + ASKED


def test_links_that_are_refused_through_a_gateway_are_asked_for_anew(
    server: FaultyServer, gateway: Gateway, mirror: MirrorHere, model_id: str
) -> None:
    mirror.gateways, mirror.lanes = [gateway.url], 1
    server.inject(Fault(first=server.revoke_urls), where=lambda request: request.start == SLICE)
    mirror.sync()
    published(mirror, model_id, FILES)
    assert mirror.told == []
    assert from_gateways(mirror, model_id) == TOTAL
    assert len(server.console_requests("/download")) == 2


def test_a_body_that_ends_since_the_link_has_expired_is_no_fault(
    server: FaultyServer, ring: list[Gateway], mirror: MirrorHere
) -> None:
    files = {f"{number}.bin": Content(SLICE * 3 // 2, seed=number) for number in range(4)}
    server.add_model("chassis", "v1", files)
    mirror.gateways = [gateway.url for gateway in ring]
    server.url_lifetime, server.rate = 2, 4.5 * MIB  # two slices take longer
    mirror.sync()
    (model,) = mirror.models()
    published(mirror, model.id, files)
    total = sum(content.size for content in files.values())
    assert (mirror.told, mirror.ring.totals()["owner"]) == ([], total)
    assert server.sent() < 1.02 * total


def test_a_key_that_may_not_read_gets_nothing_that_is_cached(
    tmp_path: Path, server: FaultyServer, gateway: Gateway, mirror: MirrorHere, model_id: str
) -> None:
    mirror.gateways = [gateway.url]
    mirror.sync()
    published(mirror, model_id, FILES)
    server.inject(s3_error(403, "AccessDenied", "Access Denied"), times=FOREVER)
    other = MirrorHere(tmp_path / "other", server)
    other.gateways = [gateway.url]
    other.sync()
    model = other.model(model_id)
    assert (model.state, model.bytes_done) == (ModelState.QUEUED, 0)
    assert "AccessDenied" in (model.reason or "")
    assert other.told == []  # the gateway is right


def test_slow_down_is_storages_word_and_no_gateway_is_left_for_it(
    server: FaultyServer, gateway: Gateway, mirror: MirrorHere, model_id: str
) -> None:
    mirror.gateways = [gateway.url]
    server.inject(s3_error(503, "SlowDown", "Please reduce your request rate."), times=4)
    mirror.sync()
    published(mirror, model_id, FILES)
    assert (mirror.told, mirror.ring.totals()["storage"]) == ([], 0)


def test_an_object_that_is_replaced_while_it_is_fetched_is_fetched_anew(
    server: FaultyServer, gateway: Gateway, mirror: MirrorHere, model_id: str
) -> None:
    mirror.gateways, mirror.lanes = [gateway.url], 2
    key, other = server.key_of(model_id, "weights/big.bin"), Content(BIG.size, seed=9)
    server.inject(Fault(first=lambda: server.replace(key, other)), where=lambda request: request.start == 2 * SLICE)
    mirror.sync()
    published(mirror, model_id, {**FILES, "weights/big.bin": other})
    assert mirror.told == []
    assert mirror.ring.totals()["storage"] == 0


def test_a_store_that_ignores_ranges_is_asked_directly(
    server: FaultyServer, gateway: Gateway, mirror: MirrorHere, model_id: str
) -> None:
    mirror.gateways = [gateway.url]
    server.inject(Fault(ignores_range=True), times=FOREVER)
    mirror.sync()
    published(mirror, model_id, FILES)
    assert mirror.told == []


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://169.254.169.254/latest?X-Amz-Signature=1", "machine credentials"),
        ("http://10.0.0.5/k?X-Amz-Signature=1", "plain http"),
        ("https://user:password@s3.example/k", "not a signed URL"),
        ("file:///etc/passwd", "not a signed URL"),
    ],
)
def test_no_gateway_is_asked_for_what_storage_would_not_be(url: str, reason: str) -> None:
    """A gateway may be anywhere and speak plain http, since a person named it; the console's URLs are judged as ever."""
    asked: list[bytes] = []
    with listening(lambda connection: asked.append(connection.recv(1))) as gateway:
        storage = Storage(stall=1.0, allow_http="169" in url)
        with pytest.raises(Rejected, match=reason), storage.get(url, 0, 1, 1, None, gateway):
            pass
        storage.close()
    assert asked == []


def test_doctor_greets_a_gateway_through_which_nothing_can_be_fetched_yet(gateway: Gateway) -> None:
    storage = Storage(stall=1.0)
    storage.greet(gateway.url)
    with (
        listening(answering(b"200 Ok", b"something else")) as other,
        pytest.raises(GatewayFault, match="answered 200, and not"),
    ):
        storage.greet(other)
    with pytest.raises(GatewayFault, match="connection refused"):
        storage.greet("http://127.0.0.1:9")
    storage.close()
