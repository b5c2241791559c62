"""A byte-level TCP relay between clients and the sandbox's object store, where speed and outages are made.

Owns the address that presigned URLs are signed for, and every connection to it. Bytes pass untouched, so the Host
header and with it the SigV4 signature stay valid.

Failures made on purpose: a rate per connection down to a stall, cut connections, a shut port. Failures handled: a store
that is down or comes back (clients see a reset, then a working connection), either side vanishing in mid-stream.
"""

import socket
import struct
import threading
import time
from enum import Enum
from typing import Self

from axomsync.sandbox.reserved_port import ReservedPort

# One read at most. On loopback fewer, larger pieces are what makes it fast: each costs two hand-overs of the GIL.
PIECE = 1 << 20

# At a limited rate a piece lasts about this long (seconds), which keeps the flow even and a changed rate prompt.
TICK = 0.05

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, zero seconds: close() sends RST


class Direction(Enum):
    UP = "up"  # from the client to the store
    DOWN = "down"


class Link:
    """One client connection and its twin to the store. `sent` counts the bytes handed on, by direction."""

    def __init__(self, client: socket.socket, upstream: socket.socket) -> None:
        self._client = client
        self._upstream = upstream
        self._lock = threading.Lock()
        self._pumping = 2
        self.is_cut = False
        self.sent = {Direction.UP: 0, Direction.DOWN: 0}

    def ends(self, direction: Direction) -> tuple[socket.socket, socket.socket]:
        """Return the two ends of a direction: the bytes come from the first and go to the second."""
        up = (self._client, self._upstream)
        return up if direction is Direction.UP else (up[1], up[0])

    def cut(self, *, reset: bool = True) -> None:
        """Break both connections off. Harmless on a closed link.

        A reset throws away bytes that are still on their way; without it, all sent bytes arrive before the end.
        """
        self.is_cut = True
        with self._lock:
            for end in (self._client, self._upstream):
                try:
                    if reset:
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                    end.shutdown(socket.SHUT_RDWR)  # wakes the pump that blocks in it; closing would not
                except OSError:
                    continue  # it is gone already

    def pump_ended(self) -> bool:
        """Note the end of one direction. After the second, close both ends and return True."""
        with self._lock:
            self._pumping -= 1
            if self._pumping:
                return False
            self._client.close()
            self._upstream.close()
            return True


class Relay:
    """Relays `127.0.0.1:<port>` to `target` from `start()` to `stop()`; a context manager.

    `rate` is in bytes per second for each connection and direction; None is unlimited, 0 a stall. Set it at any time.
    `accepted` counts connections since the start; `sent(direction)` counts bytes.
    """

    def __init__(self, target: tuple[str, int], *, rate: float | None = None) -> None:
        self.target = target
        self.rate = rate
        self.accepted = 0
        self._port = ReservedPort()
        self._listener: socket.socket | None = None
        self._accepting = threading.Event()
        self._stopped = False
        self._lock = threading.Lock()
        self._links: set[Link] = set()
        self._sent_by_closed = {Direction.UP: 0, Direction.DOWN: 0}
        self._acceptor: threading.Thread | None = None
        self._pumps: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        return self._port.endpoint

    @property
    def open_connections(self) -> int:
        return len(self._links)

    def sent(self, direction: Direction) -> int:
        """Bytes handed on in one direction, over all connections so far."""
        with self._lock:
            return self._sent_by_closed[direction] + sum(link.sent[direction] for link in self._links)

    def start(self) -> None:
        self.accept_again()
        self._acceptor = threading.Thread(target=self._accept, name="relay-accept", daemon=True)
        self._acceptor.start()

    def stop(self) -> None:
        """Close the port and cut open connections; returns when every thread has ended."""
        self._stopped = True
        self.stop_accepting()
        self._accepting.set()
        if self._acceptor is not None:
            self._acceptor.join()
        self.drop_connections()
        for pump in self._pumps:
            pump.join()
        self._port.close()

    def drop_connections(self) -> int:
        """Cut every open connection; returns how many there were."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.cut()
        return len(links)

    def stop_accepting(self) -> None:
        """New connections are refused; open ones go on."""
        self._accepting.clear()
        self._port.shut()

    def accept_again(self) -> None:
        if not self._accepting.is_set():
            self._listener = self._port.open()
            self._accepting.set()

    def passing(self, link: Link, direction: Direction, data: memoryview) -> int:
        """Hook: sees every piece before it is handed on. Returns how many bytes of it to hand on; if that is fewer than
        there are, the link is cut after them. Called by the two threads of a link, one a direction."""
        return len(data)

    def closed(self, link: Link) -> None:
        """Hook: both directions of a link have ended."""

    def _accept(self) -> None:
        while self._accepting.wait() and not self._stopped and self._listener is not None:
            try:
                client, _ = self._listener.accept()
            except OSError:
                # The port was shut, or descriptors ran out: neither may end the relay, nor make it spin.
                time.sleep(0.01)
                continue
            self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        self.accepted += 1
        try:
            upstream = socket.create_connection(self.target, timeout=5)
        except OSError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            client.close()
            return
        upstream.settimeout(None)
        for end in (client, upstream):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = Link(client, upstream)
        with self._lock:
            self._links.add(link)
        self._pumps = [pump for pump in self._pumps if pump.is_alive()]
        for direction in Direction:
            pump = threading.Thread(target=self._pump, args=(link, direction), name=f"relay-{direction.value}", daemon=True)
            pump.start()
            self._pumps.append(pump)

    def _pump(self, link: Link, direction: Direction) -> None:
        """Move one direction of one link until either end is done."""
        source, sink = link.ends(direction)
        piece, due = memoryview(bytearray(PIECE)), time.monotonic()
        try:
            while size := source.recv_into(piece[: self._read_size()]):
                allowed = self.passing(link, direction, piece[:size])
                sink.sendall(piece[:allowed])
                link.sent[direction] += allowed
                if allowed < size:
                    link.cut(reset=False)
                    break
                due = self._pace(link, size, due)
            else:
                sink.shutdown(socket.SHUT_WR)  # a half-closed connection stays half open
        except OSError:
            link.cut(reset=not link.is_cut)
        finally:
            if link.pump_ended():
                self._forget(link)

    def _pace(self, link: Link, size: int, due: float) -> float:
        """Sleep until `size` bytes more are due at the rate, after others were at `due`; return that time (monotonic).

        Sleeping for as long as they take would add the time of the moving, and a busy machine would lower the rate.
        """
        while self.rate == 0 and not link.is_cut:
            time.sleep(TICK)
        now = time.monotonic()
        if rate := self.rate:
            due = max(due, now - TICK) + size / rate
            time.sleep(max(0.0, due - now))
        return due

    def _read_size(self) -> int:
        rate = self.rate
        return PIECE if rate is None else max(1, min(PIECE, int(rate * TICK)))

    def _forget(self, link: Link) -> None:
        with self._lock:
            self._links.discard(link)
            for direction in Direction:
                self._sent_by_closed[direction] += link.sent[direction]
        self.closed(link)
