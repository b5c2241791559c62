"""A relay that records every request to storage, and how many bytes of the answer were sent.

Reads along over HTTP/1.1 as the agent speaks it: a request's head arrives in one piece, and its answer comes before the next
request. A connection that breaks leaves a record of the bytes that were sent.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from axomsync.sandbox.relay import Direction, Link, Relay

END_OF_HEAD = b"\r\n\r\n"


@dataclass(slots=True)
class Request:
    """One request to storage; header names are lower case. `target` is a signed URL without its host: a secret."""

    method: str
    target: str
    headers: dict[str, str]
    status: int | None = None
    sent: int = 0  # bytes of the answer's body

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def first(self) -> int:
        """Position in the object of the first byte that is sent."""
        return int(self.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0])

    @property
    def brings_data(self) -> bool:
        return self.method == "GET" and self.status in (200, 206)


@dataclass(slots=True)
class _Reading:
    """The state of one connection."""

    request: Request | None = None
    body_left: int = 0  # of the request, still to come
    answer_head: bytearray | None = field(default_factory=bytearray)  # None once it is complete


class RecordingRelay(Relay):
    """A relay that keeps its `requests`, oldest first; they are safe to read while it runs."""

    def __init__(self, target: tuple[str, int], *, rate: float | None = None) -> None:
        super().__init__(target, rate=rate)
        self.requests: list[Request] = []
        self._readings: dict[Link, _Reading] = {}

    def passing(self, link: Link, direction: Direction, data: memoryview) -> int:
        reading = self._readings.setdefault(link, _Reading())
        if direction is Direction.DOWN:
            self._read_answer(reading, data)
        elif reading.body_left:
            reading.body_left -= len(data)
        else:
            self._read_request(reading, bytes(data))
        return len(data)

    def closed(self, link: Link) -> None:
        self._readings.pop(link, None)

    def _read_request(self, reading: _Reading, data: bytes) -> None:
        head, _, body = data.partition(END_OF_HEAD)
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        reading.body_left = int(headers.get("content-length", 0)) - len(body)
        reading.request, reading.answer_head = Request(method, target, headers), bytearray()
        self.requests.append(reading.request)

    def _read_answer(self, reading: _Reading, data: memoryview) -> None:
        request = reading.request
        if request is None:
            return
        if reading.answer_head is None:
            request.sent += len(data)
            return
        reading.answer_head += data
        head, end, body = reading.answer_head.partition(END_OF_HEAD)
        if end:
            request.status, request.sent = int(head.split(b" ", 2)[1]), len(body)
            reading.answer_head = None


def sent_bytes(requests: Iterable[Request]) -> int:
    """Return the bytes of objects that these requests brought."""
    return sum(request.sent for request in requests if request.brings_data)


def distinct_bytes(requests: Iterable[Request]) -> int:
    """Return `sent_bytes` with each byte of an object counted once.

    A first byte that is asked for alone does not count: it only shows that the object is still the same.
    """
    total, path, position = 0, "", 0
    for request in sorted(
        (r for r in requests if r.brings_data and (r.first, r.sent) != (0, 1)), key=lambda r: (r.path, r.first)
    ):
        if request.path != path:
            path, position = request.path, 0
        end = request.first + request.sent
        total += max(0, end - max(position, request.first))
        position = max(position, end)
    return total
