"""Object storage behind signed URLs: one ranged GET, one PUT. `s3` decides the meaning of the answers.

httpx is the interface; downloads use a Rust transport that does TLS and socket reads without Python's lock. Requests hold
only what the URL's signature asks for: no Authorization, no cookies, no unsigned `x-amz-*` header; redirects are not
followed.

Failures handled: all that `s3` judges, a store that ignores Range (`RangeIgnored`), a body that is too short or too long, a
stalled connection, a proxy that refuses, a name that can't be resolved, forbidden addresses (`addresses`, checked at each
connection), plain http to another host (`Rejected`), answers that are no HTTP.
"""

import os
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Self
from urllib.parse import urlsplit

import httpcore
import httpx
from pyreqwest.client import SyncClient, SyncClientBuilder
from pyreqwest.compatibility.httpx import SyncHttpxTransport
from pyreqwest.exceptions import PyreqwestError
from pyreqwest.proxy import ProxyBuilder

from axomsync import __version__
from axomsync.config import Settings, is_loopback, may_use_plain_http
from axomsync.core.errors import BadConfig, Rejected, SourceChanged, Transient
from axomsync.storage.s3 import (
    DOCUMENT_LIMIT,
    Answer,
    Confirmation,
    encrypted,
    etag_of,
    judge_get,
    judge_put,
    signed_headers,
)
from axomsync.transport.addresses import judge_literal, resolve
from axomsync.transport.authorities import roots, tls_context
from axomsync.transport.http import (
    NETWORK_TROUBLE,
    host_of,
    http_date,
    network_reason,
    proxy_answered,
    request_id,
    retry_after,
    with_context,
)
from axomsync.transport.proxies import Proxies, Proxy

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 120.0  # storage may need long between the last byte of a large PUT and its answer
DOCUMENT_SECONDS = 10.0  # to read the body of an error answer; a slow one must not hold a worker
NAME_SECONDS = 30.0  # a name is resolved again after that
PINNED_MOST = 32  # transports kept, one for each address

