"""Storage over TLS with a private authority, and through a proxy: both directions, each with its own transport."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpcore
import pytest

from axomsync.core.errors import Transient
from axomsync.storage.client import SHORT_BODY, Storage
from tests.rig.faults import Content, FaultyServer
from tests.rig.tls import Authority, ConnectProxy, SocksProxy, TlsFront

NAME = "storage.test"  # resolves nowhere: only the proxy knows it
CONTENT = Content(300_000, seed=3)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), NAME)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        server.replace("object", CONTENT)
        yield server


@pytest.fixture
def front(authority: Authority, server: FaultyServer) -> Iterator[TlsFront]:
    port = urlsplit(server.endpoint).port
    assert port is not None
    with TlsFront(authority, ("127.0.0.1", port)) as front:
        yield front


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def storage_for(ca_file: Path | None = None) -> Iterator[Storage]:
    storage = Storage(loopback=True, stall=2.0, ca_file=str(ca_file) if ca_file else None)
    try:
        yield storage
    finally:
        storage.close()


def secured(server: FaultyServer, method: str, key: str, place: str) -> str:
    """A signed URL that leads to `place` over https."""
    return server.presign(method, key).replace(server.endpoint, f"https://{place}")


def both_ways(storage: Storage, server: FaultyServer, place: str) -> None:
    with storage.get(secured(server, "GET", "object", place), 0, CONTENT.size, CONTENT.size, None) as reply:
        assert b"".join(reply.chunks) == CONTENT.read()
    storage.put(secured(server, "PUT", "sent", place), iter([b"line\n"]), 5, "application/jsonl")
    assert server.storage_requests("sent")[-1].body == b"line\n"


def test_ca_file_is_trusted(server: FaultyServer, front: TlsFront, authority: Authority) -> None:
    with storage_for(authority.file) as storage:
        both_ways(storage, server, f"127.0.0.1:{front.address[1]}")


def test_ssl_cert_file_is_trusted(
    server: FaultyServer, front: TlsFront, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    with storage_for() as storage:
        both_ways(storage, server, f"127.0.0.1:{front.address[1]}")


def test_untrusted_certificate_is_reported_with_the_fix(server: FaultyServer, front: TlsFront) -> None:
    place = f"127.0.0.1:{front.address[1]}"
    fix = r"its certificate is not trusted .*; \[console\] ca_file or SSL_CERT_FILE names an authority of your own"
    with storage_for() as storage:
        with (
            pytest.raises(Transient, match=fix),
            storage.get(secured(server, "GET", "object", place), 0, CONTENT.size, CONTENT.size, None),
        ):
            pass
        with pytest.raises(Transient, match=fix):
            storage.put(secured(server, "PUT", "sent", place), iter([b"line\n"]), 5, "application/jsonl")
    assert server.storage_requests() == []


@pytest.mark.parametrize("length", [5, SHORT_BODY + 1])
def test_failures_behind_a_proxy_leave_nothing_behind(
    server: FaultyServer, front: TlsFront, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    with ConnectProxy(front.address) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.address[1]}")
        with storage_for() as storage:
            for _ in range(5):
                with pytest.raises(Transient, match="its certificate is not trusted"):
                    storage.put(secured(server, "PUT", "sent", NAME), iter([bytes(length)]), length, "application/jsonl")
            gc.collect()
            kept = (each for each in gc.get_objects() if isinstance(each, httpcore.HTTPConnection))
            assert not [each for each in kept if f":{proxy.address[1]}'" in repr(each)]


def test_https_proxy_sees_no_url(
    server: FaultyServer, front: TlsFront, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ConnectProxy(front.address) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.address[1]}")
        with storage_for(authority.file) as storage:
            both_ways(storage, server, NAME)
        assert [head.split(b"\r\n")[0] for head in proxy.asked] == [f"CONNECT {NAME}:443 HTTP/1.1".encode()] * 2
        assert not any(b"X-Amz" in head or b"uthorization" in head for head in proxy.asked)


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_socks_proxy_resolves_names(
    server: FaultyServer, front: TlsFront, authority: Authority, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    with SocksProxy(front.address) as proxy:
        monkeypatch.setenv("ALL_PROXY", f"{scheme}://127.0.0.1:{proxy.address[1]}")
        monkeypatch.setenv("NO_PROXY", "localhost,::1/128")
        with storage_for(authority.file) as storage:
            both_ways(storage, server, NAME)
        assert proxy.asked == [NAME.encode()] * 2


def test_no_proxy_is_followed(
    server: FaultyServer, front: TlsFront, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ConnectProxy(front.address) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.address[1]}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with storage_for(authority.file) as storage:
            both_ways(storage, server, f"127.0.0.1:{front.address[1]}")
        assert proxy.asked == []
