"""uvicorn with the limits that a page for a few people needs, and without its ten turns a second.

Failures handled: more connections than `CONNECTIONS_MOST` (whoever has asked for nothing for longest makes room, so that a
probe is answered whatever others hold open; only when all are being answered the newest is closed), a client that connects
and asks for nothing, or never ends its request (closed after `IDLE_SECONDS`), headers beyond `HEADERS_MOST` (400), a client
that comes while the server ends (closed, so that it waits for nothing). A client that does not read is sent no more than
the socket holds.
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
ACCEPT_TURNS = 3  # of the loop, that a connection takes until it is made, and one more


class Connection(H11Protocol):
    """One connection, which has to be asking for something or ends."""

    idle_since = 0.0  # by the loop's clock
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """One of too many, it takes the place of the one that has been idle for longest."""
        super().connection_made(transport)
        self._expect_request()
        # One that is aborted stays among the connections until the loop's next turn.
        living = [c for c in self.connections if isinstance(c, Connection) and not c.transport.is_closing()]
        if len(living) > CONNECTIONS_MOST:
            idle = (connection for connection in living if connection.is_idle)
            min(idle, key=lambda connection: connection.idle_since, default=self).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the patience, too."""
        super().connection_lost(exc)
        if self._patience is not None:
            self._patience.cancel()

    def on_response_complete(self) -> None:
        """Another request may follow."""
        super().on_response_complete()
        self._expect_request()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being answered."""
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
    """Any thread may `end` it."""

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
                date_header=False,  # uvicorn's is renewed by its turns; the guard adds one
                proxy_headers=False,
                h11_max_incomplete_event_size=HEADERS_MOST,
                timeout_keep_alive=int(IDLE_SECONDS),
                timeout_graceful_shutdown=STOP_SECONDS,
            )
        )
        # What a client sends wrong is its own business, and must not fill the log.
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
        """Wait, where uvicorn looks around ten times a second."""
        self._loop = asyncio.get_running_loop()
        await self.on_tick(0)
        if not self.should_exit:
            await self._end.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Streams would not end by themselves."""
        self._stream.end()
        # asyncio forgets, and leaves open, a connection that it has not finished accepting when its server closes.
        for listener in (listener for server in self.servers for listener in server.sockets):
            asyncio.get_running_loop().remove_reader(listener)
        for _ in range(ACCEPT_TURNS):
            await asyncio.sleep(0)
        await super().shutdown(sockets)

    def end(self) -> None:
        """Come to an end soon."""
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._end.set)
