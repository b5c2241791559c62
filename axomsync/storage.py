"""Object storage behind presigned URLs: one ranged GET, one PUT. Maps what storage answers to what to do next.

httpx is the interface; downloads travel through a Rust transport that does TLS and socket reads off the GIL. Nothing but
what the URL's signature asks for is sent: no Authorization, no cookies, no redirects, no unsigned `x-amz-*` header.

Failures handled: expired or revoked URLs (`UrlExpired`), SlowDown and 5xx (`Transient`, marked as congestion), a changed
object (`SourceChanged`: 412, 416, another ETag, another total), a store that ignores Range (`RangeIgnored`), a body cut
short, a stalled connection, a clock that is off, plain http to a foreign host (`Rejected`).

The sources of facts are the S3 API reference, "Error responses" and "Authenticating requests: using query parameters".
"""

import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
from pyreqwest.client import SyncClientBuilder
from pyreqwest.compatibility.httpx import SyncHttpxTransport
from pyreqwest.exceptions import PyreqwestError
from pyreqwest.exceptions import RequestTimeoutError as TransportTimeout

from axomsync import __version__
from axomsync.config import may_use_plain_http
from axomsync.errors import BadConfig, Rejected, SourceChanged, Transient, UrlExpired, printable
from axomsync.http import distrust, host_of, request_id, retry_after, tls_context

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 120.0  # storage may think for long between the last byte of a large PUT and its answer

# What the XML codes of S3-style errors ask for. Anything else is judged by its HTTP status.
EXPIRED_CODES = frozenset({"AccessDenied", "ExpiredToken", "TokenRefreshRequired", "RequestExpired"})
RETRY_CODES = frozenset({"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling"})
CONGESTION_CODES = frozenset({"SlowDown", "ServiceUnavailable", "Throttling"})
_ADVICE = {
    "EntityTooLarge": "; set [drop] shard to less, so that the file goes up in parts",
    "NoSuchKey": ": the object is not there; publish the model again in the console",
}

_HEADERS = {"User-Agent": f"axomsync/{__version__}", "Accept-Encoding": "identity"}


@dataclass(frozen=True)
class RangeReply:
    """An accepted answer to a ranged GET: `chunks` yields the bytes from `start` on, `end` being exclusive."""

    start: int
    end: int
    total: int
    etag: str | None
    etag_is_md5: bool  # False when storage says that it encrypted the object with a key of its own
    whole: bool  # the store ignored the range and sends all
    chunks: Iterator[memoryview]


class RangeIgnored(Exception):  # the store's habit, not a failure
    """Storage answered with the whole object where a part was asked for."""


