import os
from collections import deque
from pathlib import Path

import httpx
import pytest

from axomsync.sandbox.console import Sandbox
from tests.rig.recording import recording
from tests.sandbox.test_objectstore import until


@pytest.fixture
def url(sandbox: Sandbox, tmp_path: Path) -> str:
    (tmp_path / "weights").write_bytes(os.urandom(3_000_000))
    sandbox.publish_model("chassis", "v1", tmp_path)
    return sandbox.presign("GET", sandbox.catalog.models()[0].files[0].key)


def test_requests_of_a_kept_alive_connection_are_recorded_one_by_one(sandbox: Sandbox, url: str) -> None:
    with httpx.Client() as client:
        client.get(url, headers={"Range": "bytes=0-999999", "If-Match": '"x"'})
        whole = client.get(url)
        client.get(url, headers={"Range": "bytes=5-9"})
        client.put(sandbox.presign("PUT", "tmp/recorded/ö"), content=bytes(2_000_000))
        client.get(url.replace("Signature=", "Signature=0"))
        client.get(url, headers={"Connection": "close"})
    assert sandbox.relay.accepted == 1
    refused, all_of_it, ranged, put, forged, last = recording(sandbox).requests
    assert (refused.method, refused.range, refused.status, refused.headers["if-match"]) == (
        "GET",
        "bytes=0-999999",
        412,
        '"x"',
    )
    assert (all_of_it.range, all_of_it.status, all_of_it.body_sent) == (None, 200, len(whole.content))
    assert (ranged.range, ranged.status, ranged.body_sent) == ("bytes=5-9", 206, 5)
    assert (put.method, put.path, put.status, put.body_received) == ("PUT", "/axom/tmp/recorded/ö", 200, 2_000_000)
    assert forged.status == 403
    assert last.status == 200
    for request in recording(sandbox).requests:
        assert request.answered_at is not None
        assert request.ended_at is not None
        assert request.at <= request.answered_at <= request.ended_at


def test_an_answer_is_cut_at_an_exact_byte_as_often_as_asked(sandbox: Sandbox, url: str) -> None:
    recording(sandbox).cut(1_234_567, times=2)
    for _ in range(2):
        with httpx.stream("GET", url) as answer:
            pieces = answer.iter_raw()
            with pytest.raises(httpx.RemoteProtocolError, match="received 1234567 bytes, expected 3000000"):
                deque(pieces, maxlen=0)
    assert len(httpx.get(url).content) == 3_000_000
    assert [(r.body_sent, r.was_cut) for r in recording(sandbox).requests] == [(1_234_567, True)] * 2 + [(3_000_000, False)]


def test_a_body_is_cut_at_an_exact_byte_and_stores_nothing(sandbox: Sandbox) -> None:
    recording(sandbox).cut(500_000, method="PUT", path="cut-here")
    put = sandbox.presign("PUT", "tmp/cut-here/one")
    with pytest.raises(httpx.TransportError):
        httpx.put(put, content=bytes(1_000_000))
    assert (recording(sandbox).requests[0].body_received, recording(sandbox).requests[0].was_cut) == (500_000, True)
    assert sandbox.store.list("tmp/cut-here") == []
    assert httpx.put(put, content=bytes(1_000_000)).status_code == 200
    until(lambda: sandbox.store.list("tmp/cut-here"))


def test_a_cut_spares_other_methods_and_paths(sandbox: Sandbox, url: str) -> None:
    recording(sandbox).cut(10, path="elsewhere")
    recording(sandbox).cut(10, method="PUT")
    assert len(httpx.get(url).content) == 3_000_000
