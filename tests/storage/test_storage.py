"""One contract for storage, kept by the real S3 server and the misbehaving one; then faults of the latter alone."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import pytest

from axomsync.core.errors import Rejected, SourceChanged, Transient, UrlExpired
from axomsync.sandbox.console import Sandbox
from axomsync.storage.client import SHORT_BODY, RangeIgnored, Storage
from axomsync.storage.s3 import Confirmation
from tests.rig.agent import eventually
from tests.rig.faults import EXPIRED, Content, Fault, FaultyServer, http_date, s3_error

SIZE = 3_000_001
CONTENT = Content(SIZE, seed=8)
Presign = Callable[[str, str], str]


@pytest.fixture
def storage() -> Iterator[Storage]:
    storage = Storage(loopback=True, stall=1.0)
    yield storage
    storage.close()


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        server.replace("object", CONTENT)
        yield server


@pytest.fixture(params=["real", "faulty"])
def presign(request: pytest.FixtureRequest) -> Presign:
    """Signs URLs for a store that holds `CONTENT` under `object`."""
    if request.param == "faulty":
        server: FaultyServer = request.getfixturevalue("server")
        return server.presign
    sandbox: Sandbox = request.getfixturevalue("sandbox")
    root = f"tmp/{uuid.uuid4()}"
    sandbox.store.put_bytes(f"{root}/object", CONTENT.read())
    return lambda method, key: sandbox.presign(method, f"{root}/{key}")  # type: ignore[arg-type]


def get(storage: Storage, url: str, start: int, end: int, *, total: int = SIZE, etag: str | None = None) -> bytes:
    with storage.get(url, start, end, total, etag) as reply:
        assert (reply.start, reply.end, reply.whole) == (start, end, False)
        assert reply.etag is not None
        return b"".join(reply.chunks)


# The contract


@pytest.mark.parametrize(("start", "end"), [(0, SIZE), (0, 1), (SIZE - 1, SIZE), (1_000_000, 2_500_000)])
def test_get_brings_any_part_of_an_object(storage: Storage, presign: Presign, start: int, end: int) -> None:
    assert get(storage, presign("GET", "object"), start, end, etag=CONTENT.etag()) == CONTENT.read(start, end)


def test_get_refuses_a_changed_object(storage: Storage, presign: Presign) -> None:
    with pytest.raises(SourceChanged, match="the object changed"):
        get(storage, presign("GET", "object"), 0, 10, etag='"0123456789abcdef0123456789abcdef"')


def test_get_refuses_a_shorter_object(storage: Storage, presign: Presign) -> None:
    with pytest.raises(SourceChanged, match=f"shorter than the manifest says|storage has {SIZE} bytes"):
        get(storage, presign("GET", "object"), SIZE, SIZE + 5, total=SIZE + 5)


def test_get_refuses_a_longer_object(storage: Storage, presign: Presign) -> None:
    with pytest.raises(SourceChanged, match=f"storage has {SIZE} bytes where the manifest says {SIZE - 5}"):
        get(storage, presign("GET", "object"), 0, 10, total=SIZE - 5)


def test_get_of_a_missing_object(storage: Storage, presign: Presign) -> None:
    with pytest.raises(Rejected, match="404"):
        get(storage, presign("GET", "nothing"), 0, 10)


def test_get_with_the_url_of_another_method(storage: Storage, presign: Presign) -> None:
    with pytest.raises(UrlExpired, match="403"):
        get(storage, presign("PUT", "object"), 0, 10)


def test_get_with_a_forged_url(storage: Storage, presign: Presign) -> None:
    with pytest.raises(UrlExpired, match="SignatureDoesNotMatch"):
        get(storage, presign("GET", "object").replace("Signature=", "Signature=0"), 0, 10)


def test_put_object_can_be_fetched(storage: Storage, presign: Presign) -> None:
    stored = storage.put(presign("PUT", "new"), CONTENT.pieces(), SIZE, "application/jsonl")  # type: ignore[arg-type]
    assert stored == Confirmation(CONTENT.etag(), etag_is_md5=True)
    assert get(storage, presign("GET", "new"), 0, SIZE, etag=stored.etag) == CONTENT.read()


# Faults


def test_get_with_an_expired_url(storage: Storage, server: FaultyServer) -> None:
    server.inject(EXPIRED)
    with pytest.raises(UrlExpired, match=r"answered 403 \(AccessDenied: Request has expired\)"):
        get(storage, server.presign("GET", "object"), 0, 10)


@pytest.mark.parametrize(
    ("fault", "retry_after", "congestion"),
    [
        (s3_error(503, "SlowDown", "Reduce your rate."), None, True),
        (s3_error(503, "SlowDown", "Reduce your rate.", Retry_After="7"), 7, True),
        (s3_error(503, "SlowDown", "Reduce your rate.", Retry_After=http_date(-60)), 0, True),
        (s3_error(503, "SlowDown", "Reduce your rate.", Retry_After="soon"), None, True),
        (Fault(429, body=b""), None, True),
        (s3_error(500, "InternalError", "We encountered an internal error."), None, False),
        (s3_error(400, "RequestTimeout", "Your socket connection was not read from."), None, False),
    ],
)
def test_transient_answers(
    storage: Storage, server: FaultyServer, fault: Fault, retry_after: float | None, congestion: bool
) -> None:
    server.inject(fault)
    with pytest.raises(Transient) as failure:
        get(storage, server.presign("GET", "object"), 0, 10)
    assert failure.value.congestion is congestion
    assert failure.value.retry_after == retry_after


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("4442587FB7D0A2F9", "SlowDown: Reduce your request rate; request 4442587FB7D0A2F9)"),
        ("two words", "SlowDown: Reduce your request rate)"),
        ("x" * 10_000, "SlowDown: Reduce your request rate)"),
        ("SIGNATURE", "SlowDown: Reduce your request rate)"),
    ],
)
def test_request_id_is_shown_for_the_support(value: str, told: str, storage: Storage, server: FaultyServer) -> None:
    url = server.presign("GET", "object")
    value = value.replace("SIGNATURE", dict(parse_qsl(urlsplit(url).query))["X-Amz-Signature"])
    server.inject(s3_error(503, "SlowDown", "Reduce your request rate", x_amz_request_id=value))
    with pytest.raises(Transient) as failure:
        get(storage, url, 0, 10)
    assert str(failure.value).endswith(told)


ENCODED = "abc%2BdefGHIJKLMNOPqrstuvwxyz0123456789%2FAB%3D"  # as in a URL of Azure, or in a security token


@pytest.mark.parametrize("size", [3, SHORT_BODY + 1])
@pytest.mark.parametrize(
    "fault",
    [
        s3_error(403, "AccessDenied", "/b/k?sv=1&amp;sp=cw&amp;sig={}: not allowed"),
        s3_error(403, "AccessDenied", "{}"),
        s3_error(403, "{}", "not allowed"),
        s3_error(403, "AccessDenied", "not allowed", x_amz_request_id="{}"),
        Fault(403, {"x-ms-error-code": "{}"}, b""),
    ],
)
def test_no_signature_is_told_however_storage_writes_it(
    storage: Storage, server: FaultyServer, fault: Fault, size: int
) -> None:
    url = f"{server.endpoint}/bucket/new?sv=1&sp=cw&sig={ENCODED}"
    for form in (ENCODED, unquote(ENCODED), ENCODED.lower().replace("ab%3d", "AB%3D"), quote(ENCODED)):
        headers = {name: value and value.replace("{}", form) for name, value in fault.headers.items()}
        assert isinstance(fault.body, bytes)
        body = fault.body.replace(b"{}", form.encode())
        server.inject(replace(fault, headers=headers, body=body), "/bucket", method="PUT")
        with pytest.raises(UrlExpired, match="answered 403") as failure:
            storage.put(url, iter([b"x" * size]), size, "application/jsonl")
        assert "defghijklmnop" not in str(failure.value).lower()


def test_retry_after_as_a_date(storage: Storage, server: FaultyServer) -> None:
    server.inject(s3_error(503, "SlowDown", "Reduce your rate.", Retry_After=http_date(600)))
    with pytest.raises(Transient) as failure:
        get(storage, server.presign("GET", "object"), 0, 10)
    assert failure.value.retry_after == pytest.approx(600, abs=30)


BROKEN = {
    "reset before the answer": (Fault(cut=0, ending="reset"), "the connection broke|cut short"),
    "reset in the body": (Fault(cut=500_000, ending="reset"), "the connection broke|cut short"),
    "end in the body": (Fault(cut=500_000), "the connection broke|cut short"),
    "a length that is too short": (Fault(body=CONTENT.read(0, 1000)), "cut short: 999000 of 1000000 bytes are missing"),
    "stall": (Fault(cut=500_000, ending="stall"), r"no byte for 1 s"),
    "another range": (Fault(headers={"Content-Range": f"bytes 1-999999/{SIZE}"}), "where 0-999999 were asked"),
    "beyond the range": (Fault(headers={"Content-Range": f"bytes 0-1000000/{SIZE}"}), "where 0-999999 were asked"),
    "no range": (Fault(headers={"Content-Range": None}), "without a usable Content-Range"),
    "headers that are not text": (Fault(headers={"ETag": '"ÿ"'}), "not HTTP"),
}


@pytest.mark.parametrize(("fault", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_exchange_is_transient(storage: Storage, server: FaultyServer, fault: Fault, reason: str) -> None:
    server.inject(fault)
    url = server.presign("GET", "object")
    with pytest.raises(Transient, match=reason) as failure:
        get(storage, url, 0, 1_000_000)
    assert "Signature" not in str(failure.value)
    assert get(storage, url, 0, 1_000_000) == CONTENT.read(0, 1_000_000)


def test_put_gives_up_an_answer_whose_body_never_comes(server: FaultyServer) -> None:
    server.inject(Fault(200, {"Content-Length": "10"}, b"0123456789", cut=3, ending="stall"), "/bucket", method="PUT")
    storage = Storage(loopback=True, stall=60.0, document_seconds=0.2)
    began = time.monotonic()
    with pytest.raises(Transient):
        storage.put(server.presign("PUT", "new"), [b"abc"], 3, "")
    assert time.monotonic() - began < 10.0
    storage.close()


def test_put_does_not_read_a_slow_refusal_to_its_end(server: FaultyServer) -> None:
    server.inject(Fault(503, {}, b"<Error>" + b" " * 80_000, rate=50), "/bucket", method="PUT")
    storage = Storage(loopback=True, stall=60.0, document_seconds=0.2)
    began = time.monotonic()
    with pytest.raises(Transient, match="503"):
        storage.put(server.presign("PUT", "new"), [b"abc"], 3, "")
    assert time.monotonic() - began < 8.0
    eventually("the end of the reading", lambda: "answer" not in {thread.name for thread in threading.enumerate()})
    storage.close()


def test_get_accepts_a_shorter_range(storage: Storage, server: FaultyServer) -> None:
    server.longest_answer = 1000
    with storage.get(server.presign("GET", "object"), 500, SIZE, SIZE, None) as reply:
        assert (reply.start, reply.end) == (500, 1500)
        assert b"".join(reply.chunks) == CONTENT.read(500, 1500)


def test_get_from_a_store_that_ignores_ranges(storage: Storage, server: FaultyServer) -> None:
    server.inject(Fault(ignores_range=True), times=2)
    with storage.get(server.presign("GET", "object"), 0, 1000, SIZE, None) as reply:
        assert (reply.start, reply.end, reply.whole) == (0, SIZE, True)
        assert b"".join(reply.chunks) == CONTENT.read()
    with pytest.raises(RangeIgnored):
        get(storage, server.presign("GET", "object"), 1000, 2000)


def test_requests_carry_only_needed_headers(storage: Storage, server: FaultyServer) -> None:
    server.inject(Fault(headers={"Set-Cookie": "AWSALB=abc; Path=/"}))
    url = server.presign("GET", "object")
    for _ in range(2):
        get(storage, url, 0, 10, etag=CONTENT.etag())
    storage.put(server.presign("PUT", "new"), iter([b"1234"]), 4, "application/jsonl")
    got, again, put = server.requests
    assert set(got.headers) == set(again.headers)
    assert set(got.headers) - {"connection", "accept"} == {"host", "user-agent", "accept-encoding", "range", "if-match"}
    assert got.headers["accept-encoding"] == "identity"
    assert set(put.headers) - {"connection", "accept"} == {"host", "user-agent", "accept-encoding", "content-length"}


@pytest.mark.parametrize("asked", ['"first"', 'W/"first"'])
def test_object_that_was_replaced_is_told_by_a_store_without_conditions(
    storage: Storage, server: FaultyServer, asked: str
) -> None:
    server.inject(Fault(headers={"ETag": '"second"'}, ignores_if_match=True))
    with pytest.raises(SourceChanged, match=r"the object changed while it was fetched \(ETag .*first.* became .*second"):
        get(storage, server.presign("GET", "object"), 0, 10, etag=asked)


def test_weak_etag_is_not_sent_as_a_condition(storage: Storage, server: FaultyServer) -> None:
    server.objects["object"].etag = weak = 'W/"1"'
    assert get(storage, server.presign("GET", "object"), 0, 10, etag=weak) == CONTENT.read(0, 10)
    assert "if-match" not in server.requests[0].headers


def test_connections_are_reused(storage: Storage, server: FaultyServer) -> None:
    """Two at most: the next request may come a moment before the connection of the last one is free again."""
    for start in range(20):
        get(storage, server.presign("GET", "object"), start, start + 10)
        storage.put(server.presign("PUT", "new"), iter([b"bytes"]), 5, "application/jsonl")
    for method in ("GET", "PUT"):
        assert len({request.port for request in server.requests if request.method == method}) <= 2


def test_unreachable_store_is_transient(storage: Storage) -> None:
    server = FaultyServer()
    url = server.presign("GET", "object")
    server.stop()
    began = time.monotonic()
    with pytest.raises(Transient, match="can't connect: no service listens there"):
        get(storage, url, 0, 10)
    assert time.monotonic() - began < 5


NO_HOSTS = ["a..b.invalid", f"{'a' * 64}.invalid", "\u00fc" * 60 + ".invalid", "a." * 150 + "invalid"]
NO_INTERNATIONAL_HOSTS = ["xn--i-7iq.invalid", "XN--a.invalid", "xn--", "\u2764.invalid"]  # what httpx does not take


@pytest.mark.parametrize("host", NO_HOSTS + NO_INTERNATIONAL_HOSTS)
@pytest.mark.parametrize("proxy", ["", "http://127.0.0.1:9", "socks5://127.0.0.1:9"])
def test_a_host_that_can_have_no_address_is_transient(host: str, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    storage, url = Storage(stall=1.0), f"https://{host}/object?X-Amz-Signature=1"
    told = f"^storage {host[:100]}: its host name .*, so it can't be resolved; tell the operator of the console$"
    with pytest.raises(Transient, match=told):
        get(storage, url, 0, 10)
    for size in (1, SHORT_BODY + 1):
        with pytest.raises(Transient, match=told) as failure:
            storage.put(url, iter([b"x" * size]), size, "application/jsonl")
        assert failure.value.unsent
    storage.close()


@pytest.mark.parametrize("rest", ["/object?X-Amz-Signature=\ud800", "/\udcff", ":1:2/object", "/" + "x" * 70_000])
def test_what_is_no_url_for_httpx_is_no_signed_url(rest: str) -> None:
    storage, url = Storage(stall=1.0), f"https://storage.invalid{rest}"
    for size in (1, SHORT_BODY + 1):
        with pytest.raises(Rejected, match="not a signed URL of storage"):
            storage.put(url, iter([b"x" * size]), size, "application/jsonl")
    with pytest.raises(Rejected, match="not a signed URL of storage"):
        get(storage, url, 0, 10)
    storage.close()
