"""The console client with a server that misbehaves on the wire: the result of each answer."""

import gzip
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from axomsync.console.client import Console
from axomsync.console.session import NotThere
from axomsync.core.errors import AxomsyncError, BadConfig, KeyRefused, Rejected, Transient
from axomsync.mirror.layout import check_manifest
from axomsync.storage.s3 import url_lifetime
from axomsync.transport.authorities import tls_context
from tests.rig.anything import ANYTHING, for_any, how_many, nearly
from tests.rig.faults import KEY, Content, Fault, FaultyServer, http_date, json_answer

MODEL = {"id": "m-1", "name": "llama", "version": "v1", "params": 7, "status": "ready", "created_at": "2027-01-01"}


class Keys:
    """A source of keys: the last one stays."""

    def __init__(self, *keys: str) -> None:
        self._keys = list(keys)
        self.read = 0

    def __call__(self) -> str:
        self.read += 1
        return self._keys.pop(0) if len(self._keys) > 1 else self._keys[0]


Connect = Callable[..., Console]


@pytest.fixture
def connect(server: FaultyServer) -> Iterator[Connect]:
    with ExitStack() as opened:

        def make(url: str | None = None, key: Callable[[], str] = lambda: KEY, seconds: float = 5.0) -> Console:
            console = Console(url or server.url, key, timeout=httpx.Timeout(seconds, connect=seconds))
            opened.callback(console.close)
            return console

        yield make


def failure_of(console: Console, kind: type[AxomsyncError]) -> AxomsyncError:
    with pytest.raises(kind) as failure:
        console.models()
    assert type(failure.value) is kind
    told = str(failure.value)
    assert "\n" not in told
    assert KEY not in told
    assert len(told) < 700
    return failure.value


# The five calls


def test_five_calls_follow_the_documentation(server: FaultyServer, connect: Connect) -> None:
    model_id = server.add_model("llama", "v1", {"a/w.bin": Content(10)})
    base = {"id": "b", "family": "f", "name": "n", "version": "1", "params": 3, "precision": "bf16"}
    dataset = {"id": "d", "name": "n", "version": "1", "shard_count": 2, "bytes": 9, "status": "ready", "created_at": "2027"}
    server.inject(json_answer([base]), "/api/base-models")
    server.inject(json_answer([dataset]), "/api/datasets")
    console = connect()
    assert [model.precision for model in console.base_models()] == ["bf16"]
    assert [entry.shard_count for entry in console.datasets()] == [2]
    assert [(model.id, model.status) for model in console.models()] == [(model_id, "ready")]
    manifest = console.manifest(model_id)
    assert [(file.rel, file.size) for file in manifest.files] == [("a/w.bin", 10)]
    assert 890 < (manifest.files[0].expires_in or 0) <= 900
    presigned = console.presign("train.jsonl", "application/jsonl")
    assert presigned.key.endswith("train.jsonl")
    assert json.loads(server.console_requests("/presign")[0].body) == {
        "filename": "train.jsonl",
        "content_type": "application/jsonl",
    }
    for request in server.requests:
        assert request.headers["authorization"] == f"Bearer {KEY}"


def test_unknown_fields_and_invalid_optional_fields_keep_a_model_in_the_list(server: FaultyServer, connect: Connect) -> None:
    odd = MODEL | {"params": "7B", "base_model_id": ["x"], "created_at": None, "new": {"deep": 1}, "version": 2}
    huge = MODEL | {"id": 17, "params": 1 << 70, "name": "b"}
    server.inject(json_answer([odd, huge]), "/api/models")
    first, second = connect().models()
    assert (first.params, first.base_model_id, first.version) == (None, None, "2")
    assert (second.id, second.params) == ("17", None)


