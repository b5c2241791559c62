"""Object storage behind signed URLs: one ranged GET, one PUT. `s3` decides the meaning of the answers.

httpx is the interface; downloads use a Rust transport that does TLS and socket reads without Python's lock. Requests hold
only what the URL's signature asks for: no Authorization, no cookies, no unsigned `x-amz-*` header; redirects are not
followed.

Failures handled: all that `s3` judges, a store that ignores Range (`RangeIgnored`), a body that is too short or too long, a
stalled connection, an answer that comes slowly, a proxy that refuses, a name that can't be resolved, forbidden addresses
(`addresses`, checked at each connection), plain http to another host (`Rejected`), answers that are no HTTP; a gateway that
fails in any of these ways, or answers for another object than storage has now (`GatewayFault`; what storage says through a
gateway stays what it means).
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Self
from urllib.parse import urlsplit

import httpx
from pyreqwest.exceptions import PyreqwestError

from axomsync import __version__
from axomsync.config import Settings, is_loopback, may_use_plain_http
from axomsync.core.errors import GatewayFault, Rejected, SourceChanged, Transient
from axomsync.core.hosts import host_fault
from axomsync.storage.connections import CONNECT_SECONDS, NO_HTTP, Downloads, LongBodies, RustClients
from axomsync.storage.s3 import (
    DOCUMENT_LIMIT,
    Answer,
    Confirmation,
    Extent,
    encrypted,
    etag_of,
    judge_get,
    judge_put,
    names_a_fault,
    signed_headers,
)
from axomsync.storage.short_bodies import put_short
from axomsync.transport.addresses import judge_literal
from axomsync.transport.authorities import roots, tls_context
from axomsync.transport.deadlines import Deadline
from axomsync.transport.gateways import through
from axomsync.transport.http import (
    NETWORK_TROUBLE,
    exchange,
    host_of,
    http_date,
    is_plain,
    network_reason,
    never_connected,
    proxy_answered,
    request_id,
    retry_after,
)
from axomsync.transport.proxies import Proxies

ANSWER_SECONDS = 120.0  # storage may need long between the last byte of a large PUT and its answer
DOCUMENT_SECONDS = 10.0  # to read the body of an error answer; a slow one must not hold a worker
SHORT_BODY = 1024 * 1024  # bytes; such a body is sent at once

_NO_URL = "the console gave something that is not a signed URL of storage"

LIVE_ETAG = "axomsync-etag"  # of a gateway: the ETag that storage gave it for this very request

_HEADERS = {"User-Agent": f"axomsync/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}


@dataclass(frozen=True)
class RangeReply:
    """An accepted answer to a ranged GET: `chunks` yields bytes `start` to `end` (exclusive)."""

    start: int
    end: int
    total: int
    etag: str | None
    etag_is_md5: bool  # False when storage says that the object is encrypted with a key
    whole: bool  # the store ignored the range and sends all
    chunks: Iterator[memoryview]
    modified: float | None = None  # time of storing by storage's clock, seconds since the epoch
    answered: float | None = None  # time of this answer, by the same clock


class RangeIgnored(Exception):  # the store's habit, not a failure
    """Storage answered a request for a part with the whole object."""


class Storage:
    """Connections to object storage, shared by all transfers.

    All times are seconds: `stall`, the longest silence; `answer_seconds`, the longest wait for the answer to a PUT, if more;
    `document_seconds`, the longest reading of an error document. `loopback` allows storage on this machine.
    """

    def __init__(
        self,
        *,
        stall: float,
        ca_file: str | None = None,
        allow_http: bool = False,
        loopback: bool = False,
        answer_seconds: float = ANSWER_SECONDS,
        document_seconds: float = DOCUMENT_SECONDS,
    ) -> None:
        self._allow_http, self._loopback = allow_http, loopback
        self._stall, self._document_seconds = stall, document_seconds
        self._proxies = Proxies.of(os.environ)
        context = tls_context(ca_file)
        authorities = roots(ca_file, context)
        self._downloads = Downloads(RustClients(authorities, stall, self._proxies, loopback=loopback))
        # A gateway is named in the configuration: no proxy leads to it, and its address may be any.
        self._gateways = Downloads(RustClients(authorities, stall, Proxies.of({}), loopback=True, judged=False))
        self._answer_seconds = max(stall, answer_seconds)
        self._short_uploads = RustClients(authorities, self._answer_seconds, self._proxies, loopback=loopback)
        self._long_uploads = LongBodies(context, self._proxies, loopback=loopback)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Connect as configured. Storage on this machine is allowed only when the console is on this machine too."""
        ca_file = settings.console.ca_file
        return cls(
            stall=settings.transfer.stall,
            ca_file=str(ca_file) if ca_file else None,
            allow_http=settings.transfer.allow_http,
            loopback=is_loopback(urlsplit(settings.console.url).hostname or ""),
        )

    def close(self) -> None:
        """Close all connections."""
        self._downloads.close()
        self._gateways.close()
        self._short_uploads.close()
        self._long_uploads.close()

    @contextmanager
    def get(
        self, url: str, start: int, end: int, total: int, etag: str | None, gateway: str | None = None
    ) -> Iterator[RangeReply]:
        """Fetch bytes `start` to `end` (exclusive) of an object of `total` bytes, which must still have `etag` when given.

        A store that ignores Range sends the whole object: with `start` 0 that is accepted (the reply then ends at `total`,
        whatever `end` was), otherwise it raises `RangeIgnored`. For an empty object the reply has no bytes and confirms that
        the object exists. The `gateway` is asked in place of storage.
        """
        self._check(url)
        headers = _HEADERS | {"Range": f"bytes={start}-{max(start, end - 1)}"}
        # If-Match never holds for a weak ETag (RFC 9110, 13.1.1). Early ledgers may hold one that no header can.
        if etag is not None and etag.isascii() and not etag.startswith("W/"):
            headers["If-Match"] = etag
        way, place = (self._downloads, url) if gateway is None else (self._gateways, through(gateway, url))
        with self._mapped(url, gateway), _answered(way, httpx.Request("GET", place, headers=headers), gateway) as response:
            document = None if response.status_code in (200, 206) else partial(self._document, response)
            answer = self._answer(url, response.status_code, response.headers, document, gateway)
            extent = _judged(answer, start, end, total, gateway)
            if extent.whole and start != 0:
                raise RangeIgnored
            found = etag_of(answer.headers)
            if etag is not None and found is not None and found != etag:
                raise SourceChanged(f"the object changed while it was fetched (ETag {etag} became {found})")
            has_body = extent.end > 0 or response.status_code == 200
            body = _exactly(_chunks(response) if has_body else iter(()), extent.end - extent.start, gateway)
            yield RangeReply(
                extent.start, extent.end, total, found, not encrypted(answer.headers), extent.whole, body,
                http_date(answer.headers.get("last-modified", "")), http_date(answer.headers.get("date", "")),
            )  # fmt: skip

    def greet(self, gateway: str) -> None:
        """Ask a gateway whether it is there. Raises `GatewayFault`."""
        with self._mapped(gateway, gateway):
            request = httpx.Request("GET", f"{gateway}/healthz", headers=_HEADERS)
            with _answered(self._gateways, request, gateway) as response:
                if response.status_code != 200 or b"axomsync gateway" not in self._document(response):
                    raise GatewayFault(f"it answered {response.status_code}, and not as a gateway does")

    def put(self, url: str, pieces: Iterable[bytes], length: int, content_type: str) -> Confirmation:
        """Send `length` bytes from `pieces`. Returns storage's confirmation; any other answer is raised."""
        self._check(url)
        headers = signed_headers(url, content_type)
        with self._mapped(url):
            if length <= SHORT_BODY:
                return judge_put(self._put_short(url, b"".join(pieces), headers), all_sent=True)
            return self._put_long(url, pieces, length, headers)

    def _put_short(self, url: str, body: bytes, headers: dict[str, str]) -> Answer:
        answer = put_short(self._short_uploads, url, body, _HEADERS | headers)
        document = partial(answer.document, DOCUMENT_LIMIT, self._document_seconds)
        return self._answer(url, answer.status, answer.headers, document)

    def _put_long(self, url: str, pieces: Iterable[bytes], length: int, headers: dict[str, str]) -> Confirmation:
        sent, deadline = 0, Deadline(self._answer_seconds)

        def counted() -> Iterator[bytes]:
            nonlocal sent
            for piece in deadline.renewed_by(pieces):
                yield piece
                sent += len(piece)

        headers = _HEADERS | headers | {"Content-Length": str(length)}
        limits = {"timeout": {"connect": CONNECT_SECONDS, "write": self._stall, "read": deadline}}
        request = httpx.Request("PUT", url, content=counted(), headers=headers, extensions=limits)
        with _answered(self._long_uploads, request) as response:
            # The body is read even if it is empty: or the next PUT could not reuse this connection. The long limit was
            # for the answer; its body gets the short one.
            request.extensions["timeout"]["read"] = Deadline(self._document_seconds)
            document = partial(self._document, response)
            answer = self._answer(url, response.status_code, response.headers, document)
            return judge_put(answer, all_sent=sent == length)

    def _check(self, url: str) -> None:
        """Reject URLs that are not http(s) or carry a user name or password, hosts without a name, forbidden addresses."""
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or parts.username or parts.password:
            raise Rejected(_NO_URL)
        if not may_use_plain_http(url, self._allow_http):
            raise Rejected(f"storage at {host_of(url)} is offered over plain http; [transfer] allow_http = true allows that")
        host = parts.hostname or ""
        if (fault := host_fault(host)) is not None:
            told = f"storage {host_of(url)[:100]}: {fault}, so it can't be resolved; tell the operator of the console"
            raise Transient(told, unsent=True)
        try:
            if not is_plain(url):
                httpx.URL(url)
        except (ValueError, httpx.InvalidURL):
            raise Rejected(_NO_URL) from None
        judge_literal(host, loopback=self._loopback)  # also before a proxy is used

    def _answer(
        self,
        url: str,
        status: int,
        headers: httpx.Headers,
        document: Callable[[], bytes] | None,
        gateway: str | None = None,
    ) -> Answer:
        """Convert an answer for `s3`; `document` reads the beginning of its body, None if it is the object."""
        proxy = self._proxies.leading_to(url) if gateway is None else None
        if status == 407 and proxy is not None:  # to plain http; it is not storage's
            raise Transient(f"storage {host_of(url)}: through {proxy}: {proxy_answered(407, proxy)}")
        body = b""
        if document is not None:
            try:
                body = document()
            except (httpx.HTTPError, PyreqwestError):
                # A success needs its whole body; and only the code tells whether a 400 is final.
                if status < 300 or status == 400:
                    raise
        lower = {name.lower(): value for name, value in headers.items()}
        request = request_id(headers, url, "x-amz-request-id") if status >= 300 else ""  # only a refusal names it
        return Answer(url, _place_of(url, gateway), status, lower, body, request, retry_after(headers, time.time()))

    def _document(self, response: httpx.Response) -> bytes:
        text, ends = b"", time.monotonic() + self._document_seconds
        for chunk in response.iter_raw():
            text += chunk
            if len(text) >= DOCUMENT_LIMIT or time.monotonic() > ends:
                break
        return text[:DOCUMENT_LIMIT]

    @contextmanager
    def _mapped(self, url: str, gateway: str | None = None) -> Iterator[None]:
        """Map errors of the transports to our own; messages name the host, never the URL."""
        try:
            yield
        except (*NETWORK_TROUBLE, httpx.InvalidURL, PyreqwestError) as error:
            silent = f"no byte for {self._stall:g} s ([transfer] stall)"
            if gateway is not None:
                raise GatewayFault(network_reason(error, None, silent)) from None
            reason = network_reason(error, self._proxies.leading_to(url), silent)
            raise Transient(f"storage {host_of(url)}: {reason}", unsent=never_connected(error)) from None


