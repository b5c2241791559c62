"""The sandbox: the console's five calls over a real object store, for demos, tests and other people's CI.

`Sandbox` is the composition: the `FarSide`, and an HTTP server with the five calls under `/api` and the steering of
`axomsync.sandbox.admin` under `/_sandbox`.

Failures handled: an address in use (`OSError` from the constructor), a store that does not start (`ObjectStoreError`), a
file that no catalog has written (`NoCatalog`); the parts that run are stopped again. A console that is stopped for a while
comes back at the same address.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from axomsync.sandbox import admin, console_routes
from axomsync.sandbox.far_side import FarSide
from axomsync.sandbox.objectstore import ObjectStore
from axomsync.sandbox.relay import Relay
from axomsync.sandbox.reserved_port import ReservedPort

URL_LIFETIME = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class ConsoleRequest:
    method: str
    path: str  # with /api, without the query
    status: int
    at: float  # time.monotonic() when the answer was decided


class Sandbox(FarSide):
    """A console and its storage, from `start()` to `stop()`; a context manager. State in `folder` survives a restart.

    `url` is the base URL with `/api`, `key` has every scope. `store` is another sandbox's or a fixture's running store to
    share; without one, the sandbox runs its own. Lifetimes under a second are refused by S3.
    """

    def __init__(
        self,
        folder: Path,
        listen: tuple[str, int] = ("127.0.0.1", 0),
        url_lifetime: timedelta = URL_LIFETIME,
        rate: float | None = None,
        *,
        store: ObjectStore | None = None,
        relay_class: type[Relay] = Relay,
    ) -> None:
        super().__init__(folder, store or ObjectStore(folder / "store"), url_lifetime, rate)
        self.console_requests: deque[ConsoleRequest] = deque(maxlen=10_000)
        self._relay_class = relay_class
        self._own_store = store is None
        self._port = ReservedPort(*listen)
        self._server: _Server | None = None
        self._started = False
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"{self._port.endpoint}/api"

    @property
    def admin_url(self) -> str:
        return f"{self._port.endpoint}/_sandbox"

    def start(self) -> None:
        """Start store, relay and console. Raises `ObjectStoreError`. It starts once: after `stop()`, make a new sandbox."""
        if self._started:
            raise RuntimeError("a sandbox starts once")
        self._started = True
        with contextlib.ExitStack() as started:
            started.callback(self._port.close)
            if self._own_store:
                started.enter_context(self.store)
            self.relay = started.enter_context(self._relay_class(self.store.address, rate=self._rate))
            started.callback(self.stop_console)
            self.start_console()
            self._cleanup = started.pop_all()

    def stop(self) -> None:
        self._cleanup.close()

    def start_console(self) -> None:
        """Answer console calls, again at the same address after `stop_console()`."""
        if self._server is None:
            self._server = _Server(_app(self), self._port)

    def stop_console(self) -> None:
        """Refuse connections to the console; storage goes on."""
        if self._server is not None:
            self._server.stop()
            self._server = None


def serve(
    folder: Path,
    listen: tuple[str, int],
    url_lifetime: timedelta,
    rate: float | None,
    announce: Callable[[dict[str, str]], None],
    stop: threading.Event,
) -> None:
    """Run a sandbox until `stop` is set. `announce` is given `{console, key, storage, folder}` once it answers."""
    with Sandbox(folder, listen, url_lifetime, rate) as sandbox:
        facts = {"console": sandbox.url, "key": sandbox.key, "storage": sandbox.relay.endpoint, "folder": str(folder)}
        announce(facts)
        stop.wait()


def _app(sandbox: Sandbox) -> ASGIApp:
    api = Mount("/api", routes=console_routes.routes(sandbox), middleware=[Middleware(_Recording, sandbox.console_requests)])
    steering = Mount("/_sandbox", routes=admin.routes(sandbox), middleware=[Middleware(admin.FromHere)])
    return Starlette(routes=[api, steering], exception_handlers=console_routes.REFUSALS)


class _Recording:
    """ASGI middleware that notes every console call and its status."""

    def __init__(self, app: ASGIApp, requests: deque[ConsoleRequest]) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def note(message: Message) -> None:
            if message["type"] == "http.response.start":
                request = ConsoleRequest(scope["method"], scope["path"], message["status"], time.monotonic())
                self._requests.append(request)
            await send(message)

        await self._app(scope, receive, note)


class _Server:
    """uvicorn in a thread of its own, answering from construction to `stop()`."""

    def __init__(self, app: ASGIApp, port: ReservedPort) -> None:
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1)
        self._port = port
        self._server = uvicorn.Server(config)
        sockets = [port.open()]
        self._thread = threading.Thread(target=self._server.run, args=(sockets,), name="sandbox-console", daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.005)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._port.shut()