def test_malformed_entries_are_left_out_and_reported_once(
    server: FaultyServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    entries: list[object] = [{}, None, 5, "x", [], MODEL | {"id": ""}, MODEL | {"name": None}, MODEL]
    server.inject(json_answer(entries), "/api/models", times=3)
    console = connect()
    for _ in range(3):
        assert [model.id for model in console.models()] == ["m-1"]
    assert [record.getMessage() for record in caplog.records] == [
        "/models: 7 entries lack the documented fields and are left out: one without a name (no id), one that is no object, "
        "one that is no object, one that is no object, one that is no object and 2 more; tell whoever runs the console"
    ]


@pytest.mark.parametrize(
    "document",
    [
        {"data": [MODEL]},
        {"models": [MODEL], "warnings": []},
        {"whatever": [MODEL], "next": None, "total": 1},
        {"items": [MODEL], "extra": [1, 2]},
    ],
)
def test_wrapped_list_is_accepted(document: object, server: FaultyServer, connect: Connect) -> None:
    server.inject(json_answer(document), "/api/models")
    assert [model.id for model in connect().models()] == ["m-1"]


def test_model_listed_twice_counts_once(server: FaultyServer, connect: Connect) -> None:
    server.inject(json_answer([MODEL | {"id": "m-2"}, MODEL | {"status": "new"}, MODEL]), "/api/models")
    assert [(model.id, model.status) for model in connect().models()] == [("m-2", "ready"), ("m-1", "new")]


def test_any_success_status_is_accepted(server: FaultyServer, connect: Connect) -> None:
    server.inject(Fault(201), "/presign", method="POST")
    assert connect().presign("a.jsonl", "application/jsonl").upload_id


# Unusable answers


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Fault(200, {"Content-Type": "text/html"}, b"<html>captive portal</html>"), "an HTML page"),
        (Fault(200, body=b""), "an empty body"),
        (Fault(204, body=b""), "an empty body"),
        (Fault(200, body=b"\xff\xfe[]"), "no JSON"),
        (Fault(200, body=b'{"models": '), "no JSON"),
        (Fault(200, body=b"[" * 100_000), "no JSON"),
        (Fault(200, body=b"null"), "something that is no list"),
        (Fault(200, body=b'{"a": [], "b": []}'), "something that is no list"),
        (Fault(200, body=b'"models"'), "something that is no list"),
        (Fault(cut=20, body=json.dumps([MODEL] * 9).encode()), "the connection broke"),
        (Fault(cut=20, ending="reset", body=json.dumps([MODEL] * 9).encode()), "the connection broke"),
        (Fault(cut=20, ending="stall", body=json.dumps([MODEL] * 9).encode()), "no answer in time"),
        (Fault(headers={"Content-Encoding": "gzip"}, body=b"no gzip at all"), "the connection broke"),
        (
            Fault(headers={"Content-Length": None, "Transfer-Encoding": "chunked"}, body=b"zzz\r\n", cut=5),
            "is not HTTP",
        ),
    ],
)
def test_unusable_answer_is_tried_again(fault: Fault, told: str, server: FaultyServer, connect: Connect) -> None:
    server.models = [MODEL]
    server.inject(fault, "/api/models")
    console = connect(seconds=0.5)
    assert told in str(failure_of(console, Transient))
    assert [model.id for model in console.models()] == ["m-1"]


def test_endless_answer_is_given_up_before_memory_runs_out(server: FaultyServer, connect: Connect) -> None:
    server.inject(Fault(200, body=b"[" + b'"x",' * (1 << 24) + b'"x"' + b"," * 100), "/api/models")
    assert "larger than 64 MiB" in str(failure_of(connect(), Transient))


def test_slow_answer_is_given_up(server: FaultyServer) -> None:
    server.inject(Fault(200, body=b"[" + b" " * 100_000, rate=2000), "/api/models")
    console = Console(server.url, lambda: KEY, answer_seconds=0.3)
    assert "the answer took more than 0.3 s" in str(failure_of(console, Transient))
    console.close()


def test_unreachable_console_is_tried_again(connect: Connect) -> None:
    with FaultyServer() as gone:
        url = gone.url
    assert f"{url}: can't connect" in str(failure_of(connect(url), Transient))


# Refusals


def test_401_reads_the_key_again_once_and_continues_with_a_new_one(server: FaultyServer, connect: Connect) -> None:
    keys = Keys("axom_live_old", KEY)
    console = connect(key=keys)
    assert console.models() == []
    assert keys.read == 2
    assert console.models() == []
    assert keys.read == 2, "the key is read at each call"
    assert [request.status for request in server.requests] == [401, 200, 200]


