"""Judgement of storage's answers, as tables: the result of each PUT and GET, and the meaning of URLs and ETags."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axomsync.core.errors import AxomsyncError, Refused, Rejected, SourceChanged, Transient, UrlExpired
from axomsync.storage.s3 import (
    Answer,
    Confirmation,
    composite_md5,
    etag_of,
    judge_get,
    judge_put,
    likely_part_sizes,
    plain_md5,
    signed_headers,
    url_lifetime,
)

SECRET = "f7d8c5e4" * 8
URL = f"https://bucket.store.test/key.jsonl?X-Amz-Signature={SECRET}&X-Amz-Expires=900"
MD5 = "0123456789abcdef0123456789abcdef"
TAG = {"etag": f'"{MD5}"'}
Headers = dict[str, str]


def answer(status: int, headers: Headers | None = None, body: bytes = b"", url: str = URL) -> Answer:
    return Answer(url, "store.test", status, headers or {}, body)


def error(code: str, message: str = "no") -> bytes:
    return f'<?xml version="1.0"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'.encode()


PAGE = b"<!DOCTYPE html><html><body>Please sign in</body></html>"
YES = Confirmation(f'"{MD5}"', etag_is_md5=True)
NO_MD5 = Confirmation(f'"{MD5}"', etag_is_md5=False)

# (status, headers, body, verdict); a verdict is a confirmation, or (exception, part of its message)
PUTS: list[tuple[int, Headers, bytes, Confirmation | tuple[type[AxomsyncError], str]]] = [
    (200, TAG, b"", YES),
    (201, TAG, b"", YES),
    (204, TAG, b"", YES),
    (200, {"etag": MD5}, b"", Confirmation(MD5, etag_is_md5=True)),
    (200, {"etag": f'W/"{MD5}"'}, b"", Confirmation(f'W/"{MD5}"', etag_is_md5=True)),
    (200, {"etag": '"5f-61"'}, b"", Confirmation('"5f-61"', etag_is_md5=True)),
    (200, {**TAG, "x-amz-server-side-encryption": "AES256"}, b"", YES),
    (200, {**TAG, "x-amz-server-side-encryption": "aws:kms"}, b"", NO_MD5),
    (200, {**TAG, "x-amz-server-side-encryption": "aws:kms:dsse"}, b"", NO_MD5),
    (200, {**TAG, "x-amz-server-side-encryption-customer-algorithm": "AES256"}, b"", NO_MD5),
    (200, {**TAG, "content-type": "text/html"}, b"", YES),
    (200, TAG, b"\n", YES),
    (200, TAG, b'{"etag": "x"}', Confirmation(f'"{MD5}"', etag_is_md5=True, has_body=True)),
    (200, TAG, b" " * 9000, Confirmation(f'"{MD5}"', etag_is_md5=True, has_body=True)),
    (200, TAG, "<Error>".encode("utf-16"), Confirmation(f'"{MD5}"', etag_is_md5=True, has_body=True)),
    (200, {}, b"", (Transient, "without an ETag")),
    (201, {}, b"", (Transient, "without an ETag")),
    (204, {}, b"", (Transient, "without an ETag")),
    (200, {"etag": ""}, b"", (Transient, "without an ETag")),
    (200, {"etag": '""'}, b"", (Transient, "without an ETag")),
    (200, {"etag": '"a b"'}, b"", (Transient, "without an ETag")),
    (200, {"etag": "x" * 300}, b"", (Transient, "without an ETag")),
    (200, TAG, error("InternalError"), (Transient, "an error in its body (InternalError: no)")),
    (200, TAG, b"<Error/>", (Transient, "an error in its body")),
    (200, {}, error("SlowDown"), (Transient, "not confirmed")),
    (200, {}, PAGE, (Transient, "a page")),
    (200, TAG, PAGE, (Transient, "a page")),
    (200, TAG, b"  <html>", (Transient, "a page")),
    (200, {**TAG, "content-type": "text/html"}, b"ok", (Transient, "a page")),
    (200, {"x-ms-error-code": "ServerBusy", **TAG}, b"", (Transient, "ServerBusy")),
    (202, TAG, b"", (Transient, "not an answer to a PUT")),
    (203, TAG, b"", (Transient, "not an answer to a PUT")),
    (203, TAG, error("CallbackFailed"), (Transient, "CallbackFailed")),
    (205, TAG, b"", (Transient, "not an answer to a PUT")),
    (206, TAG, b"", (Transient, "not an answer to a PUT")),
    (207, TAG, b"", (Transient, "not an answer to a PUT")),
    (100, TAG, b"", (Transient, "not an answer to a PUT")),
    (301, {}, error("PermanentRedirect"), (Refused, "it redirects, which")),
    (302, {"location": "https://sign-in.test"}, b"", (Refused, "it redirects, which")),
    (304, TAG, b"", (Transient, "does a cache stand in between")),
    (307, {}, error("TemporaryRedirect"), (Transient, "TemporaryRedirect")),
    (307, {}, b"", (Refused, "it redirects, which")),
    (308, {}, b"", (Refused, "it redirects, which")),
    (400, {}, error("IncompleteBody"), (Transient, "IncompleteBody")),
    (400, {}, error("RequestTimeout"), (Transient, "RequestTimeout")),
    (400, {}, error("BadDigest"), (Transient, "BadDigest")),
    (400, {}, error("ExpiredToken"), (UrlExpired, "ExpiredToken")),
    (400, {}, error("ExpiredRequest"), (UrlExpired, "ExpiredRequest")),
    (400, {}, error("EntityTooLarge"), (Refused, "[drop] shard")),
    (400, {}, error("ThrottlingException"), (Transient, "ThrottlingException")),
    (400, {}, error("InvalidArgument"), (Refused, "InvalidArgument")),
    (400, {}, b"", (Refused, "400 (no reason given)")),
    (401, {}, b"", (UrlExpired, "401")),
    (402, {}, b"", (Refused, "402")),
    (403, {}, error("AccessDenied", "Request has expired"), (UrlExpired, "Request has expired")),
    (403, {}, error("SignatureDoesNotMatch"), (UrlExpired, "SignatureDoesNotMatch")),
    (403, {}, error("RequestTimeTooSkewed"), (Transient, "clock is wrong")),
    (403, {}, error("QuotaExceeded"), (Transient, "the bucket is full")),
    (403, {}, error("KMS.DisabledException"), (Refused, "KMS.DisabledException")),
    (403, {}, PAGE, (UrlExpired, "403")),
    (404, {}, error("NoSuchBucket"), (Refused, "operator of the console")),
    (405, {}, error("MethodNotAllowed"), (Refused, "405")),
    (407, {}, b"", (Transient, "$HTTPS_PROXY")),
    (408, {}, b"", (Transient, "408")),
    (409, {}, error("OperationAborted"), (Transient, "OperationAborted")),
    (409, {}, error("ConditionalRequestConflict"), (Transient, "ConditionalRequestConflict")),
    (409, {}, error("FileAlreadyExists"), (UrlExpired, "FileAlreadyExists")),
    (409, {}, b"", (Transient, "409")),
    (409, {}, error("BucketNotEmpty"), (Refused, "BucketNotEmpty")),
    (410, {}, b"", (Refused, "410")),
    (411, {}, error("MissingContentLength"), (Refused, "removes Content-Length from uploads")),
    (412, {}, error("PreconditionFailed"), (Refused, "PreconditionFailed")),
    (413, {}, b"<html><title>413 Request Entity Too Large</title></html>", (Refused, "[drop] shard")),
    (416, {}, error("InvalidRange"), (Refused, "InvalidRange")),
    (425, {}, b"", (Transient, "425")),
    (429, {}, b"", (Transient, "429")),
    (499, {}, error("ClientDisconnected"), (Transient, "499")),
    (500, {}, error("InternalError"), (Transient, "InternalError")),
    (500, {}, b"", (Transient, "500")),
    (501, {}, error("NotImplemented"), (Refused, "NotImplemented")),
    (502, {}, PAGE, (Transient, "502")),
    (503, {}, error("SlowDown"), (Transient, "SlowDown")),
    (504, {}, b"", (Transient, "504")),
    (505, {}, b"", (Refused, "505")),
    (507, {}, error("XMinioStorageFull"), (Transient, "XMinioStorageFull")),
    (511, {}, PAGE, (Transient, "511")),
]


@pytest.mark.parametrize(("status", "headers", "body", "verdict"), PUTS)
def test_put(status: int, headers: Headers, body: bytes, verdict: Confirmation | tuple[type[AxomsyncError], str]) -> None:
    if isinstance(verdict, Confirmation):
        assert judge_put(answer(status, headers, body), all_sent=True) == verdict
        return
    with pytest.raises(verdict[0]) as failure:
        judge_put(answer(status, headers, body), all_sent=True)
    assert type(failure.value) is verdict[0]
    assert verdict[1] in str(failure.value)
    assert "store.test" in str(failure.value)


def test_put_whose_answer_comes_before_its_end_is_not_confirmed() -> None:
    with pytest.raises(Transient, match="before it had all bytes"):
        judge_put(answer(200, TAG), all_sent=False)


@given(
    st.integers(100, 599),
    st.dictionaries(st.sampled_from(["etag", "content-type", "x-ms-error-code"]), st.text()),
    st.binary(),
)
def test_put_is_confirmed_only_by_its_own_success(status: int, headers: Headers, body: bytes) -> None:
    try:
        judge_put(answer(status, headers, body), all_sent=True)
    except AxomsyncError:
        return
    assert status in (200, 201, 204)
    assert headers["etag"].strip()
    assert b"<Error" not in body


@pytest.mark.parametrize("before", range(0, 210, 7))
def test_error_words_never_repeat_a_secret(before: int) -> None:
    with pytest.raises(UrlExpired) as failure:
        judge_put(answer(403, {}, error("AccessDenied", "x" * before + SECRET)), all_sent=True)
    assert SECRET[:8] not in str(failure.value)


PART = {"content-range": "bytes 10-19/100", "content-length": "10"}


def part(**changed: str) -> Headers:
    return {**PART, **{name.replace("_", "-"): value for name, value in changed.items()}}


# Request: bytes 10 to 20 of an object of 100.
GETS: list[tuple[int, Headers, bytes, tuple[int, int, bool] | tuple[type[AxomsyncError], str]]] = [
    (206, PART, b"", (10, 20, False)),
    (206, part(content_range="bytes 10-14/100", content_length="5"), b"", (10, 15, False)),
    (206, part(content_range="bytes 10-19/*"), b"", (10, 20, False)),
    (206, part(content_encoding="identity"), b"", (10, 20, False)),
    (206, part(content_encoding="aws-chunked"), b"", (10, 20, False)),
    (206, part(content_encoding="aws-chunked,"), b"", (10, 20, False)),
    (206, part(content_encoding=""), b"", (10, 20, False)),
    (206, part(content_type="text/plain"), b"", (10, 20, False)),
    (206, part(transfer_encoding="chunked"), b"", (10, 20, False)),
    (206, part(content_range="Bytes 10-19/100"), b"", (10, 20, False)),
    (200, PART, b"", (10, 20, False)),
    (200, {"content-length": "100"}, b"", (0, 100, True)),
    (200, {"content-length": "100, 100"}, b"", (0, 100, True)),
    (200, {}, b"", (0, 100, True)),
    (206, part(content_encoding="gzip"), b"", (Refused, "'gzip'")),
    (206, part(content_encoding="aws-chunked, gzip"), b"", (Refused, "'gzip'")),
    (200, {"content-encoding": "gzip"}, b"", (Refused, "'gzip'")),
    (200, {"content-encoding": "br"}, b"", (Refused, "'br'")),
    (200, {"content-encoding": "\x1b[2J"}, b"", (Refused, "coding")),
    (206, part(transfer_encoding="gzip, chunked"), b"", (Refused, "'gzip'")),
    (200, {"transfer-encoding": "gzip"}, b"", (Refused, "'gzip'")),
    (206, part(content_type="text/html"), b"", (Transient, "a page instead of the object")),
    (200, {"content-type": "application/xhtml+xml"}, b"", (Transient, "a page instead of the object")),
    (206, part(content_type="multipart/byteranges; boundary=x"), b"", (Transient, "several parts")),
    (200, {"content-length": "99"}, b"", (SourceChanged, "99 bytes where the manifest says 100")),
    (200, {"content-length": "5, 6"}, b"", (Transient, "Content-Length that can't be read")),
    (200, {"content-length": "-1"}, b"", (Transient, "can't be read")),
    (200, {"content-length": "9" * 5000}, b"", (Transient, "can't be read")),
    (200, {"content-length": "\u0661\u0660\u0660"}, b"", (Transient, "can't be read")),
    (200, {"content-type": "text/html; charset=utf-8"}, b"", (Transient, "a page instead of the object")),
    (200, {"content-type": "text/html", "content-length": "100"}, b"", (Transient, "a page instead of the object")),
    (206, {}, b"", (Transient, "without a usable Content-Range")),
    (206, {"content-range": "bytes */100"}, b"", (Transient, "without a usable Content-Range")),
    (206, {"content-range": "bytes 10-19"}, b"", (Transient, "without a usable Content-Range")),
    (206, {"content-range": "items 10-19/100"}, b"", (Transient, "without a usable Content-Range")),
    (206, {"content-range": f"bytes 10-19/{'9' * 5000}"}, b"", (Transient, "without a usable Content-Range")),
    (206, {"content-range": f"bytes {'0' * 5000}-19/100"}, b"", (Transient, "without a usable Content-Range")),
    (206, {"content-range": "bytes 10-19/99"}, b"", (SourceChanged, "99 bytes where the manifest says 100")),
    (206, {"content-range": "bytes 10-19/101"}, b"", (SourceChanged, "101 bytes")),
    (206, {"content-range": "bytes 9-19/100"}, b"", (Transient, "bytes 9-19 where 10-19 were asked")),
    (206, {"content-range": "bytes 11-19/100"}, b"", (Transient, "bytes 11-19")),
    (206, {"content-range": "bytes 10-20/100"}, b"", (Transient, "bytes 10-20")),
    (206, {"content-range": "bytes 10-9/100"}, b"", (Transient, "bytes 10-9")),
    (206, {"content-range": "bytes 0-99/100"}, b"", (Transient, "bytes 0-99")),
    (200, {"content-range": "bytes 0-9/100"}, b"", (Transient, "bytes 0-9")),
    (201, {}, b"", (Transient, "not an answer to a GET")),
    (202, {}, b"", (Transient, "not an answer to a GET")),
    (203, {"content-length": "100"}, b"", (Transient, "not an answer to a GET")),
    (204, {}, b"", (Transient, "not an answer to a GET")),
    (205, {}, b"", (Transient, "not an answer to a GET")),
    (207, {}, b"", (Transient, "not an answer to a GET")),
    (226, {}, b"", (Transient, "not an answer to a GET")),
    (300, {}, b"", (Refused, "it redirects, which")),
    (301, {}, error("PermanentRedirect"), (Refused, "it redirects, which")),
    (302, {}, PAGE, (Refused, "it redirects, which")),
    (303, {}, b"", (Refused, "it redirects, which")),
    (304, {}, b"", (Transient, "does a cache stand in between")),
    (307, {}, b"", (Refused, "it redirects, which")),
    (307, {}, error("TemporaryRedirect"), (Transient, "TemporaryRedirect")),
    (308, {}, b"", (Refused, "it redirects, which")),
    (400, {}, error("ExpiredRequest"), (UrlExpired, "ExpiredRequest")),
    (400, {}, error("ExpiredToken"), (UrlExpired, "ExpiredToken")),
    (400, {}, error("AuthorizationQueryParametersError"), (UrlExpired, "AuthorizationQueryParametersError")),
    (400, {}, error("RequestTimeout"), (Transient, "RequestTimeout")),
    (400, {}, error("InvalidArgument"), (Refused, "InvalidArgument")),
    (400, {}, PAGE, (Refused, "400")),
    (401, {}, b"", (UrlExpired, "401")),
    (403, {}, error("AccessDenied"), (UrlExpired, "AccessDenied")),
    (403, {}, error("InvalidObjectState"), (Refused, "archived")),
    (403, {}, error("AllAccessDisabled"), (Refused, "AllAccessDisabled")),
    (403, {}, error("RequestTimeTooSkewed"), (Transient, "clock is wrong")),
    (403, {}, b"", (UrlExpired, "403")),
    (404, {}, error("NoSuchKey"), (Refused, "publish the model again")),
    (404, {}, PAGE, (Refused, "404")),
    (405, {}, b"", (Refused, "405")),
    (407, {}, b"", (Transient, "$HTTPS_PROXY")),
    (408, {}, b"", (Transient, "408")),
    (409, {}, error("OperationAborted"), (Transient, "OperationAborted")),
    (410, {}, b"", (Refused, "410")),
    (412, {}, error("PreconditionFailed"), (SourceChanged, "the object changed")),
    (416, {}, error("InvalidRange"), (SourceChanged, "shorter than the manifest says")),
    (416, {"content-range": "bytes */7"}, error("InvalidRange"), (SourceChanged, "7 bytes where the manifest says 100")),
    (425, {}, b"", (Transient, "425")),
    (429, {}, b"", (Transient, "429")),
    (431, {}, b"", (Refused, "431")),
    (451, {}, b"", (Refused, "451")),
    (499, {}, b"", (Transient, "499")),
    (500, {}, error("InternalError"), (Transient, "InternalError")),
    (501, {}, b"", (Refused, "501")),
    (502, {}, PAGE, (Transient, "502")),
    (503, {}, error("SlowDown"), (Transient, "SlowDown")),
    (503, {}, error("XMinioServerNotInitialized"), (Transient, "XMinioServerNotInitialized")),
    (504, {}, b"", (Transient, "504")),
    (511, {}, PAGE, (Transient, "511")),
    (520, {}, PAGE, (Transient, "520")),
]


@pytest.mark.parametrize(("status", "headers", "body", "verdict"), GETS)
def test_get(
    status: int, headers: Headers, body: bytes, verdict: tuple[int, int, bool] | tuple[type[AxomsyncError], str]
) -> None:
    given = answer(status, headers, body)
    if isinstance(verdict[0], int):
        extent = judge_get(given, 10, 20, 100)
        assert (extent.start, extent.end, extent.whole) == verdict
        return
    with pytest.raises(verdict[0]) as failure:
        judge_get(given, 10, 20, 100)
    assert type(failure.value) is verdict[0]
    assert str(verdict[1]) in str(failure.value)
    assert str(failure.value).isprintable()


@pytest.mark.parametrize(
    ("status", "headers", "is_empty"),
    [
        (416, {}, True),
        (416, {"content-range": "bytes */0"}, True),
        (206, {"content-range": "bytes 0--1/0"}, True),
        (200, {"content-length": "0"}, True),
        (416, {"content-range": "bytes */7"}, False),
        (206, {"content-range": "bytes 0-0/7"}, False),
        (200, {"content-length": "7"}, False),
    ],
)
def test_get_of_an_object_that_the_manifest_calls_empty(status: int, headers: Headers, is_empty: bool) -> None:
    if is_empty:
        assert judge_get(answer(status, headers), 0, 0, 0).end == 0
        return
    with pytest.raises(SourceChanged, match="storage has 7 bytes where the manifest says 0"):
        judge_get(answer(status, headers), 0, 0, 0)


def test_get_of_a_page_that_is_the_object() -> None:
    given = answer(200, {"content-type": "text/html"}, url="https://store.test/README.HTML?X-Amz-Signature=1")
    assert judge_get(given, 0, 100, 100).whole


@given(
    st.integers(100, 599),
    st.dictionaries(st.sampled_from(["content-range", "content-length", "content-encoding"]), st.text()),
)
def test_get_never_takes_bytes_that_were_not_requested(status: int, headers: Headers) -> None:
    try:
        extent = judge_get(answer(status, headers), 10, 20, 100)
    except AxomsyncError:
        return
    assert (extent.start, extent.end, extent.whole) == (0, 100, True) or (extent.start == 10 < extent.end <= 20)


NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z


@pytest.mark.parametrize(
    ("query", "lifetime"),
    [
        ("X-Amz-Date=20270115T080000Z&X-Amz-Expires=900", 900),
        ("x-amz-date=20270115T075000Z&x-amz-expires=900", 300),
        ("X-Goog-Date=20270115T080000Z&X-Goog-Expires=60", 60),
        ("x-oss-date=20270115T080000Z&x-oss-expires=60", 60),
        ("x-oss-expires=1800000060", 60),
        ("Expires=1800000100&AWSAccessKeyId=a&Signature=b", 100),
        ("se=2027-01-15T08:01:00Z&sig=x", 60),
        ("se=2027-01-15T09:01:00%2B01:00&sig=x", 60),
        ("se=2027-01-16&sig=x", 16 * 3600),
        ("se=2027-01-15T08:01:00Z", None),
        (f"X-Amz-Date=20270115T080000Z&X-Amz-Expires={'9' * 400}", None),
        ("X-Amz-Date=20270115T080000Z&X-Amz-Expires=-1", None),
        ("X-Amz-Date=20279915T080000Z&X-Amz-Expires=900", None),
        (f"Expires={'9' * 5000}", None),
        ("se=nonsense&sig=x", None),
        ("", None),
        ("X-Amz-Date=&X-Amz-Expires=", None),
    ],
)
def test_url_lifetime(query: str, lifetime: float | None) -> None:
    assert url_lifetime(f"https://store.test/a?{query}", NOW) == lifetime


@given(st.text())
def test_url_lifetime_accepts_any_url(text: str) -> None:
    for url in (
        text,
        f"https://store.test/a?{text}",
        f"https://store.test/a?X-Amz-Date={text}&Expires={text}&sig=&se={text}",
    ):
        lifetime = url_lifetime(url, NOW)
        assert lifetime is None or isinstance(lifetime, float)


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("", {}),
        ("X-Amz-SignedHeaders=host", {}),
        ("X-Amz-SignedHeaders=content-length;host", {}),
        ("X-Amz-SignedHeaders=content-type%3Bhost", {"Content-Type": "text/plain"}),
        ("X-Goog-SignedHeaders=Content-Type;host", {"Content-Type": "text/plain"}),
        ("x-oss-additional-headers=content-type", {"Content-Type": "text/plain"}),
    ],
)
def test_signed_headers(query: str, headers: Headers) -> None:
    assert signed_headers(f"https://store.test/a?{query}", "text/plain") == headers


def test_signed_headers_with_unknown_values_are_refused() -> None:
    with pytest.raises(Rejected, match="x-amz-meta-owner"):
        signed_headers("https://store.test/a?X-Amz-SignedHeaders=host;x-amz-meta-owner", "text/plain")


@pytest.mark.parametrize(
    ("etag", "plain", "composite"),
    [
        (f'"{MD5}"', MD5, None),
        (MD5.upper(), MD5, None),
        (f'W/"{MD5}"', MD5, None),
        (f'"{MD5}-17"', None, (f"{MD5}-17", 17)),
        (f'"{MD5}-123456"', None, None),
        (f'"{MD5}0"', None, None),
        ('"5f-61"', None, None),
        (None, None, None),
    ],
)
def test_etag(etag: str | None, plain: str | None, composite: tuple[str, int] | None) -> None:
    assert (plain_md5(etag), composite_md5(etag)) == (plain, composite)


@given(st.text())
def test_etag_can_be_sent_back_in_a_header(text: str) -> None:
    kept = etag_of({"etag": text})
    assert kept is None or (kept.isascii() and kept.isprintable() and len(kept) < 210)


def test_part_sizes_that_fit() -> None:
    assert likely_part_sizes(100 * 1024 * 1024, 13)[0] == 8 * 1024 * 1024
    assert likely_part_sizes(100, 0) == []
