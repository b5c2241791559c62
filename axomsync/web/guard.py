"""Who may ask, and what: stands before every route of the status page.

Refuses other methods than GET and HEAD (405), addresses that are longer than any of ours (414), a Host that a page of
somebody else may have had resolved to this machine (421, DNS rebinding: the names of one's own are in `_is_ours`), and
whoever lacks the token, where there is one (401). A request that has the token is nobody else's page. `/healthz` and
`/readyz` need no token, and answer to any name: probes have none and use many, and learn nothing but words for problems.
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
    """An ASGI application around another. `names` are those of this machine; `token` is a secret, None asks for none."""

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
            return _refuse(405, "this page only tells, it changes nothing", {"Allow": "GET, HEAD"})
        if len(scope["raw_path"]) + len(scope["query_string"]) > LONGEST_TARGET:
            return _refuse(414, "no address here is that long")
        if self._token is not None and _shows(headers.get("authorization", ""), self._token):
            return None
        if scope["path"] in OPEN_PATHS:
            return None
        if not _is_ours(headers.get("host", ""), self._names):
            return _refuse(421, "this name is not one of this machine's; use its address, or add the name to [web] names")
        if self._token is not None:
            return _refuse(
                401, "the token is needed, as the password of any user", {"WWW-Authenticate": "Basic realm=axomsync"}
            )
        return None


def _refuse(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    return PlainTextResponse(f"{reason}\n", status, {**(headers or {}), "Connection": "close"})


def _is_ours(named: str, names: Collection[str]) -> bool:
    """Whether a Host header holds an address (nobody can have that resolved otherwise), `localhost`, or one of `names`."""
    host = named.partition("]")[0].removeprefix("[") if named.startswith("[") else named.rpartition(":")[0] or named
    host = host.lower().removesuffix(".")
    try:
        ip_address(host)
    except ValueError:
        return host != "" and (host == "localhost" or host in names)
    return True


def _shows(authorization: str, token: str) -> bool:
    """`Bearer token`, or `Basic` with the token as the password: that is what browsers can ask for."""
    scheme, _, credentials = authorization.partition(" ")
    shown = credentials.strip().encode()
    if scheme.lower() == "basic":
        try:
            shown = base64.b64decode(shown, validate=True).partition(b":")[2]
        except binascii.Error:
            return False
    return scheme.lower() in ("basic", "bearer") and hmac.compare_digest(shown, token.encode())