def test_401_with_the_same_key_gives_the_remedy(server: FaultyServer, connect: Connect) -> None:
    keys = Keys("axom_live_revoked")
    told = failure_of(connect(key=keys), KeyRefused)
    assert told.exit_code == 4
    assert "missing, wrong or revoked key" in str(told)
    assert "create a new one in the console, put it where $AXOM_KEY, [console] key_file or the credential" in str(told)
    assert "axom_live_revoked" not in str(told)
    assert len(server.requests) == 1, "the same key was tried twice"


def test_401_for_two_keys_ends_the_call(server: FaultyServer, connect: Connect) -> None:
    failure_of(connect(key=Keys("axom_live_1", "axom_live_2", "axom_live_3")), KeyRefused)
    assert len(server.requests) == 2


def test_refused_key_is_read_again_at_the_next_call(connect: Connect) -> None:
    console = connect(key=Keys("axom_live_old", "axom_live_old", KEY))
    failure_of(console, KeyRefused)
    assert console.models() == []


def refusal(status: int, detail: object = None, **headers: str) -> Fault:
    fault = json_answer({} if detail is None else {"detail": detail}, **headers)
    return Fault(status, fault.headers, fault.body)


@pytest.mark.parametrize(
    ("call", "path", "scope"),
    [
        (lambda console: console.models(), "/api/models", "read"),
        (lambda console: console.datasets(), "/api/datasets", "read"),
        (lambda console: console.base_models(), "/api/base-models", "read"),
        (lambda console: console.manifest("m-1"), "/download", "models"),
        (lambda console: console.presign("a.jsonl", "x"), "/presign", "datasets"),
    ],
)
def test_403_names_the_missing_scope(
    call: Callable[[Console], object], path: str, scope: str, server: FaultyServer, connect: Connect
) -> None:
    for method in ("GET", "POST"):
        server.inject(refusal(403, "forbidden"), path, method=method)
    with pytest.raises(Rejected, match=rf"the API key lacks the scope '{scope}' \(forbidden\); create a key that has it"):
        call(connect())


def test_404_of_a_model_means_not_there_and_of_a_list_a_wrong_url(server: FaultyServer, connect: Connect) -> None:
    with pytest.raises(NotThere, match="the console does not know it"):
        connect().manifest("../../x?y#z")
    assert server.requests[-1].path == "/api/models/../../x?y#z/download"
    assert "is [console] url right?" in str(failure_of(connect(server.url + "/v9"), Rejected))


@pytest.mark.parametrize("status", [400, 409, 422, 418])
@pytest.mark.parametrize(
    ("detail", "told"),
    [
        ("the name\nis taken\x1b[31m", "the name is taken\\x1b[31m"),
        (
            [{"loc": ["body", "filename"], "msg": "field required", "type": "missing", "input": {"a": 1}}],
            "body.filename: field required",
        ),
        ({"code": 7}, '{"code":7}'),
        ("can't sign https://s.test/it's/k?sv=1&sig=abc%2Bdef", "can't sign https://s.test/it's/k?…"),
        (None, "no detail given"),
        ("", "no detail given"),
    ],
)
def test_final_refusal_is_reported_in_the_servers_words(
    status: int, detail: object, told: str, server: FaultyServer, connect: Connect
) -> None:
    server.inject(refusal(status, detail), "/presign", method="POST")
    with pytest.raises(Rejected) as failure:
        connect().presign("a.jsonl", "x")
    assert str(failure.value) == f"POST /api/uploads/presign: the console refuses it with {status}: {told}"


@pytest.mark.parametrize("body", [b"<html>" + b"x" * 10_000_000, b"", b"[]", b'{"detail": "' + b"y" * 1_000_000 + b'"}'])
def test_refusal_may_be_html_or_empty_or_huge(body: bytes, server: FaultyServer, connect: Connect) -> None:
    server.inject(Fault(400, body=body), "/api/models")
    assert str(failure_of(connect(), Rejected)).endswith("no detail given")


