"""Storage answers PUTs in every wrong way, repeatedly: nothing counts as uploaded, and no file is removed.

The server is real, the misbehaviour is on the wire; only the pauses between the tries take no time.
"""

import hashlib
import itertools
import mmap
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from axomsync.console.client import Console
from axomsync.core.records import UploadState
from axomsync.ledger import Ledger, Reader
from axomsync.storage.client import Storage
from tests.drop.conftest import dataset
from tests.drop.inprocess import DropHere, ledger_template
from tests.rig.agent import AgentProcess
from tests.rig.faults import FOREVER, KEY, Content, Fault, FaultyServer, json_answer, s3_error

PAGE = b"<!doctype html><title>Sign in</title>"
NOT_STORED = [
    Fault(200, {"ETag": None}, b""),
    Fault(200, {"ETag": '""'}, b""),
    Fault(200, {"ETag": None, "Content-Type": "text/html"}, PAGE),
    Fault(200, {"Content-Type": "text/html"}, PAGE),
    Fault(200, {}, b"<Error><Code>InternalError</Code></Error>"),
    Fault(200, {"ETag": '"d41d8cd98f00b204e9800998ecf8427e"'}, b""),
    Fault(200, {"ETag": '"hello"'}, b'{"error": "blocked by policy"}'),
    Fault(200, {"ETag": '"hello"'}, b" " * 70_000 + b"<Error>"),
    Fault(201, {"ETag": None}, b""),
    Fault(202, {}, b""),
    Fault(203, {}, b""),
    Fault(204, {"ETag": None}, b""),
    Fault(206, {}, b""),
    Fault(301, {"Location": "http://127.0.0.1:1/"}, b""),
    Fault(302, {"Location": "http://127.0.0.1:1/"}, b""),
    Fault(307, {"Location": "http://127.0.0.1:1/"}, b""),
    s3_error(307, "TemporaryRedirect", "no"),
    s3_error(400, "IncompleteBody", "no"),
    s3_error(400, "InvalidArgument", "no"),
    s3_error(403, "AccessDenied", "no"),
    s3_error(404, "NoSuchBucket", "no"),
    s3_error(409, "OperationAborted", "no"),
    Fault(410, {}, b""),
    s3_error(411, "MissingContentLength", "no"),
    s3_error(412, "PreconditionFailed", "no"),
    Fault(413, {"Content-Type": "text/html"}, PAGE),
    s3_error(416, "InvalidRange", "no"),
    Fault(429, {}, b""),
    s3_error(500, "InternalError", "no"),
    s3_error(503, "SlowDown", "no"),
    Fault(200, {"ETag": None, "Content-Length": "5"}, b"", cut=0, ending="fin"),
    Fault(200, {}, b"x" * 100, cut=50, ending="reset"),
]


@pytest.mark.parametrize(
    ("after", "shard", "refused"), [("delete", "", ""), ("archive", "", ""), ("delete", "60B", "-00002-of-00002")]
)
def test_file_is_removed_only_after_a_confirmation(
    tmp_path: Path, server: FaultyServer, after: str, shard: str, refused: str
) -> None:
    """The second shard of a file is `refused`."""
    (tmp_path / "template").mkdir()
    with (
        closing(Storage(loopback=True, stall=2.0, answer_seconds=2.0)) as client,
        closing(Console(server.url, lambda: KEY)) as console,
    ):
        template = ledger_template(tmp_path / "template")
        here = DropHere(tmp_path, template, console=console, storage=client, after=after, shard=shard)
        for number, fault in enumerate(NOT_STORED):
            (here.folder / f"{number}.jsonl").write_bytes(dataset(str(number)))
            server.inject(fault, f"/{number}{refused}.jsonl", method="PUT", times=FOREVER)
        for passed in range(1, 3):
            server.requests.clear()
            here.live()
            lying = {path.name for path in here.folder.glob("*.jsonl")}
            assert lying == {f"{number}.jsonl" for number in range(len(NOT_STORED))}
            assert {row.state for row, _ in here.uploads()} <= {UploadState.QUEUED, UploadState.FAILED}
            for row, _ in here.uploads():
                name = row.filename.replace(".jsonl", f"{refused}.jsonl")
                tries = [r for r in server.requests if r.method == "PUT" and r.path.endswith(f"/{name}")]
                asked = [r for r in server.requests if r.method == "POST" and f'"{name}"'.encode() in r.body]
                assert len(tries) <= 6, (row.filename, len(tries))
                assert len(asked) <= 4, (row.filename, len(asked))
                assert row.reason, row.filename
                assert passed == 1 or row.attempts or row.state is UploadState.FAILED
        assert "[drop] shard" in next(row.reason or "" for row, _ in here.uploads() if row.filename == "25.jsonl")
        server.heal()
        with Ledger(here.state, lambda: here.clocks.wall) as ledger:
            ledger.retry((row.id for row, _ in here.uploads()), ())
        here.finish()
    rows = here.uploads()
    assert {row.state for row, _ in rows} == {UploadState.UPLOADED}
    for row, shards in rows:
        stored = [server.objects[key or ""].content.read() for key in ([part.key for part in shards] or [row.key])]
        assert b"".join(stored) == dataset(row.filename.removesuffix(".jsonl"))


