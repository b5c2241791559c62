import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from axomsync.sandbox.relay import Direction, Link, Relay
from tests.sandbox.test_objectstore import until


class Echo:
    """Sends back what it is sent, until its client has said everything."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RD)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._echo, args=self._listener.accept()[:1], daemon=True).start()

    def _echo(self, client: socket.socket) -> None:
        with suppress(OSError), client:
            while data := client.recv(1 << 16):
                client.sendall(data)


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.stop()


@pytest.fixture
def relay(echo: Echo) -> Iterator[Relay]:
    with Relay(echo.address) as relay:
        yield relay


def connect(relay: Relay) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(relay.endpoint.rpartition(":")[2])), timeout=10)


def exchange(client: socket.socket, data: bytes) -> bytes:
    """Send, say that this was all, and read to the end."""
    sender = threading.Thread(target=lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR)))
    sender.start()
    pieces = []
    while piece := client.recv(1 << 16):
        pieces.append(piece)
    sender.join()
    return b"".join(pieces)


def test_bytes_pass_untouched_and_are_counted(relay: Relay) -> None:
    data = os.urandom(3_000_001)
    with connect(relay) as one, connect(relay) as two:
        assert exchange(one, data) == data
        assert exchange(two, b"x") == b"x"
    until(lambda: relay.open_connections == 0)
    assert (relay.accepted, relay.sent(Direction.UP), relay.sent(Direction.DOWN)) == (2, 3_000_002, 3_000_002)


def test_the_rate_holds_in_both_directions_and_changes_while_running(relay: Relay) -> None:
    relay.rate = 200_000
    with connect(relay) as client:
        started = time.monotonic()
        client.sendall(bytes(100_000))
        until(lambda: relay.sent(Direction.DOWN) == 100_000)
        assert 0.4 < time.monotonic() - started < 2.0
        relay.rate = None
        assert len(exchange(client, bytes(5_000_000))) == 5_100_000
        assert time.monotonic() - started < 5.0


def test_a_rate_of_nothing_is_a_stall(relay: Relay) -> None:
    relay.rate = 0
    with connect(relay) as client:
        client.sendall(bytes(1000))
        time.sleep(0.3)  # a stall is that nothing happens, however long one looks
        assert relay.sent(Direction.DOWN) < 10
        relay.rate = None
        assert len(exchange(client, b"")) == 1000


@pytest.mark.parametrize("rate", [None, 0])
def test_open_connections_can_be_cut(relay: Relay, rate: float | None) -> None:
    with connect(relay) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        relay.rate = rate
        assert relay.drop_connections() == 1
        with suppress(ConnectionError):
            assert client.recv(1) == b""
        until(lambda: relay.open_connections == 0)
    relay.rate = None
    with connect(relay) as again:
        assert exchange(again, b"y") == b"y"


def test_a_cut_reaches_a_connection_that_nobody_reads(relay: Relay) -> None:
    with connect(relay) as client:
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.sendall(bytes(100 << 20))
        relay.drop_connections()
        until(lambda: relay.open_connections == 0)


def test_the_port_shuts_and_opens_at_the_same_address(relay: Relay) -> None:
    with connect(relay) as open_before:
        open_before.sendall(b"x")
        assert open_before.recv(1) == b"x"
        endpoint = relay.endpoint
        relay.stop_accepting()
        with pytest.raises(ConnectionRefusedError):
            connect(relay)
        assert exchange(open_before, b"y") == b"y"
    relay.accept_again()
    assert relay.endpoint == endpoint
    with connect(relay) as client:
        assert exchange(client, b"z") == b"z"


def test_a_store_that_is_down_is_a_broken_connection_and_not_a_broken_relay(relay: Relay, echo: Echo) -> None:
    target, relay.target = relay.target, ("127.0.0.1", 1)
    with suppress(ConnectionError), connect(relay) as client:  # the reset may come before connect() returns
        assert client.recv(1) == b""
    relay.target = target
    with connect(relay) as client:
        assert exchange(client, b"x") == b"x"


def test_the_hook_cuts_at_an_exact_byte(echo: Echo) -> None:
    class Cutting(Relay):
        def passing(self, link: Link, direction: Direction, data: memoryview) -> int:
            return len(data) if direction is Direction.UP else min(len(data), 700 - link.sent[direction])

    with Cutting(echo.address) as relay, connect(relay) as client:
        client.sendall(bytes(1000))
        received = 0
        with suppress(ConnectionError):
            while piece := client.recv(1000):
                received += len(piece)
        assert received == 700


def test_stopping_ends_every_thread(echo: Echo) -> None:
    relay = Relay(echo.address)
    relay.start()
    with connect(relay) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        relay.stop()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("relay-")]