def test_key_repeated_by_the_server_is_removed(server: FaultyServer, connect: Connect) -> None:
    server.inject(refusal(400, f"bad header Authorization: Bearer {KEY}!"), "/api/models")
    assert str(failure_of(connect(), Rejected)).endswith("bad header Authorization: Bearer …!")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("req_4442:AB-1", "(no detail given; request req_4442:AB-1)"),
        ("two words", "(no detail given)"),
        ("x" * 10_000, "(no detail given)"),
        (f"for-{KEY}", "(no detail given)"),
    ],
)
def test_request_id_is_reported_for_the_support(value: str, told: str, server: FaultyServer, connect: Connect) -> None:
    server.inject(Fault(500, {"X-Request-Id": value}), "/models")
    assert told in str(failure_of(connect(), Transient))


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408, 425])
def test_console_in_trouble_is_tried_again(status: int, server: FaultyServer, connect: Connect) -> None:
    server.inject(refusal(status, "later"), "/api/models")
    failure = failure_of(connect(), Transient)
    assert str(failure) == f"{server.url} answered {status} (later)"
    assert isinstance(failure, Transient)
    assert failure.retry_after is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", (7, 7)),
        (" 120 ", (120, 120)),
        ("in the future", (50, 61)),
        ("in the past", (0, 0)),
        ("9" * 400, (1e300, float("inf"))),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("²", None),
        ("Mon, 99 Xyz 2027 00:00:00 GMT", None),
        ("", None),
    ],
)
def test_retry_after_is_honoured_in_both_forms(
    value: str, seconds: tuple[float, float] | None, server: FaultyServer, connect: Connect
) -> None:
    value = {"in the future": http_date(60), "in the past": http_date(-60)}.get(value, value)
    server.inject(refusal(503, "busy", Retry_After=value), "/api/models")
    failure = failure_of(connect(), Transient)
    assert isinstance(failure, Transient)
    if seconds is None:
        assert failure.retry_after is None
    else:
        assert failure.retry_after is not None
        assert seconds[0] <= failure.retry_after <= seconds[1]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(status: int, server: FaultyServer, connect: Connect) -> None:
    with FaultyServer() as elsewhere:
        server.inject(Fault(status, {"Location": f"{elsewhere.url}/models"}), "/api/models")
        assert "redirects elsewhere" in str(failure_of(connect(), Rejected))
        assert elsewhere.requests == []


# Pages


def page(server: FaultyServer, number: int, following: str | None) -> None:
    link = {} if following is None else {"Link": f'<{following}>; rel="next"'}
    server.inject(
        json_answer([MODEL | {"id": f"m-{number}"}], **link),
        "/api/models",
        where=lambda request: request.query.get("page", "1") == str(number),
        times=9,
    )


def test_pages_are_followed_relative_or_not(server: FaultyServer, connect: Connect) -> None:
    page(server, 1, "?page=2")
    page(server, 2, f"{server.url}/models?page=3")
    page(server, 3, f"https://127.0.0.1:{server.url.split(':')[2].split('/')[0]}/api/models?page=4")  # a proxy ended TLS
    page(server, 4, None)
    assert [model.id for model in connect().models()] == ["m-1", "m-2", "m-3", "m-4"]


def test_each_page_of_a_list_beats_before_it_is_waited_for(server: FaultyServer, connect: Connect) -> None:
    page(server, 1, "?page=2")
    page(server, 2, "?page=3")
    page(server, 3, None)
    beats: list[int] = []
    assert len(connect().models(lambda: beats.append(len(server.requests)))) == 3
    assert beats == [0, 1, 2]


def test_pages_in_a_circle_end(server: FaultyServer, connect: Connect) -> None:
    page(server, 1, "/api/models?page=2")
    page(server, 2, "/api/models?page=1")
    assert [model.id for model in connect().models()] == ["m-1", "m-2"]
    assert len(server.requests) == 3


def test_endless_pages_fail_instead_of_giving_half_a_list(server: FaultyServer, connect: Connect) -> None:
    for number in range(1001):
        server.inject(json_answer([MODEL], Link=f"<?page={number}>; rel=next"), "/api/models")
    assert "more than 1000 pages" in str(failure_of(connect(), Transient))


def test_pages_whose_links_grow_end_early(server: FaultyServer, connect: Connect) -> None:
    server.inject(json_answer([MODEL], Link=f"<{'x' * 200}/y>; rel=next"), "/api", times=1001)
    assert "goes on at a URL of more than 8192 characters" in str(failure_of(connect(), Rejected))
    assert len(server.requests) < 50


