"""One exchange with the console: a request with the key, a bounded answer, and a remedy for each refusal.

Failures handled: 401 (the key source is read again once, then `KeyRefused`), 403 (`Rejected`, names the missing scope), 404,
400/409/422 (`Rejected` with the server's `detail`), 429/5xx/connection failures (`Transient`, with Retry-After in both
forms), answers that are HTML, empty, huge (as received or unpacked), slow or endless, a server that repeats our key in its
answer.

The sources of facts are the vendor's pages "Authentication" and "Errors & conventions".
"""

import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from typing import Any

import httpx
import orjson

from axomsync import __version__
from axomsync.console.connections import KEPT_SECONDS, Connections
from axomsync.console.silence import Silence
from axomsync.core.documents import NotADocument, decode
from axomsync.core.errors import KeyRefused, Rejected, Transient
from axomsync.core.signatures import HIDDEN, without_queries
from axomsync.core.text import printable
from axomsync.transport.authorities import tls_context
from axomsync.transport.deadlines import Deadline, limited
from axomsync.transport.http import (
    NETWORK_TROUBLE,
    exchange,
    http_date,
    network_reason,
    proxy_answered,
    request_id,
    retry_after,
    with_context,
)
from axomsync.transport.proxies import Proxies
from axomsync.transport.tunnels import Renewed

ANSWER_LIMIT = 64 * 1024 * 1024  # bytes, unpacked, of all pages together; a catalog of 100,000 models is about 30 MB
STEP = 256 * 1024  # bytes that are unpacked at once
ANSWER_SECONDS = 300.0  # for one whole answer; a server that sends very slowly must not hold a worker for ever
DETAIL_LIMIT = 16 * 1024
DETAIL_SECONDS = 30.0  # for the body of an error; the rest is not waited for
TIMEOUT = httpx.Timeout(30.0, connect=10.0)

_HEADERS = {"User-Agent": f"axomsync/{__version__}", "Accept": "application/json", "Accept-Encoding": "identity"}
_CODINGS = ("gzip", "x-gzip", "deflate")  # a proxy may apply these unasked
_ZLIB_OR_GZIP = 47  # zlib's number for either header


class NotThere(Rejected):
    """404: the id is unknown, or not there yet."""


