"""uvicorn with limits for a page with few readers, and without its ten wake-ups a second.

Failures handled: more connections than `CONNECTIONS_MOST` (the one that is idle longest is closed, so that probes get an
answer; when all are being answered, the newest is closed), a client that connects and sends no request, or never ends it
(closed after `IDLE_SECONDS`), headers beyond `HEADERS_MOST` (400), a client that connects while the server ends (closed, so
that it does not wait). For a client that does not read, no more is buffered than the socket holds.
"""

import asyncio
import logging
import socket

from prometheus_client import CollectorRegistry
from uvicorn import Config
from uvicorn import Server as Uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from axomsync.config import listen_address
from axomsync.web.app import application
from axomsync.web.facts import Facts
from axomsync.web.stream import Stream

CONNECTIONS_MOST = 64
HEADERS_MOST = 16 * 1024  # bytes, the request line included
IDLE_SECONDS = 20.0
STOP_SECONDS = 2
ACCEPT_TURNS = 3  # turns of the loop until a connection is set up, and one more


class Connection(H11Protocol):
    """One connection; it is closed when it sends no request for `IDLE_SECONDS`."""

    idle_since = 0.0  # by the loop's clock
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Set up; with too many connections, close the one that is idle longest."""
        super().connection_made(transport)
        self._expect_request()
        # An aborted connection stays in the list until the loop's next turn.
        living = [c for c in self.connections if isinstance(c, Connection) and not c.transport.is_closing()]
        if len(living) > CONNECTIONS_MOST:
            idle = (connection for connection in living if connection.is_idle)
            min(idle, key=lambda connection: connection.idle_since, default=self).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Also cancel the timer."""
        super().connection_lost(exc)
        if self._patience is not None:
            self._patience.cancel()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._expect_request()

    @property
    def is_idle(self) -> bool:
        """True while no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _expect_request(self) -> None:
        self.idle_since = self.loop.time()
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self.loop.call_later(IDLE_SECONDS, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self.is_idle:
            self.transport.close()


class Server(Uvicorn):
    """The server; any thread may `end` it."""

    def __init__(self, facts: Facts, metrics: CollectorRegistry, token: str | None) -> None:
        self._facts, self._stream = facts, Stream(facts)
        host, _ = listen_address(facts.settings.web.listen)
        names = {host.lower(), *facts.settings.web.names}
        app = application(facts, self._stream, metrics, names, token)
        super().__init__(
            Config(
                app,
                loop="asyncio",
                http=Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,  # uvicorn's needs its wake-ups; the guard adds one
                proxy_headers=False,
                h11_max_incomplete_event_size=HEADERS_MOST,
                timeout_keep_alive=int(IDLE_SECONDS),
                timeout_graceful_shutdown=STOP_SECONDS,
            )
        )
        # A client's errors are its own; they must not fill the log.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        self._end = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until `end` is called."""
        try:
            super().run(sockets)
        finally:
            self._facts.ledger.close()

    async def main_loop(self) -> None:
        """Wait for `end`; uvicorn's own loop wakes up ten times a second."""
        self._loop = asyncio.get_running_loop()
        await self.on_tick(0)
        if not self.should_exit:
            await self._end.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams too, which would not end by themselves."""
        self._stream.end()
        # asyncio leaves a connection open that it has not finished accepting when its server closes.
        for listener in (listener for server in self.servers for listener in server.sockets):
            asyncio.get_running_loop().remove_reader(listener)
        for _ in range(ACCEPT_TURNS):
            await asyncio.sleep(0)
        await super().shutdown(sockets)

    def end(self) -> None:
        """End soon."""
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._end.set)