@pytest.mark.parametrize(
    "link",
    ["{elsewhere}/models", "//elsewhere.example/models", "https://127.0.0.1:1/x", "http://[::1", "file:///etc/passwd"],
)
def test_key_is_sent_to_no_other_host(link: str, server: FaultyServer, connect: Connect) -> None:
    with FaultyServer() as elsewhere:
        page(server, 1, link.format(elsewhere=elsewhere.url))
        assert "goes on at another host; the key is not sent there" in str(failure_of(connect(), Rejected))
        assert elsewhere.requests == []
        assert len(server.requests) == 1


# Manifests and uploads


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ([], "the download manifest lacks its documented form"),
        ({"model_id": "m-1"}, "files: Field required"),
        ({"model_id": "m-1", "files": [{"rel": "a", "size": -1, "url": "x"}]}, "files.0.size: "),
        ({"model_id": "m-1", "files": [{"rel": "a", "size": 1}]}, "files.0.url: Field required"),
    ],
)
def test_manifest_without_its_fields_is_refused(answer: object, told: str, server: FaultyServer, connect: Connect) -> None:
    server.inject(json_answer(answer), "/download")
    with pytest.raises(Rejected) as failure:
        connect().manifest("m-1")
    assert told in str(failure.value)


def test_manifest_of_another_model_is_refused(server: FaultyServer, connect: Connect) -> None:
    server.inject(json_answer({"model_id": "m-2", "files": []}), "/download")
    with pytest.raises(Transient, match="the manifest of another model"):
        connect().manifest("m-1")


def test_presign_with_another_method_is_refused(server: FaultyServer, connect: Connect) -> None:
    answer = {"upload_id": "u", "key": "k", "url": "https://s/", "method": "POST"}
    server.inject(json_answer(answer), "/presign", method="POST")
    with pytest.raises(Rejected, match="the console wants POST for uploads, this version knows PUT"):
        connect().presign("a.jsonl", "x")


@pytest.mark.parametrize(
    ("url", "lifetime"),
    [
        ("https://s/b?X-Amz-Date=20270101T000000Z&X-Amz-Expires=900", 800),
        ("https://s/b?x-amz-date=20270101T000000Z&x-amz-expires=100", 0),
        ("https://s/b", None),
        ("https://s/b?X-Amz-Date=20270101T000000Z", None),
        ("https://s/b?X-Amz-Date=yesterday&X-Amz-Expires=900", None),
        ("https://s/b?X-Amz-Date=20270101T000000Z&X-Amz-Expires=nan", None),
        ("https://[s/b?X-Amz-Date=20270101T000000Z&X-Amz-Expires=9", None),
    ],
)
def test_lifetime_of_a_url_is_read_from_it(url: str, lifetime: float | None) -> None:
    assert url_lifetime(url, 1_798_761_700.0) == lifetime


def test_lifetime_of_a_url_does_not_depend_on_the_local_clock(server: FaultyServer, connect: Connect) -> None:
    """The signer's own time is in the Date header: the lifetime of its URLs does not depend on the time here."""
    model_id = server.add_model("llama", "v1", {"w": Content(1)})
    server.inject(Fault(headers={"Date": http_date(-86400)}), "/download")
    (file,) = connect().manifest(model_id).files
    assert file.expires_in is not None
    assert 86400 < file.expires_in < 86400 + 902


# Proxies and certificates


def test_loopback_is_reached_without_a_proxy(
    server: FaultyServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultyServer() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.endpoint)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert connect().models() == []
        assert proxy.requests == []


