"""PUT of a body that is sent at once, by the Rust client itself: a third of the CPU time that httpx takes for it.

Failures handled: a host whose addresses changed (it is resolved again), an answer whose body never ends or comes slowly
(given up after a while), an answer that is not HTTP (`Transient`). Errors of the network are the transport's own.
"""

import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import httpx
from pyreqwest.exceptions import ConnectError
from pyreqwest.response import SyncResponse

from axomsync.core.bounded_call import BoundedCall, Late
from axomsync.core.errors import Transient
from axomsync.core.turns import TURNS
from axomsync.storage.connections import NO_HTTP, RustClients
from axomsync.transport.http import is_plain


@dataclass(frozen=True)
class ShortAnswer:
    """An answer, with the connection that its body is still read from. `document` must be called once."""

    status: int
    headers: httpx.Headers
    _response: SyncResponse
    _connection: ExitStack

    def document(self, most: int, seconds: float) -> bytes:
        """Read about `most` bytes of the body within `seconds`, and free the connection. Raises `httpx.ReadTimeout`."""
        if self.headers.get("Content-Length") == "0":
            self._connection.close()
            return b""
        late = httpx.ReadTimeout(f"the answer took more than {seconds:g} s")
        # The client's own limit is the long one for the answer. A read can't be ended from here, so it gets a thread, which
        # waits for one piece more at the longest.
        try:
            return BoundedCall(partial(self._read, most, time.monotonic() + seconds, late), seconds, "answer").result()
        except Late:
            raise late from None

    def _read(self, most: int, ends: float, late: httpx.ReadTimeout) -> bytes:
        with self._connection:
            text, reader = b"", self._response.body_reader
            while len(text) < most and (chunk := reader.read_chunk()) is not None:
                text += chunk
                if time.monotonic() > ends:
                    raise late
            return text


def put_short(clients: RustClients, url: str, body: bytes, headers: dict[str, str]) -> ShortAnswer:
    """Send the body; returns the answer before its body is read. Raises `Transient`, `PyreqwestError`, `httpx.HTTPError`."""
    if not is_plain(url):  # Rust and Python may read it differently, so that another host is judged than is asked
        url = str(httpx.URL(url))
    connection = ExitStack()
    request = clients.leading_to(url).put(url).headers(headers).body_bytes(body)
    exchange = request.streamed_read_buffer_limit(0).build_streamed()  # else it would wait for the body of the answer
    try:
        with TURNS.lent():
            response = connection.enter_context(exchange)
    except ConnectError:
        clients.forget_addresses(url)
        raise
    except ValueError:
        raise Transient(NO_HTTP) from None
    return ShortAnswer(response.status, httpx.Headers(list(response.headers.items())), response, connection)
