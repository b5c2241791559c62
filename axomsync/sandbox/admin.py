"""Control of a running sandbox over HTTP, for tests that are not written in Python: `/_sandbox/…`, from loopback only.

JSON in and out, refusals as in the console (`{"detail": "…"}`).

| call | body | answer |
|---|---|---|
| `POST /models` | `{name, version, folder, status?, id?, params?, part_size?}`; a local folder | `{id}` |
| `POST /models/{id}/status` | `{status}` | `{}` |
| `DELETE /models/{id}` | | `{}` |
| `GET /settings`, `POST /settings` | `{url_lifetime?, rate?}`: seconds; bytes/s, `null` unlimited, 0 a stall | both |
| `POST /keys` | `{scopes: […]}` | `{key}` |
| `POST /keys/revoke` | `{key}` | `{}` |
| `GET /uploads` | | list of `{upload_id, key, filename, stored}`, newest first |
| `POST /datasets` | `{name, version, upload_ids: […]}` | `{id}` |
"""

import ipaddress
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from axomsync.sandbox.console_routes import answer, read_object, text
from axomsync.sandbox.far_side import FarSide


def routes(sandbox: FarSide) -> list[Route]:
    async def publish(request: Request) -> Response:
        body = await read_object(request)
        model_id = await run_in_threadpool(
            sandbox.publish_model,
            text(body, "name"),
            text(body, "version"),
            Path(text(body, "folder")),
            status=text(body, "status") if "status" in body else "ready",
            model_id=text(body, "id") if "id" in body else None,
            params=_number(body, "params", 0),
            part_size=_number(body, "part_size", None),
        )
        return answer({"id": model_id})

    async def set_status(request: Request) -> Response:
        sandbox.set_model_status(request.path_params["id"], text(await read_object(request), "status"))
        return answer({})

    def remove(request: Request) -> Response:
        sandbox.remove_model(request.path_params["id"])
        return answer({})

    def settings(_: Request) -> Response:
        return answer({"url_lifetime": sandbox.url_lifetime.total_seconds(), "rate": sandbox.rate})

    async def change_settings(request: Request) -> Response:
        body = await read_object(request)
        lifetime = _number(body, "url_lifetime", sandbox.url_lifetime.total_seconds())
        sandbox.rate = _number(body, "rate", sandbox.rate)
        sandbox.url_lifetime = timedelta(seconds=max(1, lifetime))
        return settings(request)

    async def create_key(request: Request) -> Response:
        return answer({"key": sandbox.create_key(_texts(await read_object(request), "scopes"))})

    async def revoke_key(request: Request) -> Response:
        sandbox.revoke_key(text(await read_object(request), "key"))
        return answer({})

    def uploads(_: Request) -> Response:
        return answer([asdict(upload) for upload in sandbox.uploads()])

    async def register(request: Request) -> Response:
        body = await read_object(request)
        wanted = text(body, "name"), text(body, "version"), _texts(body, "upload_ids")
        return answer({"id": await run_in_threadpool(sandbox.register_dataset, *wanted)})

    return [
        Route("/models", publish, methods=["POST"]),
        Route("/models/{id}/status", set_status, methods=["POST"]),
        Route("/models/{id}", remove, methods=["DELETE"]),
        Route("/settings", settings, methods=["GET"]),
        Route("/settings", change_settings, methods=["POST"]),
        Route("/keys", create_key, methods=["POST"]),
        Route("/keys/revoke", revoke_key, methods=["POST"]),
        Route("/uploads", uploads, methods=["GET"]),
        Route("/datasets", register, methods=["POST"]),
    ]


class FromHere:
    """ASGI middleware that admits clients on this machine, and no web page.

    These calls read local folders. A page in this machine's browser can post to loopback too, but never without an Origin
    header.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = (scope.get("client") or ("",))[0]
        if not _is_loopback(host) or any(name == b"origin" for name, _ in scope["headers"]):
            raise HTTPException(403, "the sandbox is steered from its own machine only")
        await self._app(scope, receive, send)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _number(body: dict[str, Any], name: str, default: Any) -> Any:
    """Return a number that is not negative, or null where that means something."""
    value = body.get(name, default)
    if value is default or (value is None and name == "rate"):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise HTTPException(422, f"{name}: a number from 0 is required")
    return value


def _texts(body: dict[str, Any], name: str) -> list[str]:
    value = body.get(name)
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise HTTPException(422, f"{name}: a list of strings is required")
    return value
