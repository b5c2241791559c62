"""The sandbox: the console's five calls over a real object store, for demos, tests and other people's CI.

`Sandbox` is the composition: an `ObjectStore`, a `Relay` in front of it (presigned URLs are signed for the relay, so speed
and outages of storage are made there), a `Catalog`, and an HTTP server with the five calls under `/api` and the steering
of `axomsync.sandbox.admin` under `/_sandbox`.

Failures handled: an address in use (`OSError` from the constructor), a store that does not start (`ObjectStoreError`), a
file that no catalog has written (`NoCatalog`); the parts that run are stopped again. A console that is stopped for a while
comes back at the same address.
"""

import contextlib
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
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
from axomsync.sandbox.catalog import Catalog, PublishedFile
from axomsync.sandbox.errors import Conflict
from axomsync.sandbox.objectstore import Method, ObjectStore
from axomsync.sandbox.relay import Relay
from axomsync.sandbox.reserved_port import ReservedPort

URL_LIFETIME = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class ConsoleRequest:
    method: str
    path: str  # with /api, without the query
    status: int
    at: float  # time.monotonic() when the answer was decided


@dataclass(frozen=True, slots=True)
class UploadState:
    upload_id: str
    key: str
    filename: str
    stored: int | None  # bytes in storage; None before a PUT has succeeded


class Sandbox:
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
        self.folder = folder
        self.url_lifetime = url_lifetime
        self.console_requests: deque[ConsoleRequest] = deque(maxlen=10_000)
        self._rate = rate
        self._relay_class = relay_class
        self._own_store = store is None
        self.store = store or ObjectStore(folder / "store")
        folder.mkdir(parents=True, exist_ok=True)
        self.catalog = Catalog(folder / "console.json")
        self.key = self.catalog.full_key()
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

    @property
    def rate(self) -> float | None:
        """Bytes per second for each storage connection and direction; None is unlimited, 0 a stall."""
        return self._rate

    @rate.setter
    def rate(self, rate: float | None) -> None:
        self._rate = rate
        self.relay.rate = rate

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

    def create_key(self, scopes: Iterable[str]) -> str:
        return self.catalog.create_key(scopes)

    def revoke_key(self, key: str) -> None:
        self.catalog.revoke_key(key)

    def publish_model(
        self,
        name: str,
        version: str,
        folder: Path,
        *,
        status: str = "ready",
        model_id: str | None = None,
        params: int = 0,
        part_size: int | None = None,
    ) -> str:
        """Store every file under `folder` into the bucket, then list the model; returns its id.

        `part_size` (bytes) stores the files as multipart uploads. Raises `Conflict` when `model_id` is taken.
        """
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        if not paths:
            raise ValueError(f"no files in {folder}")
        # Not under the model's id: a removed and republished id gets new objects, as a retrained model would.
        root = f"models/{uuid.uuid4()}"
        files = []
        for path in paths:
            rel = path.relative_to(folder).as_posix()
            self.store.put_file(f"{root}/{rel}", path, part_size=part_size)
            files.append(PublishedFile(rel, path.stat().st_size, f"{root}/{rel}"))
        return self.catalog.add_model(name, version, files, status=status, model_id=model_id, params=params).id

    def presign(self, method: Method, key: str) -> str:
        """Return a URL through the relay that lives for `url_lifetime`."""
        return self.store.presign(method, key, lifetime=self.url_lifetime, endpoint=self.relay.endpoint)

    def set_model_status(self, model_id: str, status: str) -> None:
        self.catalog.set_model_status(model_id, status)

    def remove_model(self, model_id: str) -> None:
        """Remove a model from the list, and its files from storage."""
        for file in self.catalog.remove_model(model_id).files:
            self.store.delete(file.key)

    def uploads(self) -> list[UploadState]:
        """Return every upload that was granted, newest first, and its size in storage."""
        stored = {entry.key: entry.size for entry in self.store.list("tmp")}
        return [UploadState(u.upload_id, u.key, u.filename, stored.get(u.key)) for u in self.catalog.uploads()]

    def register_dataset(self, name: str, version: str, upload_ids: Iterable[str]) -> str:
        """Make a dataset of finished uploads, as a person does in the console; returns its id.

        Raises `KeyError` for an unknown upload and `Conflict` for one that storage does not have.
        """
        known = {upload.upload_id: upload for upload in self.uploads()}
        sizes = [known[upload_id].stored for upload_id in upload_ids]
        if not sizes or None in sizes:
            raise Conflict("not every upload has been stored")
        total = sum(size for size in sizes if size is not None)
        return self.catalog.add_dataset(name, version, shard_count=len(sizes), size=total).id


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