def scrambled(content: Content) -> str:
    """ETag of a store that encrypts: 32 digits that are no MD5, the same for the same bytes."""
    return f'"{hashlib.md5(content.etag().encode()).hexdigest()}"'


@contextmanager
def drop_here(tmp_path: Path, server: FaultyServer, **settings: str) -> Iterator[DropHere]:
    (tmp_path / "template").mkdir()
    with (
        closing(Storage(loopback=True, stall=2.0)) as client,
        closing(Console(server.url, lambda: KEY)) as console,
    ):
        template = ledger_template(tmp_path / "template")
        yield DropHere(tmp_path, template, console=console, storage=client, **settings)


def puts(server: FaultyServer) -> int:
    return sum(request.method == "PUT" for request in server.requests)


@pytest.mark.parametrize("shard", ["", "60B"], ids=["whole", "shards"])
@pytest.mark.parametrize("headers", [{}, {"x-amz-server-side-encryption": "aws:kms"}], ids=["silent", "told"])
def test_etags_that_are_no_md5_confirm_an_upload(
    tmp_path: Path, server: FaultyServer, shard: str, headers: dict[str, str]
) -> None:
    """If the store does not say that its ETags are no MD5s, only its status confirms the upload: no file is deleted then."""
    server.etag_of_put = scrambled
    server.inject(Fault(headers=headers), "/bucket/", method="PUT", times=FOREVER)
    with drop_here(tmp_path, server, shard=shard, after="delete") as here:
        for name in ("a", "b"):
            (here.folder / f"{name}.jsonl").write_bytes(dataset(name, 4))
            here.live()
    assert [row.state for row, _ in here.uploads()] == [UploadState.UPLOADED] * 2
    objects = sum(len(shards) or 1 for _, shards in here.uploads())
    most = objects if headers else objects + (len(here.uploads()[0][1]) or 1)
    assert puts(server) <= most, "what the host's ETags are was learned from the first file"
    archived = {path.name for path in here.folder.rglob("*.jsonl")}
    assert archived == (set() if headers else {"a.jsonl", "b.jsonl"})
    assert all(row.doubtful is not bool(headers) for row, _ in here.uploads())


@pytest.mark.parametrize("shard", ["", "60B"], ids=["whole", "shards"])
@pytest.mark.parametrize("wrong", ["always the same", "of other bytes, on a host whose ETags were MD5s"])
def test_etags_of_other_bytes_confirm_nothing(tmp_path: Path, server: FaultyServer, shard: str, wrong: str) -> None:
    with drop_here(tmp_path, server, shard=shard, after="delete") as here:
        (here.folder / "first.jsonl").write_bytes(dataset("first", 4))
        if wrong == "always the same":
            server.etag_of_put = lambda _: f'"{"ab" * 16}"'
        here.live()
        server.etag_of_put = server.etag_of_put if wrong == "always the same" else scrambled
        (here.folder / "second.jsonl").write_bytes(dataset("other", 4))
        here.live()
        (second,) = (row for row, _ in here.uploads() if row.filename == "second.jsonl")
        assert second.state is UploadState.QUEUED
        assert "to different bytes" in str(second.reason) or "has other bytes than were sent" in str(second.reason)
        assert (here.folder / "second.jsonl").exists()


