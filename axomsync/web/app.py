"""Routes of the status page, all read-only. `guard` decides which requests reach them.

The routes of probes are coroutines that read memory alone: the others share threads, which a disk that does not answer may
hold, and a probe that gets no answer has an agent killed that works. Failures handled: a ledger that can't be read (503 with
the reason).
"""

import hashlib
from collections.abc import Collection
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from axomsync.core.errors import LocalFault
from axomsync.web.facts import Facts, as_json
from axomsync.web.guard import Guard
from axomsync.web.stream import Stream

STATIC = Path(__file__).parent / "static"
FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def application(
    facts: Facts, stream: Stream, metrics: CollectorRegistry, names: Collection[str], token: str | None
) -> ASGIApp:
    """Build the ASGI application: all routes, behind the guard."""

    def status(_: Request) -> Response:
        return Response(as_json(facts.whole()), media_type="application/json")

    async def healthz(_: Request) -> Response:
        hanging = facts.hanging()
        return _verdict([f"no progress of: {', '.join(hanging)}"] if hanging else [])

    async def readyz(_: Request) -> Response:
        return _verdict(facts.obstacles())

    def scrape(_: Request) -> Response:
        return Response(generate_latest(metrics), media_type=CONTENT_TYPE_LATEST)

    routes = [
        *(Route(path, _file(*file)) for path, file in FILES.items()),
        Route("/api/status", status),
        Route("/api/events", stream),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", scrape),
    ]
    return Guard(Starlette(routes=routes, exception_handlers={LocalFault: _unreadable}), names, token)


def _file(name: str, media_type: str) -> "_File":
    return _File((STATIC / name).read_bytes(), media_type)


class _File:
    """A file of the page, held in memory; an ASGI application."""

    def __init__(self, content: bytes, media_type: str) -> None:
        self._content, self._media_type = content, media_type
        self._etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        known = Request(scope).headers.get("if-none-match") == self._etag
        headers = {"ETag": self._etag, "Cache-Control": "no-cache"}
        content = b"" if known else self._content
        await Response(content, 304 if known else 200, headers, self._media_type)(scope, receive, send)


def _verdict(faults: list[str]) -> Response:
    return PlainTextResponse("".join(f"{fault}\n" for fault in faults) or "ok\n", 503 if faults else 200)


def _unreadable(_: Request, fault: Exception) -> Response:
    return PlainTextResponse(f"{fault}\n", 503)
