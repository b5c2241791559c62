"""S3 and its relatives: signed URLs, answers to a PUT and to a ranged GET, ETags. Pure.

Only this module judges storage's answers. A PUT succeeded when the answer is 200, 201 or 204 with an ETag, after all bytes
were sent, without an error or a page in its body. A GET succeeded when the answer is exactly the requested part, or the
whole object. Everything else is one of: try again (`Transient`), ask for a fresh URL (`UrlExpired`), the object is another
one (`SourceChanged`), a final no (`Refused`; on a URL that was used before, one fresh URL is worth a try).

Failures handled: headers of any form (an unreadable one counts as absent or makes the answer `Transient`), error documents
with any status, pages of proxies, unrequested content codings, messages that repeat a secret.

Sources: S3 API reference, "Error responses", "Object", "PutObject" and "Authenticating requests: using query parameters";
`docs/storage.md` lists them for each store.
"""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import parse_qs, urlsplit

from axomsync.core.errors import AxomsyncError, Refused, Rejected, SourceChanged, Transient, UrlExpired
from axomsync.core.signatures import without_signature
from axomsync.core.text import printable

MEBIBYTE = 1024 * 1024
DOCUMENT_LIMIT = 8192  # bytes read of a body that is not an object

# Signed URLs


def url_lifetime(url: str, now: float) -> float | None:
    """Seconds that a signed URL still lives at `now` (the signer's clock); None when it does not say.

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
    """Headers covered by the signature of `url`: these must be sent, and no others.

    Raises `Rejected` when the signature covers a header whose value is unknown.
    """
    query = _query(url)
    forms = ("x-amz-signedheaders", "x-goog-signedheaders", "x-oss-additional-headers")
    named = next((query[name] for name in forms if name in query), "host")
    signed = set(named.lower().split(";")) - {"host", "content-length"}
    if unknown := signed - {"content-type"}:
        names = printable(", ".join(sorted(unknown)))[:200]
        raise Rejected(f"the upload URL needs headers with unknown values: {names}; is this the newest axomsync?")
    return {"Content-Type": content_type} if signed else {}


def _query(url: str) -> dict[str, str]:
    try:
        return {name.lower(): values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    except ValueError:
        return {}


@lru_cache(maxsize=16)  # the URLs of one second have the same
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
    """The MD5 in the ETag of an object from a single PUT; None for any other ETag."""
    text = _opaque(etag)
    return text if re.fullmatch(r"[0-9a-f]{32}", text) else None


def composite_md5(etag: str | None) -> tuple[str, int] | None:
    """The ETag of a multipart object and its number of parts; None for any other ETag."""
    text = _opaque(etag)
    match = re.fullmatch(r"[0-9a-f]{32}-(\d{1,5})", text, re.ASCII)
    return (text, int(match[1])) if match else None


def _opaque(etag: str | None) -> str:
    return (etag or "").removeprefix("W/").strip('"').lower()  # compressing proxies make ETags weak and keep the digits


def likely_part_sizes(size: int, parts: int) -> list[int]:
    """Part sizes that divide an object of `size` bytes into `parts` parts: the usual ones first, then whole MiB.

    Each try reads the whole object, so only a few unusual sizes are listed.
    """
    if not parts:
        return []
    usual = [part for part in PART_SIZES if has_parts(size, part, parts)]
    least, most = -(-size // parts), (size - 1) // (parts - 1) if parts > 1 else size + MEBIBYTE
    whole = range(-(-least // MEBIBYTE) * MEBIBYTE, most + 1, MEBIBYTE)
    others = [part for part in whole[:MOST_UNUSUAL_PART_SIZES] if part not in usual and has_parts(size, part, parts)]
    return usual + others


def has_parts(size: int, part: int, parts: int) -> bool:
    """Check that an object of `size` bytes has `parts` parts of `part` bytes."""
    return -(-size // part) == parts


# Answers


@dataclass(frozen=True)
class Answer:
    """Storage's answer. Header names are in lower case; `body` is read, up to a limit, only when it is no object."""

    url: str
    host: str
    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    request: str = ""  # storage's name of the request, for its support: "; request …" or ""
    retry_after: float | None = None


@dataclass(frozen=True)
class Confirmation:
    """A PUT that storage confirmed. `etag_is_md5` is False when storage says that its ETags are no MD5s."""

    etag: str
    etag_is_md5: bool
    has_body: bool = False  # unusual for a PUT: without other proof, a proxy may have answered


@dataclass(frozen=True)
class Extent:
    """Bytes in an answer, `end` exclusive; `whole`: they are the whole object."""

    start: int
    end: int
    whole: bool


def judge_put(answer: Answer, *, all_sent: bool) -> Confirmation:
    """Judge the answer to a PUT. Raises unless it confirms that storage has all bytes."""
    if answer.status not in (200, 201, 204):
        raise _no(answer, "PUT")
    code, words = _words(answer)
    what = f"storage {answer.host} answered {answer.status}"
    if code or _is_page(answer):
        # A proxy, a sign-in page, or a store that met an error after it had sent the status.
        raise Transient(
            f"{what} with {f'an error in its body ({words})' if code else 'a page'}: the upload is not confirmed"
        )
    if not all_sent:
        raise Transient(f"{what} before it had all bytes: the upload is not confirmed")
    etag = etag_of(answer.headers)
    if etag is None:
        raise Transient(f"{what} without an ETag: the upload is not confirmed; check whether a proxy answers for storage")
    has_body = bool(answer.body.strip()) or len(answer.body) >= DOCUMENT_LIMIT
    return Confirmation(etag, not encrypted(answer.headers), has_body)