@pytest.mark.parametrize(
    "longest_quick_pause", [10.0, 0.0], ids=["after quick tries", "after one that asks for a long pause"]
)
def test_kept_url_that_leads_nowhere_is_replaced(
    longest_quick_pause: float, tmp_path: Path, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no lifetime, and no try with it ever sent the whole body."""
    monkeypatch.setattr("axomsync.drop.put.LONGEST_QUICK_PAUSE_SECONDS", longest_quick_pause)
    (tmp_path / "template").mkdir()
    nowhere = {"upload_id": "u1", "key": "k", "url": "http://127.0.0.1:1/k", "method": "PUT"}
    server.inject(json_answer(nowhere), "/uploads/presign", method="POST")
    with (
        closing(Storage(loopback=True, stall=2.0)) as client,
        closing(Console(server.url, lambda: KEY)) as console,
    ):
        here = DropHere(tmp_path, ledger_template(tmp_path / "template"), console=console, storage=client)
        (here.folder / "a.jsonl").write_bytes(dataset("a"))
        here.live()
        assert [row.state for row, _ in here.uploads()] == [UploadState.QUEUED]
        here.live()
    ((row, _),) = here.uploads()
    assert (row.state, row.upload_id != "u1") == (UploadState.UPLOADED, True)
    assert here.read(Reader.orphans) == {}


@pytest.mark.parametrize("shard", ["", "60B"], ids=["whole", "shards"])
@pytest.mark.parametrize("status", [400, 404, 410])
def test_refused_old_url_is_replaced_by_a_new_one(tmp_path: Path, server: FaultyServer, status: int, shard: str) -> None:
    """It may be refused only for its age; the refusal of a new URL is final."""
    with drop_here(tmp_path, server, shard=shard) as here:
        (here.folder / "a.jsonl").write_bytes(dataset("a"))
        server.inject(Fault(503), "/bucket/", method="PUT", times=FOREVER)
        here.live()
        kept = sum(request.method == "POST" for request in server.requests)
        old = {request.path for request in server.requests if request.method == "PUT"}
        assert len(old) == kept
        server.heal()
        for path in old:
            server.inject(Fault(status, {}, b""), path, method="PUT", times=FOREVER)
        server.requests.clear()
        here.live()
        assert [row.state for row, _ in here.uploads()] == [UploadState.UPLOADED]
        assert sum(request.method == "POST" for request in server.requests) == kept
        assert puts(server) == 2 * kept

        server.inject(Fault(status, {}, b""), "/bucket/", method="PUT", times=FOREVER)
        server.requests.clear()
        (here.folder / "b.jsonl").write_bytes(dataset("b"))
        here.live()
        assert here.uploads()[1][0].state is UploadState.FAILED
        assert puts(server) == kept, "asked once"


def test_url_that_ends_during_its_body_is_reported(tmp_path: Path, server: FaultyServer) -> None:
    """Some stores judge the URL after the last byte."""
    (tmp_path / "template").mkdir()
    with (
        closing(Storage(loopback=True, stall=5.0)) as client,
        closing(Console(server.url, lambda: KEY)) as console,
    ):
        here = DropHere(tmp_path, ledger_template(tmp_path / "template"), console=console, storage=client)
        (here.folder / "a.jsonl").write_bytes(dataset("a"))
        late = s3_error(403, "AccessDenied", "Request has expired")
        slow = Fault(late.status, late.headers, late.body, first=lambda: here.clocks.advance(1000))
        server.inject(slow, "/bucket/", method="PUT", times=FOREVER)
        here.live()
    ((row, _),) = here.uploads()
    assert row.state is UploadState.QUEUED
    assert "[drop] shard" in (row.reason or "")
    assert "clock" not in (row.reason or "")
    assert len([request for request in server.requests if request.method == "PUT"]) == 1


def test_file_that_reads_differently_each_time_is_a_failed_try(tmp_path: Path, server: FaultyServer) -> None:
    """Through a mapping its content changes with each try, and its stamp does not."""
    with AgentProcess(tmp_path / "box", server.url, KEY, {"mirror": {"enabled": False}}) as agent:
        path = agent.drop / "a.jsonl"
        path.write_bytes(dataset("a"))
        os.chown(path, 65534, 65534)  # so that the agent, without that capability, can't see writers
        letters = itertools.cycle(b"xyz")
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
            mapping[10] = next(letters)  # from now on the page is dirty, and a write to it leaves no trace

            def change() -> None:
                mapping[10] = next(letters)

            server.inject(Fault(first=change), "/uploads/presign", method="POST", times=FOREVER)
            agent.launch("sync", prefix=("setpriv", "--bounding-set=-lease"))
            assert agent.wait() == 75
            (row,) = agent.uploads()
    assert (row["state"], path.exists()) == ("settling", True)
    assert "changed after it was checked" in row["reason"]
    assert len([request for request in server.requests if request.method == "POST"]) == 1
    *told, last = [line for line in agent.log().splitlines() if "changed after it was checked" in line]
    assert len(told) == 1
    assert "ends with 75: a.jsonl: settling: " in last