def test_other_hosts_are_reached_through_the_proxy(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultyServer() as proxy:
        monkeypatch.setenv("http_proxy", proxy.endpoint)
        with pytest.raises(AxomsyncError):
            connect("http://console.invalid/api").models()
        assert proxy.requests


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "No such file"),
        ("", "it holds no PEM certificate"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "it holds no complete PEM certificate"),
    ],
)
def test_invalid_certificate_file_is_named(content: str | None, told: str, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(BadConfig, match=rf"\[console\] ca_file {file}: can't be used: {told}"):
        tls_context(str(file))
    assert tls_context(None).verify_mode == ssl.CERT_REQUIRED


# Cost of an answer

M = 1 << 20
_ASK = """
import sys
from axomsync.console.client import Console
from axomsync.core.errors import AxomsyncError
console = Console(sys.argv[1], lambda: sys.argv[2])
try:
    answer = console.manifest("m") if sys.argv[3] == "manifest" else console.models()
    from axomsync.mirror.layout import check_manifest
    check_manifest(answer.files) if sys.argv[3] == "manifest" else None
    told = "ok"
except AxomsyncError as failure:
    told = f"{type(failure).__name__}: {failure}"
from tests.rig.memory import most_memory
print(most_memory() >> 20, told)
"""


def gzipped(data: bytes, times: int = 1) -> bytes:
    for _ in range(times):
        data = gzip.compress(data, 9)
    return data


def manifest_of(rels: Iterable[str], url: str = "http://127.0.0.1/x") -> bytes:
    return json.dumps({"model_id": "m", "files": [{"rel": rel, "size": 1, "url": url} for rel in rels]}).encode()


def deep(count: int) -> Iterator[str]:
    for number in range(count):
        yield "/".join([str(number), *["a"] * 98])


COSTLY: dict[str, tuple[str, Callable[[], bytes], str | None, str]] = {
    "a gigabyte in gzip": ("models", lambda: gzipped(bytes(1024 * M)), "gzip", "larger than 64 MiB"),
    "gzip in gzip": ("models", lambda: gzipped(bytes(1024 * M), 2), "gzip, gzip", "packed as 'gzip, gzip'"),
    "a coding that nobody asked for": ("models", lambda: b"?", "br", "packed as 'br'"),
    "honest gzip": ("models", lambda: gzipped(json.dumps([MODEL]).encode()), "gzip", "ok"),
    "63 MiB of []": ("models", lambda: b"[" + b"[]," * (21 * M) + b"0]", None, "more than 1500000 values"),
    "as many values as there may be": ("models", lambda: b"[" + b'{"a":0},' * 499_000 + b"{}]", None, "200000 entries"),
    "64 MiB of short texts": (
        "models",
        lambda: b"[" + b'"x",\n' * (12 * M) + b"0]",
        None,
        "more than 1500000 values",
    ),
    "1.4 million names": (
        "manifest",
        lambda: b"{" + b",".join(b'"%07d":%d' % (n, n + 300) for n in range(1_400_000)) + b"}",
        None,
        "more than 1500000 values",
    ),
    "a million names in small objects": (
        "models",
        lambda: (
            b"["
            + b",".join(b"{%s}" % b",".join(b'"%d":%d' % (n + k, n) for k in range(12)) for n in range(0, 1_200_000, 12))
            + b"]"
        ),
        None,
        "ok",
    ),
    "one text of 63 MiB": ("models", lambda: b'["' + b"x" * (63 * M) + b'"]', None, "ok"),
    "one wide text of 63 MiB": ("models", lambda: b'["\xf0\x9f\x98\x80' + b"x" * (63 * M) + b'"]', None, "beyond ASCII"),
    "one wide text of 15 MiB": ("models", lambda: b'["\xf0\x9f\x98\x80' + b"x" * (15 * M) + b'"]', None, "ok"),
    "a list of 100,000 models": (
        "models",
        lambda: json.dumps([MODEL | {"id": f"{n:036}", "lineage": {"job_id": str(n)}} for n in range(100_000)]).encode(),
        None,
        "ok",
    ),
    "deep paths": ("manifest", lambda: manifest_of(deep(7000)), None, "ok"),
    "very deep JSON": (
        "manifest",
        lambda: b'{"files": ' + b"[" * 1025 + b"]" * 1025 + b"}",
        None,
        "no JSON that can be read",
    ),
    "100,000 files": (
        "manifest",
        lambda: manifest_of((f"folder/{n}.safetensors" for n in range(100_000)), "http://127.0.0.1/" + "x" * 480),
        None,
        "ok",
    ),
    "a million files": (
        "manifest",
        lambda: b'{"model_id":"m","files":[' + b"0," * 1_400_000 + b"0]}",
        None,
        "documented form",
    ),
    "a list of 150,000 files": (
        "manifest",
        lambda: manifest_of(f"{n}" for n in range(150_000)),
        None,
        "documented form: files: List should have at most 100000 items",
    ),
}


@pytest.mark.parametrize("kind", COSTLY)
def test_answer_needs_no_more_memory_than_promised(server: FaultyServer, kind: str) -> None:
    call, body, coding, told = COSTLY[kind]
    packed = {"Content-Encoding": coding} if coding else {}
    server.inject(Fault(200, packed, body()), "/api/models")
    command = [sys.executable, "-c", _ASK, server.url, KEY, call]
    began = time.monotonic()
    rss, words = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(" ", 1)
    print(f"{kind}: {rss} MiB, {time.monotonic() - began:.1f} s, {words.strip()[:120]}")
    assert told in words
    assert int(rss) <= 300
    assert server.requests[0].headers["accept-encoding"] == "identity"


def test_pages_share_the_limit_of_one_answer(server: FaultyServer, connect: Connect) -> None:
    page = json.dumps([MODEL | {"description": "x" * (30 * M)}]).encode()
    for number in range(3):
        server.inject(Fault(200, {"Link": f'</api/models?page={number}>; rel="next"'}, page), "/api/models")
    assert "larger than 64 MiB" in str(failure_of(connect(), Transient))


def test_slow_refusal_is_given_up(server: FaultyServer) -> None:
    server.inject(Fault(403, body=b'{"detail": "' + b" " * 10_000, rate=1000), "/api/models")
    console = Console(server.url, lambda: KEY, answer_seconds=0.3)
    began = time.monotonic()
    assert "lacks the scope 'read' (no detail given)" in str(failure_of(console, Rejected))
    assert time.monotonic() - began < 5
    console.close()


CUT_OFF = {
    "short": Fault(headers={"Content-Length": "1000"}, body=b'{"detail": "it is', cut=17),
    "reset": Fault(headers={"Content-Length": "1000"}, body=b'{"detail": "it is', cut=17, ending="reset"),
    "stall": Fault(headers={"Content-Length": "1000"}, body=b'{"detail": "it is', cut=17, ending="stall"),
    "no chunk": Fault(headers={"Content-Length": None, "Transfer-Encoding": "chunked"}, body=b"no chunk", cut=8),
    "not packed": Fault(headers={"Content-Encoding": "gzip"}, body=b"not packed"),
}


@pytest.mark.parametrize("fault", CUT_OFF.values(), ids=CUT_OFF.keys())
@pytest.mark.parametrize(
    ("status", "kind"), [(401, KeyRefused), (403, Rejected), (404, Rejected), (422, Rejected), (429, Transient)]
)
def test_refusal_whose_body_is_cut_off_is_told_as_one(
    status: int, kind: type[AxomsyncError], fault: Fault, server: FaultyServer, connect: Connect
) -> None:
    server.inject(replace(fault, status=status, headers={**fault.headers, "Retry-After": "7"}), "/api/models")
    failure = failure_of(connect(seconds=0.3), kind)
    assert "no detail given" in str(failure)
    assert not isinstance(failure, Transient) or failure.retry_after == 7


@pytest.mark.parametrize("detail", [[[[]] * 3], [{"loc": [["deep"] * 9, "a", 1], "msg": "no"}], {"msg": 5}, None, 7])
def test_detail_of_any_form_is_reported(server: FaultyServer, connect: Connect, detail: object) -> None:
    server.inject(json_answer({"detail": detail}), "/api/models")
    server.inject(Fault(403, body=json.dumps({"detail": detail}).encode()), "/api/models")
    with suppress(AxomsyncError):
        connect().models()
    failure_of(connect(), Rejected)


def test_detail_with_the_key_at_the_cut_leaks_no_part_of_it(server: FaultyServer, connect: Connect) -> None:
    for before in range(300 - len(KEY), 301):
        server.inject(Fault(400, body=json.dumps({"detail": "x" * before + KEY}).encode()), "/api/models")
        assert KEY[:6] not in str(failure_of(connect(), Rejected))


def test_empty_objects_for_folders_are_left_out(server: FaultyServer, connect: Connect) -> None:
    sizes = {"a/": 0, "/": 0, "a/b": 0, "c/": 1, "on": 0, "on/azure": 0, "on/azure/x": 1, "on.txt": 0, "e": 1, "e/f": 1}
    files = [{"rel": rel, "size": size, "url": "http://127.0.0.1/"} for rel, size in sizes.items()]
    server.inject(json_answer({"model_id": "m", "files": files}), "/download")
    found = [file.rel for file in connect().manifest("m").files]
    assert found == ["a/b", "c/", "on/azure/x", "on.txt", "e", "e/f"], "an object that has bytes stands for itself"


# Received texts


def test_control_characters_are_escaped_in_shown_texts(server: FaultyServer, connect: Connect) -> None:
    odd = MODEL | {"name": "a\nERROR b", "status": "on\r\nhold", "created_at": "\x00"}
    server.inject(json_answer([odd]), "/api/models")
    (model,) = connect().models()
    assert model.name == "a\nERROR b", "a label is told apart by all that it has; a folder is named after it reversibly"
    assert (model.status, model.created_at) == ("on\\r\\nhold", "\\x00")


@pytest.mark.parametrize("field", ["upload_id", "key", "url"])
def test_presign_with_control_characters_is_refused(server: FaultyServer, connect: Connect, field: str) -> None:
    answer = {"upload_id": "u", "key": "k", "url": "http://127.0.0.1/", "method": "PUT"}
    server.inject(json_answer(answer | {field: "http://a\nforged"}), "/presign", method="POST")
    with pytest.raises(Rejected, match=f"{field}: Value error, it holds a control character") as refusal:
        connect().presign("a.jsonl", "application/jsonl")
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (MODEL | {"version": None}, "llama m-1 (no version)"),
        ({"id": "m-1", "name": "llama", "version": "v1"}, "llama v1 m-1 (no status)"),
        (MODEL | {"id": "m\n1"}, "llama v1 m\\n1 (id: Value error, it holds a control character)"),
        (MODEL | {"name": "x" * 1001}, "(name: String should have at most 1000 characters)"),
    ],
)
def test_unusable_entry_is_named(server: FaultyServer, connect: Connect, entry: dict[str, object], told: str) -> None:
    server.inject(json_answer([entry, MODEL | {"id": "m-2"}]), "/api/models")
    console = connect()
    assert [model.id for model in console.models()] == ["m-2"]
    assert told in (console.models_left_out or "")
    assert console.models() == []
    assert console.models_left_out is None


