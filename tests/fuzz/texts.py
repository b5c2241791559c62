"""Short texts: values of keys, signed URLs, labels and paths, requests to the page, proxies, what a gate said, dates."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

from axomsync.config import units, values
from axomsync.core.errors import AxomsyncError
from axomsync.core.text import printable
from axomsync.core.windows import opening
from axomsync.mirror import layout
from axomsync.ops.log_sources import time_in
from axomsync.ops.logs import redact
from axomsync.runtime.gates import LONGEST_REASON, last_line
from axomsync.storage import s3
from axomsync.storage.client import Storage
from axomsync.transport import gateways
from axomsync.transport.http import host_of, http_date, retry_after
from axomsync.transport.proxies import Proxies
from axomsync.web.guard import Guard
from tests.fuzz.answers import NOW, SIGNED

_storage = Storage(stall=1.0)
_storage.close()
_BOXES = ["http://box1:9080", "http://box2:9080"]


def _signed_url(data: bytes) -> None:
    url = data.decode("utf-8", "replace")
    lifetime = s3.url_lifetime(url, NOW)
    assert lifetime is None or isinstance(lifetime, float)
    host_of(url)
    assert sorted(gateways.owners(_BOXES, url, 5)) == _BOXES
    _storage._check(url)  # what each request asks first
    assert gateways.through(_BOXES[0], url).startswith(_BOXES[0])
    s3.signed_headers(url, "application/jsonl")


def _label(data: bytes) -> None:
    label = data.decode("utf-8", "surrogatepass") if _is_text(data) else data.decode("utf-8", "surrogateescape")
    component = layout.escape(label)
    assert "/" not in component
    assert component not in (".", "..")
    assert layout.unescape(component) == label
    assert printable(label).isprintable()
    layout.age(label, "id")


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def _paths(data: bytes) -> None:
    rels = data.decode("utf-8", "replace").split("\n")
    layout.check_paths(rels)
    assert all(rel and not rel.startswith("/") and ".." not in rel.split("/") for rel in rels)


def _reread(parse: Callable[[object], Any], show: Callable[[Any], Any]) -> Callable[[bytes], None]:
    """What was read and is written back is read as the same."""

    def takes(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        value: object = text.split("\n") if "\n" in text else text
        read = parse(value)
        assert parse(show(read)) == read, read

    return takes


def _value(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    failures = []
    forms: tuple[Callable[[Any], object], ...] = (
        values.console_url, values.parse_listen, values.file_mode, values.group_name, values.parse_connections,
        lambda text: values.parse_gateways([text]), lambda text: values.parse_views([text]),
        lambda text: values.host_names((text,)), values.is_loopback,
    )  # fmt: skip
    for form in forms:
        try:
            form(text)
        except ValueError as failure:
            failures.append(failure)
    assert all(str(failure) for failure in failures)


def _windows(data: bytes) -> None:
    promotes = units.parse_promote(data.decode("utf-8", "replace").split("\n"))
    assert units.parse_promote(units.show_promote(promotes)) == promotes
    begins = opening(promotes, NOW)
    assert begins is not None
    assert begins >= NOW


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("ok")(scope, receive, send)


async def _nothing_comes() -> Any:
    raise AssertionError("the page reads no body")


_guards = (Guard(_app, ["axom.example"], None), Guard(_app, [], "0123456789abcdef"))


def _page(data: bytes) -> None:
    """Method, path, query; then a header a line."""
    first, *lines = data.split(b"\n")
    method, _, target = first.partition(b" ")
    path, _, query = target.partition(b"?")
    pairs = [line.partition(b":") for line in lines]
    headers = [(name.strip().lower(), value.strip()) for name, _, value in pairs]
    scope = {
        "type": "http", "method": method.decode("latin-1"), "path": path.decode("utf-8", "replace"), "raw_path": path,
        "query_string": query, "headers": headers,
    }  # fmt: skip
    for guard in _guards:
        statuses: list[int] = []

        async def send(message: Any, statuses: list[int] = statuses) -> None:
            statuses += [message["status"]] if "status" in message else []

        coroutine = guard(scope, _nothing_comes, send)
        with suppress(StopIteration):
            coroutine.send(None)  # it waits for nothing, and so needs no loop
        assert statuses in ([200], [401], [405], [414], [421])
    Headers(scope=scope)


def _proxy(data: bytes) -> None:
    lines = [*data.decode("utf-8", "surrogateescape").split("\n"), "", "", ""]
    proxies = Proxies.of({"https_proxy": lines[0], "no_proxy": lines[1]})
    proxies.leading_to(lines[2])
    proxies.leading_to("https://console.test/api")
    assert all(warning.isprintable() for warning in proxies.warnings)


def _output(data: bytes) -> None:
    """What a gate or a program said, and a line of a log."""
    text = data.decode("utf-8", "replace")
    line = last_line(text)
    assert line.isprintable()
    assert len(line) <= LONGEST_REASON
    assert "axom_live_" not in redact(text + " axom_live_abc")
    time_in(text)


def _dates(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    http_date(text)
    first, _, second = text.partition("\n")
    wait = retry_after({"Retry-After": first, "Date": second}, NOW)
    assert wait is None or wait >= 0


PARSERS: dict[str, tuple[Any, ...]] = {
    "signed URLs": (
        _signed_url,
        (
            SIGNED.encode(),
            b"https://[2001:db8::1]:9000/b/k?Expires=1795000900&Signature=x",
            b"https://a.blob.test/c/b?se=2026-11-27T00%3A15%3A00Z&sig=abc",
            b"https://s3.test/k?x-oss-date=20261127T000000Z&x-oss-expires=9&x-oss-additional-headers=host",
        ),
        (AxomsyncError,),
    ),
    "labels": (_label, (b"chassis", "\u00e4 b+%2F.v1".encode(), b".hidden", b"current", b"2026-11-27T00:00:00Z"), ()),
    "paths of manifests": (_paths, (b"a/b.bin\nsub/c.json\nd", b"A\na"), (ValueError,)),
    "durations": (_reread(units.parse_duration, units.show_duration), (b"90s", b"1.5h", b"500ms", b"366d"), (ValueError,)),
    "sizes": (_reread(units.parse_size, units.show_size), (b"64MiB", b"5115MiB", b"1.5GB", b"10 B"), (ValueError,)),
    "bandwidths": (
        _reread(units.parse_bandwidth, units.show_bandwidth),
        (b"100MB/s", b"Mon-Fri 08:00 50MB/s\n20:00 off", b"Sat 0:00 1kB/s\n"),
        (ValueError,),
    ),
    "windows": (_windows, (b"Sat 02:00-05:00\n22:00-04:00", b"Fri-Mon 23:00-24:00"), (ValueError,)),
    "values of keys": (
        _value,
        (b"https://console.test:8443/api", b"[::1]:9464", b"0640", b"ml", b"auto", b"http://Box1:9080/", b"flat:/srv/v"),
        (),
    ),
    "requests to the page": (
        _page,
        (
            b"GET /api/status?x=1\nHost: 127.0.0.1:9464\nAuthorization: Basic bWU6MDEyMzQ1Njc4OWFiY2RlZg==",
            b"HEAD /healthz\nHost: axom.example.\nAuthorization: Bearer 0123456789abcdef",
            b"GET /\nHost: [::1]:80",
        ),
        (),
    ),
    "proxies": (
        _proxy,
        (b"http://me:pw@proxy:3128/\n.test,10.0.0.0/8 [::1]:443 *\nhttps://a.test:443/x", b"socks5h://[::1]:1080\n::1/128"),
        (),
    ),
    "output of programs": (
        _output,
        (b"no\nthe model is too large\n", b'{"time": "2026-11-27T00:00:00+00:00", "message": "a"}', b"2026-11-27 12:00 a"),
        (),
    ),
    "dates of headers": (_dates, (b"Fri, 27 Nov 2026 00:00:00 GMT\nFri, 27 Nov 2026 00:00:00 GMT", b"120"), ()),
}