class Session:
    """Requests to one console. `read_key` is called for the API key at the start and again after a 401."""

    def __init__(
        self,
        url: str,
        read_key: Callable[[], str],
        *,
        ca_file: str | None,
        now: Callable[[], float],
        clock: Callable[[], float],
        timeout: httpx.Timeout,
        answer_seconds: float,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._read_key = read_key
        self._key: str | None = None
        self._now, self._clock = now, clock
        self._silence = Silence(clock)
        self._answer_seconds = answer_seconds
        self.clock_ahead: float | None = None  # seconds by which the console's clock was ahead of ours at its last answer
        self.proxy = Proxies.of(os.environ).leading_to(self.url)
        context = tls_context(ca_file)
        self._timeout = timeout.as_dict()

        def one_connection() -> httpx.BaseTransport:
            return transport or Renewed(
                lambda: limited(
                    httpx.HTTPTransport(
                        verify=context,
                        proxy=None if self.proxy is None else with_context(self.proxy, context),
                        trust_env=False,  # httpx would read the same variables in its own way
                        limits=httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEPT_SECONDS),
                    )
                )
            )

        self._connections = Connections(one_connection, clock)

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def silence(self) -> float:
        """Seconds for which the oldest call under way has waited without an answer to any; 0 when none waits."""
        return self._silence.seconds()

    def forget_key(self) -> None:
        """Read the API key again from its source before the next call."""
        self._key = None

    def call(self, method: str, path: str, *, scope: str, body: object = None) -> tuple[object, float | None]:
        """Call the console; returns the answer's JSON, and the console's time if it sent one (seconds since the epoch)."""
        with self.request(method, self.url + path, scope, body) as response:
            return decoded(self.body(response), path), http_date(response.headers.get("Date", ""))

    @contextmanager
    def request(self, method: str, url: str, scope: str, body: object = None) -> Iterator[httpx.Response]:
        """Yields a successful response before its body is read. After a 401, the key is read again from its source once."""
        key = self._key or self._read_key()
        for last_try in (False, True):
            self._key = key
            try:
                with self._exchange(method, url, key, body) as response:
                    if response.status_code == 401 and not last_try and (rotated := self._read_key()) != key:
                        key = rotated
                        continue
                    date = http_date(response.headers.get("Date", ""))
                    self.clock_ahead = None if date is None else date - self._now()
                    self._raise_for_status(response, scope)
                    yield response
                    return
            except NETWORK_TROUBLE as error:
                raise Transient(f"{self.url}: {network_reason(error, self.proxy, 'no answer in time')}") from None
            except httpx.InvalidURL as error:
                raise Rejected(f"{self.url}: this is no usable URL ({error}); correct [console] url") from None

    @contextmanager
    def _exchange(self, method: str, url: str, key: str, body: object) -> Iterator[httpx.Response]:
        headers, content = _HEADERS | {"Authorization": f"Bearer {key}"}, None
        if body is not None:
            headers["Content-Type"], content = "application/json", orjson.dumps(body)
        extensions = {"timeout": {**self._timeout, "read": self._deadline(self._answer_seconds)}}
        request = httpx.Request(method, _parsed(url), headers=headers, content=content, extensions=extensions)
        with ExitStack() as stack:
            transport = stack.enter_context(self._connections.one())
            with self._silence.until_answered():
                response = stack.enter_context(exchange(transport, request))
            yield response

    def _deadline(self, seconds: float) -> Deadline:
        return Deadline(seconds, silence=self._timeout["read"], clock=self._clock)

    def body(self, response: httpx.Response, most: int = ANSWER_LIMIT) -> bytearray:
        """Read and decompress the whole body of an answer. Raises `Transient` if it has more than `most` bytes."""
        body = bytearray()
        for piece in self._pieces(response):
            body += piece
            if len(body) > most:
                path = printable(response.request.url.path)
                raise Transient(f"{path}: the answer is larger than {ANSWER_LIMIT >> 20} MiB")
        return body

    def _pieces(self, response: httpx.Response) -> Iterator[bytes]:
        """Yields the body as it arrives, decompressed in small steps: a kilobyte can become a gigabyte."""
        began, path = self._clock(), printable(response.request.url.path)
        coding = response.headers.get("Content-Encoding", "").strip().lower()
        if coding not in ("", "identity", *_CODINGS):
            raise Transient(
                f"{path}: the answer is packed as {printable(coding)[:60]!r}, though it was asked for as it is; have the "
                "proxy before the console leave it alone"
            )
        unpacked = zlib.decompressobj(_ZLIB_OR_GZIP) if coding in _CODINGS else None
        for piece in response.iter_raw():
            if self._clock() - began > self._answer_seconds:
                raise Transient(f"{path}: the answer took more than {self._answer_seconds:g} s")
            if unpacked is None:
                yield piece
                continue
            try:
                more = True
                while more:
                    out = unpacked.decompress(piece, STEP)
                    piece = unpacked.unconsumed_tail
                    more = bool(piece) or len(out) == STEP
                    yield out
            except zlib.error:
                raise Transient(f"{self.url}: the connection broke (what it packed as {coding} is damaged)") from None

    def _raise_for_status(self, response: httpx.Response, scope: str) -> None:
        status = response.status_code
        if 200 <= status < 300:
            return
        if status == 407 and self.proxy is not None:
            raise Transient(f"{self.url}: through {self.proxy}: {proxy_answered(status, self.proxy)}")
        call = f"{response.request.method} {printable(response.request.url.path)}"
        detail = self._detail(response) + request_id(response.headers, str(response.request.url), "x-request-id", self._key)
        if status == 401:
            raise KeyRefused(
                f"the console refuses the API key ({detail}): create a new one in the console, put it where "
                "$AXOM_KEY, [console] key_file or the credential axom_key is read from, and reload"
            )
        if status == 403:
            raise Rejected(f"{call}: the API key lacks the scope '{scope}' ({detail}); create a key that has it")
        if status == 404:
            raise NotThere(f"{call}: the console does not know it ({detail})")
        if status == 429 or status >= 500 or status in (408, 425):
            through = f", through {self.proxy}" if self.proxy is not None else ""
            raise Transient(f"{self.url} answered {status} ({detail}){through}", retry_after(response.headers, self._now()))
        if 300 <= status < 400:
            raise Rejected(f"{call}: the console redirects elsewhere ({status}); correct [console] url")
        raise Rejected(f"{call}: the console refuses it with {status}: {detail}")

    def _detail(self, response: httpx.Response) -> str:
        """The server's reason on one short line; proxies answer with HTML, with nothing, or with long texts."""
        piece = b""
        response.request.extensions["timeout"]["read"] = self._deadline(min(DETAIL_SECONDS, self._answer_seconds))
        with suppress(Transient, *NETWORK_TROUBLE):  # the refusal matters more than its reason, which may be cut off
            for more in self._pieces(response):
                piece += more
                if len(piece) >= DETAIL_LIMIT:
                    break
        try:
            text = _words(orjson.loads(piece[:DETAIL_LIMIT])["detail"])
        except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
            text = ""
        # The key, and signed URLs, are removed before the cut, which might leave most of them.
        text = without_queries(text.replace(self._key or "\n", HIDDEN))
        return printable(" ".join(text.split()))[:300] or "no detail given"


def decoded(body: bytearray, path: str) -> object:
    """Parse a body as JSON. Raises `Transient` if it is none, for example a proxy's page."""
    try:
        return decode(body)
    except NotADocument as fault:
        start = body[:100].lstrip()
        kind = "an HTML page" if start[:1] == b"<" else f"no JSON that can be read, {fault}" if start else "an empty body"
        raise Transient(
            f"{path}: the console (or a proxy before it) answered with {kind}; is [console] url right?"
        ) from None


@lru_cache(maxsize=16)  # httpx looks at each character of a URL
def _parsed(url: str) -> httpx.URL:
    return httpx.URL(url)


def _words(detail: Any) -> str:
    """`detail` as text; frameworks send a list of `{"loc": ["body", "filename"], "msg": "…"}` for invalid input."""
    return ", ".join(map(_word, detail)) if isinstance(detail, list) else _word(detail)


def _word(detail: Any) -> str:
    if isinstance(detail, str):
        return detail
    if isinstance(detail, dict) and isinstance(detail.get("msg"), str):
        place = detail.get("loc")
        names = [str(part) for part in place if isinstance(part, str | int)] if isinstance(place, list) else []
        return f"{'.'.join(names)}: {detail['msg']}" if names else detail["msg"]
    return orjson.dumps(detail).decode()