def judge_get(answer: Answer, start: int, end: int, total: int) -> Extent:
    """Judge the answer to a GET of bytes `start` to `end` of an object of `total` bytes. Raises unless it fits.

    For an empty object the first byte is requested; a 416 then proves that it is empty.
    """
    size = number(answer.headers.get("content-range", "").rpartition("/")[2])
    if total == 0 and ((answer.status == 416 and size in (None, 0)) or (answer.status == 206 and size == 0)):
        return Extent(0, 0, whole=True)  # Azure and MinIO answer 206 with bytes 0--1/0
    if answer.status == 416 and size not in (None, total):
        raise SourceChanged(f"storage has {size} bytes where the manifest says {total}")
    if answer.status not in (200, 206):
        raise _no(answer, "GET")
    if strange := _strange_codings(answer):
        named = _told(answer, ", ".join(sorted(strange)), 60)
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
    """Content codings that change the object's bytes."""
    named = f"{answer.headers.get('content-encoding', '')},{answer.headers.get('transfer-encoding', '')}"
    # SDKs leave aws-chunked in an object's metadata: the bytes are unchanged. The transport removes chunked.
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
    """Recognise SSE-KMS and SSE-C, under which ETags are no MD5s (S3 API reference, "Object")."""
    kms = headers.get("x-amz-server-side-encryption", "").startswith("aws:kms")
    return kms or any(name.startswith("x-amz-server-side-encryption-customer-") for name in headers)


def etag_of(headers: Mapping[str, str]) -> str | None:
    """The ETag; None when it is missing or can't be sent back in a header."""
    text = headers.get("etag", "").strip()
    fits = re.fullmatch(r'(W/)?"[\x21\x23-\x7e]{1,200}"|[\x21\x23-\x7e]{1,200}', text)
    return text if fits and _opaque(text) else None


def length_of(answer: Answer) -> int | None:
    """Content-Length; None when absent. Several equal ones count as one (RFC 9112, 6.3)."""
    text = answer.headers.get("content-length")
    if text is None:
        return None
    lengths = {number(each.strip()) for each in text.split(",")}
    if len(lengths) != 1 or None in lengths:
        raise Transient(f"storage {answer.host} answered with a Content-Length that can't be read")
    return lengths.pop()


def number(text: str | None) -> int | None:
    """Parse a number of a header or URL; None when it is none or has more than 18 digits."""
    return int(text) if text is not None and re.fullmatch(r"\d{1,18}", text, re.ASCII) else None


# Refusals

# By the code in the error document; codes in none of these sets are judged by the status.
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
    "NoSuchBucket": ": tell the operator of the console",
    "QuotaExceeded": ": the bucket is full; tell the operator of the console",
}
_ADVICE_BY_STATUS = {
    407: "; the proxy needs a user and a password: put them into $HTTPS_PROXY",
    411: "; a proxy in between removes Content-Length from uploads: configure it to keep it",
    413: _SHARD,
}


def _no(answer: Answer, method: str) -> AxomsyncError:
    """The error for an answer without success."""
    status = answer.status
    code, words = _words(answer)
    message = f"storage {answer.host} answered {status} ({words}{answer.request})"
    message += _ADVICE.get(code) or _ADVICE_BY_STATUS.get(status, "")
    if code == "RequestTimeTooSkewed":
        return Transient(f"{message}; this machine's clock is wrong; set up time synchronisation")
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
        return Transient(f"{message}: the request was not conditional; does a cache stand in between?")
    if 300 <= status < 400:
        return Refused(f"{message}: it redirects, which the signature does not cover; tell the operator of the console")
    if 400 <= status < 500 or status in (501, 505):
        return Refused(message)
    return Transient(f"{message}, which is not an answer to a {method}")


def names_a_fault(answer: Answer) -> bool:
    """Check that an answer is storage's own: it holds an error document, which no proxy in between makes."""
    return bool(_words(answer)[0])


def still_refused(refusal: AxomsyncError) -> UrlExpired:
    """Turn a refusal of several fresh URLs in a row into `UrlExpired`: their age is not the reason."""
    return UrlExpired(f"{refusal}, with new URLs too; run `axomsync doctor`: it checks the clock and what storage accepts")


def _is_page(answer: Answer) -> bool:
    """Recognise a page for people. Some stores send an empty body with the type of a page, which is not one."""
    return bool(re.match(rb"\s*<(!doctype|html|head|body)\b", answer.body, re.IGNORECASE)) or (
        answer.headers.get("content-type", "").lower().startswith("text/html") and bool(answer.body.strip())
    )


def _words(answer: Answer) -> tuple[str, str]:
    """The code of an error document ("" when there is none), and one line with code and message."""
    code, message = (_element(answer, name) for name in (b"Code", b"Message"))
    code = code or _told(answer, answer.headers.get("x-ms-error-code", ""), 100)  # Azure sends it also without a body
    if not code and re.search(rb"<Error[\s/>]", answer.body):
        code = "Error"
    return code, ": ".join(part for part in (code, message) if part) or "no reason given"


def _element(answer: Answer, name: bytes) -> str:
    match = re.search(rb"<%s>([^<]{1,1000})</%s>" % (name, name), answer.body)
    return "" if match is None else _told(answer, html.unescape(match[1].decode("utf-8", "replace")), 200)


def _told(answer: Answer, text: str, most: int) -> str:
    """Storage's own words for a message. Some stores repeat signatures and tokens; these go before the cut."""
    return printable(without_signature(text, answer.url))[:most]
