"""Access control before every route of the status page.

It refuses methods other than GET and HEAD (405), URLs longer than any route (414), foreign Host names (421: DNS rebinding
lets a page of another site reach this machine under its own name; see `_is_ours`), and requests without the token, if one
is set (401). A request with the token can't come from a foreign page. `/healthz` and `/readyz` need no token and accept any
name: probes have no token and use many names, and learn only the words of problems.
"""

import base64
import binascii
import hmac
from collections.abc import Collection, Mapping
from email.utils import formatdate
from ipaddress import ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LONGEST_TARGET = 1024
OPEN_PATHS = frozenset({"/healthz", "/readyz"})
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """An ASGI application around another. `names`: host names of this machine; `token`: a secret, None needs none."""

    def __init__(self, app: ASGIApp, names: Collection[str], token: str | None) -> None:
        self._app, self._names, self._token = app, names, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                headers["Date"] = formatdate(usegmt=True)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope, Headers(scope=scope))
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, headers: Mapping[str, str]) -> Response | None:
        if scope["method"] not in ("GET", "HEAD"):
            return _refuse(405, "this page is read-only", {"Allow": "GET, HEAD"})
        if len(scope["raw_path"]) + len(scope["query_string"]) > LONGEST_TARGET:
            return _refuse(414, "the URL is longer than any URL of this page")
        if self._token is not None and _shows(headers.get("authorization", ""), self._token):
            return None
        if scope["path"] in OPEN_PATHS:
            return None
        if not _is_ours(headers.get("host", ""), self._names):
            return _refuse(421, "the name is not in [web] names; use the machine's address, or add the name there")
        if self._token is not None:
            return _refuse(
                401, "send the token as the password, with any user name", {"WWW-Authenticate": "Basic realm=axomsync"}
            )
        return None


def _refuse(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    return PlainTextResponse(f"{reason}\n", status, {**(headers or {}), "Connection": "close"})


def _is_ours(named: str, names: Collection[str]) -> bool:
    """Check that a Host header holds an IP address (which no DNS can redirect), `localhost`, or one of `names`."""
    host = named.partition("]")[0].removeprefix("[") if named.startswith("[") else named.rpartition(":")[0] or named
    host = host.lower().removesuffix(".")
    try:
        ip_address(host)
    except ValueError:
        return host != "" and (host == "localhost" or host in names)
    return True


def _shows(authorization: str, token: str) -> bool:
    """Check for `Bearer token`, or `Basic` with the token as password, the form that browsers can ask for."""
    scheme, _, credentials = authorization.partition(" ")
    shown = credentials.strip().encode()
    if scheme.lower() == "basic":
        try:
            shown = base64.b64decode(shown, validate=True).partition(b":")[2]
        except binascii.Error:
            return False
    return scheme.lower() in ("basic", "bearer") and hmac.compare_digest(shown, token.encode())