@contextmanager
def _answered(way: httpx.BaseTransport, request: httpx.Request, gateway: str | None = None) -> Iterator[httpx.Response]:
    """Wait for an answer; its body is not yet read."""
    with ExitStack() as stack:
        try:
            response = stack.enter_context(exchange(way, request))
        except ValueError:  # raised by the Rust transport
            raise GatewayFault("its answer is not HTTP") if gateway is not None else Transient(NO_HTTP) from None
        yield response


def _judged(answer: Answer, start: int, end: int, total: int, gateway: str | None) -> Extent:
    """Judge an answer; one of a gateway that is not storage's is a `GatewayFault`."""
    if gateway is None:
        return judge_get(answer, start, end, total)
    if answer.status == 421:
        raise GatewayFault(
            f"it does not serve {host_of(answer.url)}, or not this box; on its box: axomsync service install --gateway "
            f"{host_of(answer.url)}, with its other hosts and --near",
            is_refusal=True,
        )
    if answer.status >= 500 and not names_a_fault(answer):  # nginx's own page
        raise GatewayFault(f"it answered {answer.status}", is_storage=answer.status in (502, 504))
    try:
        extent = judge_get(answer, start, end, total)
    except Transient as failure:
        if names_a_fault(answer):
            raise
        raise GatewayFault(str(failure)) from None
    live, given = answer.headers.get(LIVE_ETAG), answer.headers.get("etag")
    if live and given and live != given:
        raise GatewayFault("it holds other headers than storage gave: its cache is damaged")
    return extent


def _place_of(url: str, gateway: str | None) -> str:
    return host_of(url) if gateway is None else f"{host_of(url)} through {gateway}"


def _chunks(response: httpx.Response) -> Iterator[memoryview]:
    """The body as the transport holds it. Its httpx layer would copy each byte twice more, 10 % of the CPU time."""
    reader = response.extensions["pyreqwest_response"].body_reader
    while (chunk := reader.read_chunk()) is not None:
        yield memoryview(chunk)


def _exactly(chunks: Iterator[memoryview], length: int, gateway: str | None) -> Iterator[memoryview]:
    """Yield exactly `length` bytes. Raises `SourceChanged` for more, `Transient` or `GatewayFault` for fewer."""
    left = length
    for chunk in chunks:
        left -= len(chunk)
        if left < 0 or (left == 0 and any(map(len, chunks))):  # hold the last piece until the end is seen
            raise SourceChanged(f"storage sends more than the expected {length} bytes")
        if len(chunk):
            yield chunk
    if left:
        told = f"the body was cut short: {left} of {length} bytes are missing"
        raise Transient(told) if gateway is None else GatewayFault(told)