_HEADERS = {"User-Agent": f"axomsync/{__version__}", "Accept-Encoding": "identity"}


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
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))  # load balancers in front of storage set cookies
        context = tls_context(ca_file)
        self._downloads = httpx.Client(
            transport=_Bulk(roots(ca_file, context), stall, self._proxies, loopback=loopback),
            headers=_HEADERS,
            cookies=no_cookies,
            timeout=None,  # noqa: S113  # the transport has its own
        )
        # Uploads keep httpx's own transport: its timeouts apply to each write and read. The Rust transport's read timeout
        # also runs while a body is sent, and so ends every longer upload.
        self._uploads = httpx.Client(
            transport=_Uploads(context, self._proxies, loopback=loopback),
            headers=_HEADERS,
            cookies=no_cookies,
            timeout=httpx.Timeout(stall, connect=CONNECT_SECONDS, read=max(stall, answer_seconds), pool=None),
        )

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
        self._uploads.close()

    @contextmanager
    def get(self, url: str, start: int, end: int, total: int, etag: str | None) -> Iterator[RangeReply]:
        """Fetch bytes `start` to `end` (exclusive) of an object of `total` bytes, which must still have `etag` when given.

        A store that ignores Range sends the whole object: with `start` 0 that is accepted (the reply then ends at `total`,
        whatever `end` was), otherwise it raises `RangeIgnored`. For an empty object the reply has no bytes and confirms that
        the object exists.
        """
        self._check(url)
        headers = {"Range": f"bytes={start}-{max(start, end - 1)}"}
        if etag is not None and not etag.startswith("W/"):  # If-Match never holds for a weak ETag (RFC 9110, 13.1.1)
            headers["If-Match"] = etag
        with self._mapped(url), _answered(self._downloads.stream("GET", url, headers=headers)) as response:
            self._tell_proxy(url, response)
            answer = self._answer(response, with_body=response.status_code not in (200, 206))
            extent = judge_get(answer, start, end, total)
            if extent.whole and start != 0:
                raise RangeIgnored
            found = etag_of(answer.headers)
            if etag is not None and found is not None and found != etag:
                raise SourceChanged(f"the object changed while it was fetched (ETag {etag} became {found})")
            has_body = extent.end > 0 or response.status_code == 200
            body = _exactly(_chunks(response) if has_body else iter(()), extent.end - extent.start)
            yield RangeReply(
                extent.start, extent.end, total, found, not encrypted(answer.headers), extent.whole, body,
                http_date(answer.headers.get("last-modified", "")), http_date(answer.headers.get("date", "")),
            )  # fmt: skip

    def put(self, url: str, pieces: Iterable[bytes], length: int, content_type: str) -> Confirmation:
        """Send `length` bytes from `pieces`. Returns storage's confirmation; any other answer is raised."""
        self._check(url)
        headers = {"Content-Length": str(length)} | signed_headers(url, content_type)
        sent = 0

        def counted() -> Iterator[bytes]:
            nonlocal sent
            for piece in pieces:
                yield piece
                sent += len(piece)

        with self._mapped(url), _answered(self._uploads.stream("PUT", url, content=counted(), headers=headers)) as response:
            self._tell_proxy(url, response)
            # The body is read even if it is empty: or the next PUT could not reuse this connection. The long limit was
            # for the answer; its body gets the short one.
            response.request.extensions["timeout"]["read"] = self._document_seconds
            return judge_put(self._answer(response, with_body=True), all_sent=sent == length)

    def _check(self, url: str) -> None:
        """Reject URLs that are not http(s) or carry a user name or password, and forbidden addresses."""
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or parts.username or parts.password:
            raise Rejected("the console gave something that is not a signed URL of storage")
        if not may_use_plain_http(url, self._allow_http):
            raise Rejected(f"storage at {host_of(url)} is offered over plain http; [transfer] allow_http = true allows that")
        judge_literal(parts.hostname or "", loopback=self._loopback)  # also before a proxy is used

    def _answer(self, response: httpx.Response, *, with_body: bool) -> Answer:
        """Convert an answer for `s3`. At most an error document's worth of the body is read."""
        url = str(response.request.url)
        headers = {name.lower(): value for name, value in response.headers.items()}
        body = b""
        if with_body:
            try:
                body = self._document(response)
            except (httpx.HTTPError, PyreqwestError):
                # A success needs its whole body; and only the code tells whether a 400 is final.
                if response.status_code < 300 or response.status_code == 400:
                    raise
        request = request_id(response, "x-amz-request-id")
        return Answer(
            url, host_of(url), response.status_code, headers, body, request, retry_after(response, time.time())
        )  # fmt: skip

    def _document(self, response: httpx.Response) -> bytes:
        text, ends = b"", time.monotonic() + self._document_seconds
        for chunk in response.iter_raw():
            text += chunk
            if len(text) >= DOCUMENT_LIMIT or time.monotonic() > ends:
                break
        return text[:DOCUMENT_LIMIT]

    def _tell_proxy(self, url: str, response: httpx.Response) -> None:
        """Recognise a proxy's own 407 to plain http, which is not storage's answer. Raises `Transient`."""
        if response.status_code == 407 and (proxy := self._proxies.leading_to(url)) is not None:
            raise Transient(f"storage {host_of(url)}: through {proxy}: {proxy_answered(407, proxy)}")

    @contextmanager
    def _mapped(self, url: str) -> Iterator[None]:
        """Map errors of the transports to our own; messages name the host, never the URL."""
        try:
            yield
        except (*NETWORK_TROUBLE, httpx.InvalidURL, PyreqwestError) as error:
            silent = f"no byte for {self._stall:g} s ([transfer] stall)"
            reason = network_reason(error, self._proxies.leading_to(url), silent)
            raise Transient(f"storage {host_of(url)}: {reason}") from None


@contextmanager
def _answered(exchange: AbstractContextManager[httpx.Response]) -> Iterator[httpx.Response]:
    """Wait for an answer; its body is not yet read."""
    with ExitStack() as stack:
        try:
            response = stack.enter_context(exchange)
        except ValueError:  # raised by the Rust transport
            raise Transient("the answer of storage is not HTTP") from None
        yield response


def _chunks(response: httpx.Response) -> Iterator[memoryview]:
    """The body as the transport holds it. Its httpx layer would copy each byte twice more, 10 % of the CPU time."""
    reader = response.extensions["pyreqwest_response"].body_reader
    while (chunk := reader.read_chunk()) is not None:
        yield memoryview(chunk)


def _exactly(chunks: Iterator[memoryview], length: int) -> Iterator[memoryview]:
    """Yield exactly `length` bytes. Raises `SourceChanged` for more, `Transient` for fewer."""
    left = length
    for chunk in chunks:
        left -= len(chunk)
        if left < 0 or (left == 0 and any(map(len, chunks))):  # hold the last piece until the end is seen
            raise SourceChanged(f"storage sends more than the expected {length} bytes")
        if len(chunk):
            yield chunk
    if left:
        raise Transient(f"the body was cut short: {left} of {length} bytes are missing")


