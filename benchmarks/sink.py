"""Storage that keeps nothing: it takes PUTs over http on loopback, hashes what they bring, and remembers only that."""

import hashlib
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import quote, unquote

PIECE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Arrival:
    """One PUT that came whole."""

    key: str
    size: int
    sha256: str
    last: bytes  # its last byte
    at: float  # monotonic seconds


class Sink:
    """From entering to leaving the context. `grant` is what a `Console` is to be given; `arrivals` are in their order.

    Each answer takes `away` seconds.
    """

    def __init__(self, away: float = 0.0) -> None:
        self.away = away
        self.arrivals: list[Arrival] = []
        self._granted = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def grant(self, filename: str) -> tuple[str, str]:
        """A new key for a file, and the link to PUT it to."""
        self._granted += 1
        key = f"{self._granted}/{filename}"
        return key, f"http://127.0.0.1:{self._server.server_port}/{quote(key)}"


def _handler(sink: Sink) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_PUT(self) -> None:
            left = size = int(self.headers["Content-Length"])
            digest, buffer, last = hashlib.sha256(), memoryview(bytearray(min(PIECE, max(size, 1)))), b""
            while left:
                count = self.rfile.readinto(buffer[:left])
                if not count:
                    self.close_connection = True
                    return
                digest.update(buffer[:count])
                last = bytes(buffer[count - 1 : count])
                left -= count
            time.sleep(sink.away)
            sink.arrivals.append(Arrival(unquote(self.path)[1:], size, digest.hexdigest(), last, time.monotonic()))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.send_header("ETag", f'"{digest.hexdigest()[:32]}-1"')  # as of an upload in parts: no MD5
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return Handler
