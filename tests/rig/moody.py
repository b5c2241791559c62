"""A storage that misbehaves on the wire: a real HTTP server before the real object store, with a mood for each PUT.

It stands where the sandbox's relay stands (`Sandbox(relay_class=MoodyStorage)`), so presigned URLs are signed for it. Moods
are queued for names; a PUT whose key ends in that name takes the next one, and without one it is passed on faithfully.
"""

import http.client
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import unquote, urlsplit


@dataclass(slots=True)
class Mood:
    """What becomes of one PUT.

    `stores` says whether the object store gets it. Then comes the answer: the store's own, or `status` with `headers` and
    `body`; or, when `hangs_up`, none at all. `hold` is waited for before the answer; `early` answers before the body has
    been read, and closes.
    """

    status: int | None = None
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    stores: bool = False
    hangs_up: bool = False
    early: bool = False
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
        self._moods: dict[str, deque[Mood]] = defaultdict(deque)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, target))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="moody", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
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
            if mood.early:
                self.close_connection = True
                self._answer(put, mood.status or 500, mood.headers, mood.body)
                return
            data = self.rfile.read(int(self.headers["Content-Length"]))
            status, headers, body = self._store(put, data) if mood.stores else (500, {}, b"")
            if mood.hold is not None:
                mood.hold.wait(60)
            if mood.hangs_up:
                self.close_connection = True
            elif mood.status is not None:
                self._answer(put, mood.status, mood.headers, mood.body)
            else:
                self._answer(put, status, headers, body)

        def _store(self, put: Put, data: bytes) -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection(*target, timeout=30)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            connection.request("PUT", self.path, data, headers)
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
            put.stored = answer.status == 200
            return answer.status, {"ETag": answer.headers["ETag"]} if answer.headers["ETag"] else {}, body

        def _answer(self, put: Put, status: int, headers: dict[str, str], body: bytes) -> None:
            put.status = status
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (http.server's name)
            pass

    return Handler
