"""A storage that misbehaves on the wire: a real HTTP server before the real object store, with a mood for each PUT.

It stands where the sandbox's relay stands (`Sandbox(relay_class=MoodyStorage)`), so presigned URLs are signed for it. Moods
are queued for names; a PUT whose key ends in that name takes the next one, and without one it is passed on faithfully.
"""

import http.client
import os
import socket
import struct
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, Self
from urllib.parse import unquote, urlsplit


def nothing(length: int) -> int:
    """None of it."""
    return 0


def the_whole(length: int) -> int:
    """All of it."""
    return length


@dataclass(slots=True)
class Mood:
    """What becomes of one PUT.

    `reads` says how much of the body is read, by its length. `stores` says whether the object store gets it, which needs all
    of it. Then comes the answer: the store's own, or `status` with `headers` and `body`; as much of its bytes as `says`
    says. `hold` is waited for before it. In the end the connection is kept for the next request, or as `ends` says it is
    closed, reset, or left open without a further byte in either direction.
    """

    status: int | None = None
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    stores: bool = False
    reads: Callable[[int], int] = the_whole
    says: Callable[[int], int] = the_whole
    ends: Literal["kept", "closed", "reset", "stalled"] = "kept"
    hold: threading.Event | None = None


def refusal(status: int, code: str, message: str = "no", **headers: str) -> Mood:
    """S3's way to say no."""
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'.encode()
    return Mood(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


@dataclass(slots=True)
class Put:
    """One PUT as it came. Times are `time.monotonic()`."""

    path: str  # decoded, without the query
    at: float
    headers: dict[str, str]  # lower-case names
    stored: bool = False
    status: int | None = None  # None while it is held, and for ever when there was no answer


class MoodyStorage:
    """Serves from `start()` to `stop()`; a context manager. `puts` are oldest first."""

    rate: float | None = None  # part of a relay's interface; this one has no speed

    def __init__(self, target: tuple[str, int], *, rate: float | None = None) -> None:
        self.puts: list[Put] = []
        self.gone = threading.Event()  # ends what is stalled
        self._moods: dict[str, deque[Mood]] = defaultdict(deque)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, target))
        self._server.daemon_threads = True
        self._server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # so that not reading holds the client up
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="moody", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gone.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def be(self, name: str, *moods: Mood) -> None:
        """The next PUTs of `name` take these moods, one each."""
        self._moods[name].extend(moods)

    def mood(self, path: str) -> Mood:
        """Takes the mood that is next for a path."""
        moods = self._moods.get(path.rpartition("/")[2])
        return moods.popleft() if moods else Mood(stores=True)

    def puts_of(self, name: str) -> list[Put]:
        return [put for put in self.puts if put.path.endswith(f"/{name}")]


def _handler(storage: MoodyStorage, target: tuple[str, int]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            put = Put(unquote(urlsplit(self.path).path), time.monotonic(), {k.lower(): v for k, v in self.headers.items()})
            storage.puts.append(put)
            mood = storage.mood(put.path)
            length = int(self.headers["Content-Length"])
            data = self.rfile.read(mood.reads(length))
            status, headers, body = self._store(put, data) if mood.stores else (500, {}, b"")
            if mood.hold is not None:
                mood.hold.wait(60)
            if mood.status is not None:
                status, headers, body = mood.status, mood.headers, mood.body
            self.close_connection = mood.ends != "kept" or len(data) < length
            if self.close_connection:  # said, or the client may lose another body on this connection
                headers = {**headers, "Connection": "close"}
            self._answer(put, status, headers, body, mood.says)
            if mood.ends == "stalled":
                storage.gone.wait(60)
            if mood.ends == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                os.close(self.connection.detach())

        def _store(self, put: Put, data: bytes) -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection(*target, timeout=30)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            connection.request("PUT", self.path, data, headers)
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
            put.stored = answer.status == 200
            return answer.status, {"ETag": answer.headers["ETag"]} if answer.headers["ETag"] else {}, body

        def _answer(self, put: Put, status: int, headers: dict[str, str], body: bytes, says: Callable[[int], int]) -> None:
            lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
            lines += [f"{name}: {value}" for name, value in {**headers, "Content-Length": str(len(body))}.items()]
            whole = "\r\n".join([*lines, "", ""]).encode() + body
            said = whole[: says(len(whole))]
            put.status = status if said == whole else None
            with suppress(ConnectionError):
                self.wfile.write(said)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (http.server's name)
            pass

    return Handler