class Storage:
    """Connections to object storage, shared by all transfers. `stall` is the longest silence, in seconds, and
    `answer_seconds` the longest between the end of a PUT and its answer, if that is more."""

    def __init__(
        self,
        *,
        stall: float,
        ca_file: str | None = None,
        allow_http: bool = False,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._allow_http = allow_http
        self._stall = stall
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))  # load balancers before storage set them
        self._downloads = httpx.Client(
            transport=_bulk_transport(ca_file, stall),
            headers=_HEADERS,
            cookies=no_cookies,
            timeout=None,  # noqa: S113  # the transport has its own
        )
        # Uploads keep httpx's own transport: its timeouts hold for each write and read. The Rust one has a read timeout
        # that runs while a body is being sent, and so ends every upload that takes longer.
        self._uploads = httpx.Client(
            verify=tls_context(ca_file),
            headers=_HEADERS,
            cookies=no_cookies,
            timeout=httpx.Timeout(stall, connect=CONNECT_SECONDS, read=max(stall, answer_seconds), pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )

    def close(self) -> None:
        """Close all connections."""
        self._downloads.close()
        self._uploads.close()

    @contextmanager
    def get(self, url: str, start: int, end: int, total: int, etag: str | None) -> Iterator[RangeReply]:
        """Bytes `start` to `end` (exclusive) of an object of `total` bytes, which must still have `etag` when given.

        A store that ignores Range answers with the whole object: that is taken when `start` is 0 (the reply then ends at
        `total`, whatever `end` was asked) and raises `RangeIgnored` otherwise.
        """
        self._check(url)
        headers = {"Range": f"bytes={start}-{end - 1}"}
        if etag is not None and not etag.startswith("W/"):  # If-Match never holds for a weak ETag (RFC 9110, 13.1.1)
            headers["If-Match"] = etag
        with self._mapped(url), _answer(self._downloads.stream("GET", url, headers=headers)) as response:
            begin, stop = _extent(response, start, end, total)
            found = response.headers.get("ETag")
            if etag is not None and found is not None and found != etag:
                raise SourceChanged(f"the object changed while it was fetched (ETag {etag} became {printable(found)})")
            body = _exactly(_chunks(response), stop - begin)
            yield RangeReply(begin, stop, total, found, not _encrypted(response), response.status_code == 200, body)

    def put(self, url: str, pieces: Iterator[bytes], length: int, content_type: str) -> str | None:
        """PUT `length` bytes that `pieces` yields, and return the ETag that storage gives."""
        self._check(url)
        headers = {"Content-Length": str(length)} | signed_headers(url, content_type)
        with self._mapped(url), _answer(self._uploads.stream("PUT", url, content=pieces, headers=headers)) as response:
            if response.headers.get("Content-Length") == "0":
                response.read()  # costs no time, and without it the next PUT could not use this connection
            etag: str | None = response.headers.get("ETag")
            return etag

    def _check(self, url: str) -> None:
        """Refuse what is no address of storage, or would be sent with more than its signature."""
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or parts.username or parts.password:
            raise Rejected("the console gave something that is no signed URL of a storage")
        if not may_use_plain_http(url, self._allow_http):
            raise Rejected(f"storage at {host_of(url)} is offered over plain http; [transfer] allow_http = true allows that")

    @contextmanager
    def _mapped(self, url: str) -> Iterator[None]:
        """Turn what the transports raise into our own errors; messages name the host, never the URL."""
        try:
            yield
        except (httpx.ConnectTimeout, httpx.PoolTimeout):
            raise Transient(f"storage {host_of(url)}: no connection in time") from None
        except (httpx.TimeoutException, TransportTimeout):
            raise Transient(f"storage {host_of(url)}: no byte for {self._stall:g} s") from None
        except httpx.ConnectError as error:
            reason = distrust(error) or "can't connect"
            raise Transient(f"storage {host_of(url)}: {reason}") from None
        except (httpx.HTTPError, httpx.InvalidURL, PyreqwestError) as error:
            raise Transient(f"storage {host_of(url)}: the connection broke ({type(error).__name__})") from None


@contextmanager
def _answer(exchange: AbstractContextManager[httpx.Response]) -> Iterator[httpx.Response]:
    """A successful answer, its body not yet read."""
    with ExitStack() as stack:
        try:
            response = stack.enter_context(exchange)
        except ValueError:  # so says the Rust transport
            raise Transient("storage answered with what is not HTTP") from None
        _raise_for_status(response)
        yield response


def signed_headers(url: str, content_type: str) -> dict[str, str]:
    """The headers that the signature of `url` covers, which must be sent, and with nothing else added.

    Raises `Rejected` when a header is signed whose value nobody told us.
    """
    query = {name.lower(): values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    signed = set(query.get("x-amz-signedheaders", "host").split(";")) - {"host", "content-length"}
    if unknown := signed - {"content-type"}:
        names = ", ".join(sorted(unknown))
        raise Rejected(f"the upload URL wants headers that the console does not tell: {names}; is this the newest axomsync?")
    return {"Content-Type": content_type} if signed else {}


def _bulk_transport(ca_file: str | None, stall: float) -> SyncHttpxTransport:
    builder = (
        SyncClientBuilder()
        .runtime_multithreaded(True)  # one thread can decrypt about 10 Gbit/s
        .http1_only()
        .follow_redirects(False)
        .referer(False)
        .gzip(False).brotli(False).zstd(False).deflate(False)
        .connect_timeout(timedelta(seconds=CONNECT_SECONDS))
        .read_timeout(timedelta(seconds=stall))
    )  # fmt: skip
    if ca_file is not None:
        try:
            builder = builder.add_root_certificate_pem(Path(ca_file).read_bytes())
        except (OSError, PyreqwestError) as error:
            raise BadConfig(f"[console] ca_file {ca_file}: can't be used: {error}") from None
    return SyncHttpxTransport(builder.build())


def _extent(response: httpx.Response, start: int, end: int, total: int) -> tuple[int, int]:
    """First byte and end of what the answer brings; raises unless it fits what was asked."""
    if response.status_code == 200:
        length = response.headers.get("Content-Length")
        if length is not None and int(length) != total:
            raise SourceChanged(f"storage has {length} bytes where the manifest says {total}")
        if start != 0:
            raise RangeIgnored
        return 0, total
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", ""))
    if match is None:
        raise Transient(f"storage {host_of(str(response.request.url))}: a 206 without a usable Content-Range")
    if match[3] != "*" and int(match[3]) != total:
        raise SourceChanged(f"storage has {match[3]} bytes where the manifest says {total}")
    begin, stop = int(match[1]), int(match[2]) + 1
    if begin != start or stop > end or stop <= begin:
        raise Transient(f"storage answered with bytes {begin}-{stop - 1} where {start}-{end - 1} were asked")
    return begin, stop


def _encrypted(response: httpx.Response) -> bool:
    """Under SSE-KMS and SSE-C the ETag is no MD5 (S3 API reference, "Object")."""
    kms = response.headers.get("x-amz-server-side-encryption", "").startswith("aws:kms")
    return kms or "x-amz-server-side-encryption-customer-algorithm" in response.headers


def _chunks(response: httpx.Response) -> Iterator[memoryview]:
    """The body as the transport has it. Its httpx layer would copy each byte twice more, a tenth of all that CPU."""
    reader = response.extensions["pyreqwest_response"].body_reader
    while (chunk := reader.read_chunk()) is not None:
        yield memoryview(chunk)


def _exactly(chunks: Iterator[memoryview], length: int) -> Iterator[memoryview]:
    left = length
    for chunk in chunks:
        if len(chunk) > left:
            chunk = chunk[:left]
        left -= len(chunk)
        yield chunk
        if not left:
            return
    raise Transient(f"the body was cut short: {left} of {length} bytes are missing")


def _raise_for_status(response: httpx.Response) -> None:
    status = response.status_code
    if status in (200, 201, 204, 206):
        return
    code, words = _error_document(response)
    words += request_id(response, "x-amz-request-id")
    message = f"storage {host_of(str(response.request.url))} answered {status} ({words})"
    if status == 412:
        raise SourceChanged(f"the object changed while it was fetched: {message}")
    if status == 416:
        raise SourceChanged(f"the object is shorter than the manifest says: {message}")
    if code == "RequestTimeTooSkewed":
        raise Transient(f"{message}; this machine's clock is off, set up time synchronisation")
    if 300 <= status < 400:
        raise Rejected(f"{message}: it redirects elsewhere, which no signature covers; tell whoever runs the console")
    if status in (401, 403) or code in EXPIRED_CODES:
        raise UrlExpired(message)
    if status in (408, 425, 429) or status >= 500 or code in RETRY_CODES:
        congestion = status in (429, 503) or code in CONGESTION_CODES
        raise Transient(message, retry_after(response, time.time()), congestion=congestion)
    raise Rejected(message + _ADVICE.get(code, ""))


def still_refused(refusal: UrlExpired) -> UrlExpired:
    """As `refusal`, when it was met with one fresh URL after the other: their age is not the reason."""
    return UrlExpired(f"{refusal}, with fresh URLs too; `axomsync doctor` looks at the clock and at what storage takes")


def _error_document(response: httpx.Response) -> tuple[str, str]:
    """S3's error code and a line that holds it with the message. Looks at no more than 8 KiB, at nothing that is signed."""
    text = b""
    try:
        for chunk in response.iter_raw():
            text += chunk
            if len(text) >= 8192:
                break
    except (httpx.HTTPError, PyreqwestError):
        if response.status_code == 400:  # whether it is for good is in its code alone
            raise
    code, message = (_element(text, name) for name in (b"Code", b"Message"))
    return code, ": ".join(part for part in (code, message) if part) or "no reason given"


def _element(document: bytes, name: bytes) -> str:
    match = re.search(rb"<%s>([^<]{1,200})</%s>" % (name, name), document)
    return printable(match[1].decode("utf-8", "replace")) if match else ""
