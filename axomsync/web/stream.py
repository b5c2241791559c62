"""Server-sent events: a client gets each part of the page when it changes, at most once a second.

Without clients nothing is read. All clients share one reading; a slow client gets the newest state when it is ready: nothing
is queued. Failures handled: too many clients (503), a client that has gone or no longer reads (dropped), a ledger that
can't be read, and any other failure to read or to write down the facts (told to the clients, and tried again).
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from axomsync.core.errors import Bug
from axomsync.core.oserrors import unforeseen
from axomsync.core.text import printable
from axomsync.web.facts import Facts, as_json

log = logging.getLogger(__name__)

WATCHERS_MOST = 16
TURN_SECONDS = 1.0
REFRESH_SECONDS = 10.0  # free space and the chart change without a change of the ledger
PING_SECONDS = 15.0  # keeps proxies from closing a silent connection
SEND_PATIENCE_SECONDS = 30.0
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"x-accel-buffering", b"no"),  # so that nginx passes each event on at once
]


class Stream:
    """The ASGI application behind `/api/events`."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._watchers = 0
        self._reading: asyncio.Task[None] | None = None
        self._parts: dict[str, tuple[int, bytes]] = {}  # with the turn of its last change
        self._turn = 0
        self._news = asyncio.Event()  # a new one each turn
        self._bug: str | None = None  # the one that was logged
        self._ended = False

    def end(self) -> None:
        """Disconnect all clients, since the server stops."""
        self._ended = True
        self._news.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._watchers >= WATCHERS_MOST or self._ended:
            busy = PlainTextResponse("too many clients\n", 503, {"Retry-After": "30"})
            await busy(scope, receive, send)
            return
        self._watchers += 1
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        gone = asyncio.create_task(_departure(receive))
        try:
            await _send(send, {"type": "http.response.start", "status": 200, "headers": HEADERS})
            if scope["method"] == "GET":
                async for piece in self._pieces(gone):
                    await _send(send, {"type": "http.response.body", "body": piece, "more_body": True})
            await _send(send, {"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:  # it no longer reads; an unfinished answer makes uvicorn close the connection
            pass
        finally:
            gone.cancel()
            self._watchers -= 1
            if not self._watchers:
                self._rest()

    async def _pieces(self, gone: "asyncio.Task[None]") -> AsyncIterator[bytes]:
        yield b"retry: 2000\n\n"
        seen = -1
        while not gone.done() and not self._ended:
            fresh = [(name, data) for name, (turn, data) in self._parts.items() if turn > seen]
            news, seen = self._news, self._turn
            if fresh:
                yield b"".join(b"event: %s\ndata: %s\n\n" % (name.encode(), data) for name, data in fresh)
            waiting = asyncio.create_task(news.wait())
            await asyncio.wait({waiting, gone}, timeout=PING_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                waiting.cancel()
                yield b": still here\n\n"

    async def _read(self) -> None:
        version: tuple[object, ...] = ()
        refresh_at = 0.0
        while True:
            parts: dict[str, bytes] = {}
            try:
                now_at = await run_in_threadpool(self._facts.version)
                if now_at != version or time.monotonic() >= refresh_at:
                    version, refresh_at = now_at, time.monotonic() + REFRESH_SECONDS
                    sections = {"fault": None, **await run_in_threadpool(self._facts.sections)}
                    parts = {name: as_json(part) for name, part in sections.items()}
                    self._bug = None
            except Exception as error:  # noqa: BLE001  # whatever it is, a page that stands still must say so
                version, parts = (), {"fault": as_json(self._words(error))}
            self._show(parts)
            await asyncio.sleep(TURN_SECONDS)

    def _words(self, error: Exception) -> str:
        """The reason why nothing can be shown; the traceback of a bug is logged once."""
        failure = unforeseen(error)
        words = printable(str(failure))
        if isinstance(failure, Bug) and words != self._bug:
            self._bug = words
            log.error("the page: a bug was met", exc_info=error)
        return words

    def _show(self, parts: dict[str, bytes]) -> None:
        changed = {name: data for name, data in parts.items() if self._parts.get(name, (0, b""))[1] != data}
        if not changed:
            return
        self._turn += 1
        self._parts.update({name: (self._turn, data) for name, data in changed.items()})
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _rest(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        self._reading, self._parts = None, {}


async def _departure(receive: Receive) -> None:
    with suppress(asyncio.CancelledError):
        while (await receive())["type"] != "http.disconnect":
            pass


async def _send(send: Send, message: Message) -> None:
    async with asyncio.timeout(SEND_PATIENCE_SECONDS):
        await send(message)
