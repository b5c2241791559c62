"""A relay that writes down what it relays as HTTP, and cuts answers or bodies at an exact byte.

h11 reads along on both directions; the bytes themselves pass untouched. What is not HTTP is relayed and not recorded.
"""

import threading
import time
from dataclasses import dataclass, field
from urllib.parse import unquote

import h11

from axomsync.sandbox.console import Sandbox
from axomsync.sandbox.relay import Direction, Link, Relay


@dataclass(slots=True)
class StorageRequest:
    """One request as storage saw it. Times are `time.monotonic()`; header names are lower case.

    `body_sent` is how many bytes of the answer's body went towards the client, `body_received` those of the request's.
    """

    method: str
    path: str  # decoded, without the query
    query: str
    headers: dict[str, str]
    at: float
    status: int | None = None
    answered_at: float | None = None
    body_received: int = 0
    body_sent: int = 0
    ended_at: float | None = None  # None while it runs, and for ever when the connection broke first
    was_cut: bool = False

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


@dataclass(slots=True)
class Cut:
    """Break off `times` requests after exactly `after` body bytes: the answer's for a GET, the request's for a PUT."""

    after: int
    method: str
    path: str
    times: int


@dataclass(slots=True)
class _Reading:
    """Both directions of one connection, read along."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    client: h11.Connection = field(default_factory=lambda: h11.Connection(h11.SERVER))
    server: h11.Connection = field(default_factory=lambda: h11.Connection(h11.CLIENT))
    current: StorageRequest | None = None
    cut: Cut | None = None
    is_http: bool = True


class RecordingRelay(Relay):
    """`requests` are oldest first. Safe to read while it runs; `clear()` forgets them."""

    def __init__(self, target: tuple[str, int], *, rate: float | None = None) -> None:
        super().__init__(target, rate=rate)
        self.requests: list[StorageRequest] = []
        self._cuts: list[Cut] = []
        self._readings: dict[Link, _Reading] = {}

    def clear(self) -> None:
        self.requests = []

    def cut(self, after: int, *, method: str = "GET", path: str = "", times: int = 1) -> None:
        """Break off the next `times` requests whose method is this and whose path contains that; GET or PUT.

        A request whose body has no more than `after` bytes is not cut, and not counted.
        """
        self._cuts.append(Cut(after, method, path, times))

    def passing(self, link: Link, direction: Direction, data: memoryview) -> int:
        reading = self._readings.setdefault(link, _Reading())
        with reading.lock:
            if not reading.is_http:
                return len(data)
            try:
                read = self._read_requests if direction is Direction.UP else self._read_answers
                return len(data) - read(reading, bytes(data))
            except h11.ProtocolError:
                reading.is_http = False
                return len(data)

    def closed(self, link: Link) -> None:
        self._readings.pop(link, None)

    def _read_requests(self, reading: _Reading, data: bytes) -> int:
        """Returns how many bytes at the end of `data` are not to pass."""
        reading.client.receive_data(data)
        while True:
            event = reading.client.next_event()
            match event:
                case h11.Request():
                    self._begin(reading, event)
                case h11.Data() if reading.current is not None:
                    reading.current.body_received += len(event.data)
                    if excess := self._excess(reading, "PUT", reading.current.body_received):
                        reading.current.body_received -= excess
                        return excess
                case h11.EndOfMessage():
                    # h11 waits for the answer that a server would give now; the real one is read on the other side.
                    reading.client.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                    reading.client.send(h11.EndOfMessage())
                    if reading.client.our_state is not h11.DONE:  # the client said `Connection: close`
                        return 0
                    reading.client.start_next_cycle()
                case _:
                    return 0

    def _read_answers(self, reading: _Reading, data: bytes) -> int:
        """Returns how many bytes at the end of `data` are not to pass."""
        reading.server.receive_data(data)
        while (request := reading.current) is not None:
            event = reading.server.next_event()
            match event:
                case h11.Response():
                    request.status, request.answered_at = event.status_code, time.monotonic()
                case h11.Data():
                    request.body_sent += len(event.data)
                    if excess := self._excess(reading, "GET", request.body_sent):
                        request.body_sent -= excess
                        return excess
                case h11.EndOfMessage():
                    request.ended_at = time.monotonic()
                    reading.current = None
                    if reading.server.our_state is h11.DONE:
                        reading.server.start_next_cycle()
                case h11.InformationalResponse():
                    continue
                case _:
                    return 0
        return 0

    def _begin(self, reading: _Reading, event: h11.Request) -> None:
        path, _, query = event.target.decode("ascii").partition("?")
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in event.headers}
        request = StorageRequest(event.method.decode("ascii"), unquote(path), query, headers, time.monotonic())
        reading.current = request
        reading.cut = next(
            (c for c in self._cuts if c.times and c.method == request.method and c.path in request.path), None
        )
        self.requests.append(request)
        # So that h11 knows how to frame the answer; the body of the real request is of no interest to it.
        reading.server.send(h11.Request(method=event.method, target=event.target, headers=[("host", "storage")]))
        reading.server.send(h11.EndOfMessage())

    def _excess(self, reading: _Reading, method: str, passed: int) -> int:
        """How many of the bytes seen so far lie behind the cut of this request. Bodies with a length only: those of a
        chunked body do not end where the data ends."""
        cut, request = reading.cut, reading.current
        if cut is None or request is None or cut.method != method or passed <= cut.after or not cut.times:
            return 0
        cut.times -= 1
        request.was_cut = True
        return passed - cut.after


def recording(sandbox: Sandbox) -> RecordingRelay:
    """The relay of a sandbox that a fixture made."""
    assert isinstance(sandbox.relay, RecordingRelay)
    return sandbox.relay