class _JudgedNetwork(httpcore.NetworkBackend):
    """httpcore's own network, but names are resolved and their addresses checked here."""

    def __init__(self, *, loopback: bool) -> None:
        self._inner, self._loopback = httpcore.SyncBackend(), loopback

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address that answers."""
        try:
            addresses = resolve(host, port, loopback=self._loopback)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        for address in addresses[:-1]:
            try:
                return self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return self._inner.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None
    ) -> httpcore.NetworkStream:
        """Refuse: signed URLs lead to hosts."""
        raise httpcore.ConnectError("signed URLs never lead to Unix sockets")


class _Uploads(httpx.BaseTransport):
    """httpx's own transport: one for direct connections and one for each proxy."""

    def __init__(self, context: ssl.SSLContext, proxies: Proxies, *, loopback: bool) -> None:
        self._context, self._proxies = context, proxies
        # httpx passes no network backend on. Proxies keep theirs: a proxy resolves names by itself.
        straight = self._build(None)
        straight._pool._network_backend = _JudgedNetwork(loopback=loopback)
        self._transports: dict[Proxy | None, httpx.HTTPTransport] = {None: straight}
        self._transports |= {proxy: self._build(proxy) for proxy in proxies.named.values()}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request through the transport of the proxy that its URL needs."""
        return self._transports[self._proxies.leading_to(str(request.url))].handle_request(request)

    def close(self) -> None:
        """Close all connections."""
        for transport in self._transports.values():
            transport.close()

    def _build(self, proxy: Proxy | None) -> httpx.HTTPTransport:
        return httpx.HTTPTransport(
            verify=self._context,
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            proxy=None if proxy is None else with_context(proxy, self._context),
        )


class _Bulk(httpx.BaseTransport):
    """Rust transports: one for each address of a name, so the checked address is the one used; and one for each proxy."""

    def __init__(self, roots: bytes | None, stall: float, proxies: Proxies, *, loopback: bool) -> None:
        self._roots, self._stall, self._proxies, self._loopback = roots, stall, proxies, loopback
        self._straight = SyncHttpxTransport(self._build(None))
        self._through = {proxy: SyncHttpxTransport(self._build(None, proxy)) for proxy in proxies.named.values()}
        self._names: dict[tuple[str, int], tuple[float, list[str]]] = {}
        self._pinned: dict[tuple[str, str, int], SyncHttpxTransport] = {}
        self._turn = 0
        self._lock = threading.Lock()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request to the next address of its host, or through its proxy."""
        url = request.url
        host, port = url.host, url.port or (443 if url.scheme == "https" else 80)
        if (proxy := self._proxies.leading_to(str(url))) is not None:
            return self._through[proxy].handle_request(request)
        if judge_literal(host, loopback=self._loopback):
            return self._straight.handle_request(request)
        transport = self._transport(host, port)
        try:
            return transport.handle_request(request)
        except httpx.ConnectError:
            with self._lock:
                self._names.pop((host, port), None)
            raise

    def close(self) -> None:
        """Close all connections."""
        for transport in (self._straight, *self._through.values(), *self._pinned.values()):
            transport.close()

    def _transport(self, host: str, port: int) -> SyncHttpxTransport:
        with self._lock:
            now = time.monotonic()
            known = self._names.get((host, port))
            if known is None or now - known[0] > NAME_SECONDS:
                try:
                    known = self._names[host, port] = (now, resolve(host, port, loopback=self._loopback))
                except OSError as error:
                    raise httpx.ConnectError(str(error)) from error
            self._turn += 1
            address = known[1][self._turn % len(known[1])]
            key = (host, address, port)
            if key not in self._pinned:
                if len(self._pinned) >= PINNED_MOST:  # not closed: lanes may still read from it
                    del self._pinned[next(iter(self._pinned))]
                self._pinned[key] = SyncHttpxTransport(self._build(key))
            return self._pinned[key]

    def _build(self, pinned: tuple[str, str, int] | None, proxy: Proxy | None = None) -> SyncClient:
        builder = (
            SyncClientBuilder()
            .runtime_multithreaded(True)  # one thread can decrypt about 10 Gbit/s
            .http1_only()
            .follow_redirects(False)
            .no_proxy()  # it would read the environment in its own way
            .referer(False)
            .gzip(False).brotli(False).zstd(False).deflate(False)
            .connect_timeout(timedelta(seconds=CONNECT_SECONDS))
            .read_timeout(timedelta(seconds=self._stall))
        )  # fmt: skip
        if proxy is not None:
            builder = builder.proxy(ProxyBuilder.all(proxy.url))
        if pinned is not None:
            builder = builder.resolve(*pinned)
        if self._roots is not None:
            try:
                builder = builder.add_root_certificate_pem(self._roots)
            except PyreqwestError as error:
                raise BadConfig(f"[console] ca_file: can't be used: {error}") from None
        return builder.build()
