"""An end for each answer that httpx waits for: its own limits begin anew with each byte, so a slow answer would never end.

httpcore hands the limit for reads down to the socket as it was given. So a `Deadline` takes its place in a request's
`timeout`, and the streams of `limited` transports ask it before each read: headers, bodies, and what a proxy says before.

Failures handled: an answer that comes slowly (`httpx.ReadTimeout` at its end), a SOCKS proxy that says nothing, for which
httpcore knows no limit.
"""

import math
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpcore
import httpx

from axomsync.core.turns import TURNS

HANDSHAKE_SECONDS = 30.0  # for each word of a SOCKS proxy


class Deadline:
    """The end of one answer: `seconds` from now, or from `renew`, and a `silence` that no byte may exceed, in seconds."""

    def __init__(self, seconds: float, *, silence: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._silence = math.inf if silence is None else silence
        self.renew()

    def renew(self) -> None:
        """Begin anew."""
        self._ends, self._heard = self._clock() + self._seconds, False

    def renewed_by(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the pieces of a body, and begin anew with each: an answer is due when the last one was sent."""
        for piece in pieces:
            yield piece
            self.renew()

    def read(self, read: Callable[[float], bytes]) -> bytes:
        """Call `read` with the seconds that it may take. Raises `httpcore.ReadTimeout`, in words if an answer began."""
        left = self._ends - self._clock()
        if left <= 0:
            raise self._over()
        try:
            received = read(min(left, self._silence))
        except httpcore.ReadTimeout as silence:
            raise self._over() if self._heard and left <= self._silence else silence from None
        self._heard = True
        return received

    def _over(self) -> httpcore.ReadTimeout:
        return httpcore.ReadTimeout(f"the answer took more than {self._seconds:g} s")


def limited(transport: httpx.HTTPTransport, network: httpcore.NetworkBackend | None = None) -> httpx.HTTPTransport:
    """Have a transport of httpx respect deadlines; `network` makes its connections. It must not have any yet."""
    # httpx passes no network backend on.
    transport._pool._network_backend = _Network(network or httpcore.SyncBackend())
    return transport


class _Network(httpcore.NetworkBackend):
    def __init__(self, inner: httpcore.NetworkBackend) -> None:
        self._inner = inner

    def connect_tcp(self, *arguments: Any, **named: Any) -> httpcore.NetworkStream:
        with TURNS.lent():
            return _Stream(self._inner.connect_tcp(*arguments, **named))

    def connect_unix_socket(self, *arguments: Any, **named: Any) -> httpcore.NetworkStream:
        return _Stream(self._inner.connect_unix_socket(*arguments, **named))

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | Deadline | None = None) -> bytes:
        with TURNS.lent():
            if isinstance(timeout, Deadline):
                return timeout.read(lambda seconds: self._inner.read(max_bytes, seconds))
            return self._inner.read(max_bytes, HANDSHAKE_SECONDS if timeout is None else timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, HANDSHAKE_SECONDS if timeout is None else timeout)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        with TURNS.lent():
            return _Stream(self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
