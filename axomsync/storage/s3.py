"""What S3 and its like say, and what it means: signed URLs, answers to a PUT and to a ranged GET, ETags. Pure.

The one judge of storage's answers. A PUT succeeded when the answer is one that only a PUT gets: 200, 201 or 204 with an
ETag, after all bytes were handed over, without an error or a page in its body. A GET succeeded when the answer is exactly
the part that was asked for, or the whole object. Everything else is one of: try again (`Transient`), ask for a fresh URL
(`UrlExpired`), the object is another one (`SourceChanged`), a final no (`Refused`, which on a URL that was used before is
worth one fresh URL).

Failures handled: headers of any form (those that can't be read count as absent, or make the answer `Transient`), error
documents with any status, pages of proxies, codings that nobody asked for, words that repeat what is secret.

Sources: S3 API reference, "Error responses", "Object", "PutObject" and "Authenticating requests: using query parameters";
`docs/storage.md` has them store by store.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qs, parse_qsl, urlsplit

from axomsync.core.errors import AxomsyncError, Refused, Rejected, SourceChanged, Transient, UrlExpired
from axomsync.core.text import printable

MEBIBYTE = 1024 * 1024
DOCUMENT_LIMIT = 8192  # bytes that are read of a body that is no object

# Signed URLs


def url_lifetime(url: str, now: float) -> float | None:
    """Seconds that a signed URL still lives at `now` (the signer's clock), None when it does not say.

    Forms: `X-Amz-Date` and `-Expires` of Signature Version 4, the same of Google (`X-Goog-`) and Alibaba (`x-oss-`);
    `Expires`, seconds since the epoch, of Signature Version 2 and of CloudFront; `se`, a date, of Azure's SAS.
    """
    query = _query(url)
    for vendor in ("x-amz-", "x-goog-", "x-oss-"):
        signed, lifetime = _compact_date(query.get(f"{vendor}date", "")), number(query.get(f"{vendor}expires"))
        if signed is not None and lifetime is not None:
            return signed + lifetime - now
    if (expires := number(query.get("expires") or query.get("x-oss-expires"))) is not None:
        return expires - now
    if "sig" in query and "se" in query:
        try:
            end = datetime.fromisoformat(query["se"])
            return (end if end.tzinfo else end.replace(tzinfo=UTC)).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return None


def signed_headers(url: str, content_type: str) -> dict[str, str]:
    """The headers that the signature of `url` covers, which must be sent, and with nothing else added.

    Raises `Rejected` when a header is signed whose value nobody told us.
    """
    query = _query(url)
    forms = ("x-amz-signedheaders", "x-goog-signedheaders", "x-oss-additional-headers")
    named = next((query[name] for name in forms if name in query), "host")
    signed = set(named.lower().split(";")) - {"host", "content-length"}
    if unknown := signed - {"content-type"}:
        names = printable(", ".join(sorted(unknown)))[:200]
        raise Rejected(f"the upload URL wants headers that the console does not tell: {names}; is this the newest axomsync?")
    return {"Content-Type": content_type} if signed else {}


def _query(url: str) -> dict[str, str]:
    try:
        return {name.lower(): values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    except ValueError:
        return {}


def _compact_date(text: str) -> float | None:
    try:
        return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


# ETags

# Part sizes that SDKs and tools use by default or by doubling, most common first.
PART_SIZES = tuple(
    [n * MEBIBYTE for n in (8, 5, 16, 64, 100, 10, 15, 25, 32, 50, 128, 256, 512, 1024, 4, 20, 2, 1)]
    + [n * 1_000_000 for n in (8, 5, 10, 16, 50, 100)]
)
MOST_UNUSUAL_PART_SIZES = 16


def plain_md5(etag: str | None) -> str | None:
    """The MD5 that the ETag of an object from a single PUT is, None for any other ETag."""
    text = _opaque(etag)
    return text if re.fullmatch(r"[0-9a-f]{32}", text) else None


def composite_md5(etag: str | None) -> tuple[str, int] | None:
    """The ETag of a multipart object and its number of parts, None for any other ETag."""
    text = _opaque(etag)
    match = re.fullmatch(r"[0-9a-f]{32}-(\d{1,5})", text, re.ASCII)
    return (text, int(match[1])) if match else None


def _opaque(etag: str | None) -> str:
    return (etag or "").removeprefix("W/").strip('"').lower()  # proxies that compress make ETags weak, and change no digit


def likely_part_sizes(size: int, parts: int) -> list[int]:
    """The part sizes with which an object of `size` bytes has `parts` parts: the usual ones first, then whole MiB.

    Each that is tried costs a reading of the whole object, so there are not many of the others.
    """
    if not parts:
        return []
    usual = [part for part in PART_SIZES if has_parts(size, part, parts)]
    least, most = -(-size // parts), (size - 1) // (parts - 1) if parts > 1 else size + MEBIBYTE
    whole = range(-(-least // MEBIBYTE) * MEBIBYTE, most + 1, MEBIBYTE)
    others = [part for part in whole[:MOST_UNUSUAL_PART_SIZES] if part not in usual and has_parts(size, part, parts)]
    return usual + others


def has_parts(size: int, part: int, parts: int) -> bool:
    """Whether an object of `size` bytes in parts of `part` bytes has so many of them."""
    return -(-size // part) == parts


# Answers


@dataclass(frozen=True)
class Answer:
    """What storage answered. Header names are in lower case; `body` is read only where it is no object, up to a limit."""

    url: str
    host: str
    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    request: str = ""  # what storage calls it, for its support: "; request …" or nothing
    retry_after: float | None = None


@dataclass(frozen=True)
class Confirmation:
    """A PUT that storage confirmed. `etag_is_md5` is False where storage says that its ETags are none."""

    etag: str
    etag_is_md5: bool
    has_body: bool = False  # a PUT's answer has none: where nothing else proves it, somebody else may have answered


@dataclass(frozen=True)
class Extent:
    """Which bytes an answer brings, `end` being exclusive, and whether that is the object whole."""

    start: int
    end: int
    whole: bool


def judge_put(answer: Answer, *, all_sent: bool) -> Confirmation:
    """What a PUT came to. Raises unless it is confirmed that storage has all its bytes."""
    if answer.status not in (200, 201, 204):
        raise _no(answer, "PUT")
    code, words = _words(answer)
    what = f"storage {answer.host} answered {answer.status}"
    if code or _is_page(answer):
        # A proxy, a sign-in page, or a store that noticed its trouble after the status had gone out.
        raise Transient(
            f"{what} with {f'an error in its body ({words})' if code else 'a page'}: the upload is not confirmed"
        )
    if not all_sent:
        raise Transient(f"{what} before it had all bytes: the upload is not confirmed")
    etag = etag_of(answer.headers)
    if etag is None:
        raise Transient(f"{what} without an ETag: the upload is not confirmed; does a proxy answer in its place?")
    has_body = bool(answer.body.strip()) or len(answer.body) >= DOCUMENT_LIMIT
    return Confirmation(etag, not encrypted(answer.headers), has_body)


def judge_get(answer: Answer, start: int, end: int, total: int) -> Extent:
    """What the answer to a GET of bytes `start` to `end` of an object of `total` bytes brings. Raises unless that fits.

    Of an empty object the first byte is asked for: that it is not to be had is the proof that it is empty.
    """
    size = number(answer.headers.get("content-range", "").rpartition("/")[2])
    if total == 0 and ((answer.status == 416 and size in (None, 0)) or (answer.status == 206 and size == 0)):
        return Extent(0, 0, whole=True)  # the latter is how Azure and MinIO say it: bytes 0--1/0
    if answer.status == 416 and size not in (None, total):
        raise SourceChanged(f"storage has {size} bytes where the manifest says {total}")
    if answer.status not in (200, 206):
        raise _no(answer, "GET")
    if strange := _strange_codings(answer):
        named = printable(", ".join(sorted(strange)))[:60]
        raise Refused(
            f"storage {answer.host} sends it with Content-Encoding {named!r}, which was not requested; store the object "
            "without Content-Encoding, or have the proxy in between leave it alone"
        )
    kind = answer.headers.get("content-type", "").lower()
    if kind.startswith(_PAGES) and not urlsplit(answer.url).path.lower().endswith((".html", ".htm", ".xhtml")):
        raise Transient(f"storage {answer.host} answered with a page instead of the object; does a proxy stand in between?")
    if kind.startswith("multipart/byteranges"):  # never for one range (RFC 9110, 15.3.7)
        raise Transient(f"storage {answer.host} answered with several parts where one was asked for")
    if answer.status == 206 or "content-range" in answer.headers:  # rclone's server calls a part 200
        return _part(answer, start, end, total)
    length = length_of(answer)
    if length is not None and length != total:
        raise SourceChanged(f"storage has {length} bytes where the manifest says {total}")
    return Extent(0, total, whole=True)


def _strange_codings(answer: Answer) -> set[str]:
    """Codings of the body in which the object's bytes would not be themselves."""
    named = f"{answer.headers.get('content-encoding', '')},{answer.headers.get('transfer-encoding', '')}"
    # SDKs leave aws-chunked in an object's metadata: no byte differs. The other is taken off by the transport.
    return {each.strip() for each in named.lower().split(",")} - {"", "identity", "aws-chunked", "chunked"}


def _part(answer: Answer, start: int, end: int, total: int) -> Extent:
    given = answer.headers.get("content-range", "")
    match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", given.strip(), re.ASCII | re.IGNORECASE)
    if match is None:
        raise Transient(f"storage {answer.host}: a 206 without a usable Content-Range")
    if match[3] != "*" and int(match[3]) != total:
        raise SourceChanged(f"storage has {match[3]} bytes where the manifest says {total}")
    begin, stop = int(match[1]), int(match[2]) + 1
    if begin != start or stop > end or stop <= begin:
        raise Transient(f"storage answered with bytes {begin}-{stop - 1} where {start}-{end - 1} were asked")
    return Extent(begin, stop, whole=False)


def encrypted(headers: Mapping[str, str]) -> bool:
    """Whether ETags are no MD5s because the object is under SSE-KMS or SSE-C (S3 API reference, "Object")."""
    kms = headers.get("x-amz-server-side-encryption", "").startswith("aws:kms")
    return kms or any(name.startswith("x-amz-server-side-encryption-customer-") for name in headers)


def etag_of(headers: Mapping[str, str]) -> str | None:
    """The ETag, None when there is none that could be sent back in a header and kept."""
    text = headers.get("etag", "").strip()
    fits = re.fullmatch(r'(W/)?"[\x21\x23-\x7e]{1,200}"|[\x21\x23-\x7e]{1,200}', text)
    return text if fits and _opaque(text) else None


def length_of(answer: Answer) -> int | None:
    """Content-Length; None when the answer does not say. Several that agree are one (RFC 9112, 6.3)."""
    text = answer.headers.get("content-length")
    if text is None:
        return None
    lengths = {number(each.strip()) for each in text.split(",")}
    if len(lengths) != 1 or None in lengths:
        raise Transient(f"storage {answer.host} answered with a Content-Length that can't be read")
    return lengths.pop()


def number(text: str | None) -> int | None:
    """A number that a header or a URL may hold; None for what is none, or larger than any such number."""
    return int(text) if text is not None and re.fullmatch(r"\d{1,18}", text, re.ASCII) else None


# Refusals

# By the code of the error document; what is in none of these is judged by its status.
_ASK_FOR_ANOTHER_URL = frozenset({
    "AccessDenied", "ExpiredToken", "ExpiredTokenException", "ExpiredRequest", "RequestExpired", "TokenRefreshRequired",
    "InvalidToken", "InvalidTokenId", "AuthenticationFailed", "SignatureDoesNotMatch", "AuthorizationQueryParametersError",
    "AuthorizationHeaderMalformed", "ObjectLockedByBucketPolicy", "BlobImmutableDueToPolicy", "FileImmutable",
    "FileAlreadyExists",
})  # fmt: skip
_BUSY = frozenset({
    "SlowDown", "SlowDownRead", "SlowDownWrite", "ServiceUnavailable", "Throttling", "ThrottlingException",
    "ThrottledException", "RequestThrottled", "RequestThrottledException", "RequestLimitExceeded", "RateLimitExceeded",
    "BandwidthLimitExceeded", "TooManyRequests", "ServerBusy", "ErrTooManyRequest", "ErrRequestBytesExceed",
})  # fmt: skip
_TRY_AGAIN = _BUSY | frozenset({
    "RequestTimeout", "InternalError", "IncompleteBody", "OperationAborted", "ConditionalRequestConflict", "BadDigest",
    "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "CrcMismatch", "Md5Mismatch", "TemporaryRedirect",
    "OperationTimedOut", "PriorRequestNotComplete", "ClientDisconnect", "ClientDisconnected", "QuotaExceeded",
    "XMinioAdminBucketQuotaExceeded", "KMS.ThrottlingException",
})  # fmt: skip
_FINAL = frozenset({
    "InvalidObjectState", "AllAccessDisabled", "AccountProblem", "UserProjectAccountProblem", "UserSuspended", "NotEntitled",
    "NotImplemented", "KMS.DisabledException", "KMS.NotFoundException",
})  # fmt: skip

_PAGES = ("text/html", "application/xhtml+xml")
_SHARD = "; set [drop] shard to less, so that the file goes up in parts"
_ADVICE = {
    "EntityTooLarge": _SHARD,
    "InvalidObjectState": ": the object is archived; have it restored",
    "NoSuchKey": ": the object is not there; publish the model again in the console",
    "NoSuchBucket": ": tell whoever runs the console",
    "QuotaExceeded": ": the bucket is full; tell whoever runs the console",
}
_ADVICE_BY_STATUS = {
    407: "; the proxy wants a user and a password: put them into $HTTPS_PROXY",
    411: "; a proxy in between takes the length off uploads: have it leave them alone",
    413: _SHARD,
}


def _no(answer: Answer, method: str) -> AxomsyncError:
    """What an answer that is no success asks for."""
    status = answer.status
    code, words = _words(answer)
    message = f"storage {answer.host} answered {status} ({words}{answer.request})"
    message += _ADVICE.get(code) or _ADVICE_BY_STATUS.get(status, "")
    if code == "RequestTimeTooSkewed":
        return Transient(f"{message}; this machine's clock is off, set up time synchronisation")
    if method == "GET" and status == 412:
        return SourceChanged(f"the object changed while it was fetched: {message}")
    if method == "GET" and status == 416:
        return SourceChanged(f"the object is shorter than the manifest says: {message}")
    if code in _FINAL:
        return Refused(message)
    busy = status in (429, 503) or code in _BUSY
    if (
        code in _TRY_AGAIN
        or busy
        or (status == 409 and not code)
        or status in (407, 408, 425, 499)
        or (status >= 500 and status not in (501, 505))
    ):
        return Transient(message, answer.retry_after, congestion=busy)
    if status in (401, 403) or code in _ASK_FOR_ANOTHER_URL:
        return UrlExpired(message)
    if status == 304:
        return Transient(f"{message}: nobody asked whether it changed; does a cache stand in between?")
    if 300 <= status < 400:
        return Refused(f"{message}: it redirects elsewhere, which no signature covers; tell whoever runs the console")
    if 400 <= status < 500 or status in (501, 505):
        return Refused(message)
    return Transient(f"{message}, which is no answer to a {method}")


def still_refused(refusal: AxomsyncError) -> UrlExpired:
    """As `refusal`, when it was met with one fresh URL after the other: their age is not the reason."""
    return UrlExpired(f"{refusal}, with new URLs too; run `axomsync doctor`: it checks the clock and what storage accepts")


def _is_page(answer: Answer) -> bool:
    """Whether the body is for people. The answer to a PUT has none; some stores say so with the type of a page."""
    return bool(re.match(rb"\s*<(!doctype|html|head|body)\b", answer.body, re.IGNORECASE)) or (
        answer.headers.get("content-type", "").lower().startswith("text/html") and bool(answer.body.strip())
    )


def _words(answer: Answer) -> tuple[str, str]:
    """The code of an error document, "" when it is none, and a line that holds it with its message."""
    code, message = (_element(answer, name) for name in (b"Code", b"Message"))
    code = code or printable(answer.headers.get("x-ms-error-code", ""))[:100]  # Azure's, also without a body
    if not code and re.search(rb"<Error[\s/>]", answer.body):
        code = "Error"
    return code, ": ".join(part for part in (code, message) if part) or "no reason given"


def _element(answer: Answer, name: bytes) -> str:
    match = re.search(rb"<%s>([^<]{1,1000})</%s>" % (name, name), answer.body)
    if match is None:
        return ""
    text = match[1].decode("utf-8", "replace")
    for _, secret in parse_qsl(urlsplit(answer.url).query):
        if len(secret) > 15:  # signatures and tokens, which some stores repeat
            text = text.replace(secret, "…")
    return printable(text)[:200]
