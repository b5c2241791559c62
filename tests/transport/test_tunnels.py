"""What failed connections through a proxy leave behind, seen by the garbage collector."""

import gc
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpcore
import httpx
import pytest

from axomsync.transport.deadlines import limited
from axomsync.transport.tunnels import Renewed
from tests.rig.tls import Authority, ConnectProxy, TlsFront

TRIES = 3
LIMITS = {"connect": 0.2, "read": 5.0, "write": 5.0, "pool": 0.2}


@pytest.fixture
def untrusted(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """TLS with a certificate that nobody trusts."""
    with TlsFront(Authority(tmp_path, "far.test"), ("127.0.0.1", 9)) as front:
        yield front.address


@pytest.fixture
def silent() -> Iterator[tuple[str, int]]:
    """A server that never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()


@pytest.mark.parametrize(("far_side", "failure"), [("untrusted", httpx.ConnectError), ("silent", httpx.ConnectTimeout)])
def test_a_failure_behind_a_proxy_leaves_nothing_behind(
    request: pytest.FixtureRequest, far_side: str, failure: type[Exception]
) -> None:
    with ConnectProxy(request.getfixturevalue(far_side)) as proxy:
        place = f"http://127.0.0.1:{proxy.address[1]}"
        one = httpx.Limits(max_connections=1)
        with closing(Renewed(lambda: limited(httpx.HTTPTransport(proxy=place, trust_env=False, limits=one)))) as transport:
            for _ in range(TRIES):
                with pytest.raises(failure):
                    transport.handle_request(httpx.Request("GET", "https://far.test/", extensions={"timeout": LIMITS}))
            gc.collect()
            kept = (each for each in gc.get_objects() if isinstance(each, httpcore.HTTPConnection))
            assert not [each for each in kept if f"'{place}'" in repr(each)]
    assert len(proxy.asked) == TRIES