# Any answer

SIGNED = "?X-Amz-Date=20260101T000000Z&X-Amz-Expires=600"

ANSWERS: dict[str, tuple[object, Callable[[Console], object]]] = {
    "models": ([MODEL, MODEL | {"id": "m-2", "params": 7, "created_at": "2026-01-01T00:00:00Z"}], Console.models),
    "datasets": (
        [{"id": "d-1", "name": "d", "version": "v1", "shard_count": 1, "bytes": 2, "status": "ready"}],
        Console.datasets,
    ),
    "base models": ([{"id": "b-1", "family": "f", "name": "b", "version": "1", "params": 7}], Console.base_models),
    "manifest": (
        {"model_id": "m", "files": [{"rel": "a/b", "size": 3, "url": f"http://127.0.0.1/x{SIGNED}", "sha256": "0" * 64}]},
        lambda console: check_manifest(console.manifest("m").files),
    ),
    "presign": (
        {"upload_id": "u", "key": "k", "url": f"http://127.0.0.1/x{SIGNED}", "method": "PUT"},
        lambda console: console.presign("a.jsonl", "application/jsonl"),
    ),
}  # fmt: skip


@how_many()
@pytest.mark.parametrize("call", ANSWERS)
def test_any_document_gives_an_answer_or_a_named_failure(
    server: FaultyServer, connect: Connect, call: str, examples: int
) -> None:
    good, ask = ANSWERS[call]
    console = connect()

    def holds(document: object) -> None:
        server.requests.clear()
        server.heal()
        server.inject(json_answer(document), "/api")
        server.inject(json_answer(document), "/api", method="POST")
        try:
            ask(console)
        except AxomsyncError as failure:
            if not str(failure).isprintable():
                pytest.fail(repr(failure))

    for_any(nearly(good) | nearly(good) | ANYTHING, examples, holds)
    console.close()
