"""A PUT that begins during the check: only checked bytes are sent, and there is an object only of a file that is good."""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from axomsync.config import DropSettings
from axomsync.console.client import Console
from axomsync.core.errors import AxomsyncError, SourceChanged, Stopping
from axomsync.core.records import Stored, Upload, UploadState
from axomsync.drop import head_start, jsonl, ranges
from axomsync.drop.claims import Claims
from axomsync.drop.head_start import HeadStart
from axomsync.drop.jsonl import InvalidDataset
from axomsync.drop.line_workers import LineWorkers
from axomsync.drop.pipeline import Uploader
from axomsync.drop.ranges import Sizes
from axomsync.drop.sending import PUT_PIECE
from axomsync.drop.watch import stamp_of
from axomsync.ledger import Ledger, Reader
from axomsync.runtime.heartbeat import unwatched
from axomsync.runtime.meter import Gauge
from axomsync.runtime.worker import WorkerContext
from axomsync.sandbox.console import Sandbox
from axomsync.storage.client import Storage
from axomsync.storage.s3 import Confirmation
from tests.drop.conftest import AgentFactory, dataset, idle, opened, put_requests, puts, sha256, stored
from tests.drop.inprocess import Clocks, DropHere, FarSide, ledger_template
from tests.rig.agent import PATIENCE, eventually
from tests.rig.contexts import worker_context
from tests.rig.gatekeepers import Gatekeeper

DATA = b"".join(json.dumps({"id": number, "text": "x" * 900}).encode() + b"\n" for number in range(5_500))
PROOF = blake3(DATA).hexdigest()
BROKEN = dataset("all is well", 100) + b'{"text": "but the la\n'


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ledger_template(tmp_path_factory.mktemp("head starts"))


@pytest.fixture(autouse=True)
def every_file_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_start, "WORTH_A_HEAD_START", 0)
    monkeypatch.setattr(head_start, "CHECKED_FIRST", 0)


def head_start_of(upload: Upload, folder: Path, context: WorkerContext) -> HeadStart:
    gauge = Gauge("up", upload.filename, upload.size, 0, 0.0)
    return HeadStart(DropSettings(folder=folder), context, upload, gauge)


# On the wire


@contextmanager
def begun(home: Path, sandbox: Sandbox) -> Iterator[HeadStart]:
    """The head start of a file with DATA, into a real object store."""
    path = home / "big.jsonl"
    path.write_bytes(DATA)
    with (
        closing(Storage(loopback=True, stall=5.0)) as storage,
        closing(Console(sandbox.url, lambda: sandbox.key)) as console,
        Ledger(home / "state", lambda: 0.0) as ledger,
    ):
        ledger.see_uploads([(b"big.jsonl", "big.jsonl", stamp_of(path.stat()))])
        [upload] = ledger.read.uploads()
        start = head_start_of(upload, home, worker_context(ledger, console, storage))
        start.begin()
        try:
            yield start
        finally:
            start.end()


def received(sandbox: Sandbox) -> int:
    """Bytes of the body that went towards storage."""
    requests = put_requests(sandbox)
    return requests[-1].body_received if requests else 0


def test_only_checked_bytes_are_sent_and_the_last_ones_after_the_verdict(tmp_path: Path, sandbox: Sandbox) -> None:
    with begun(tmp_path, sandbox) as start:
        start.passed(2 * PUT_PIECE + 100)
        eventually("two pieces", lambda: received(sandbox) == 2 * PUT_PIECE)
        time.sleep(0.2)  # nothing more may come, however long one waits
        assert received(sandbox) == 2 * PUT_PIECE
        start.passed(len(DATA))
        eventually("all but the last piece", lambda: received(sandbox) == len(DATA) // PUT_PIECE * PUT_PIECE)
        time.sleep(0.2)
        assert (received(sandbox) < len(DATA), stored(sandbox), start.complete) == (True, {}, False)
        assert start.offer() is not None
        sent = start.finish(PROOF, unwatched)
    assert (sent.md5, start.complete) == (hashlib.md5(DATA).hexdigest(), True)
    assert stored(sandbox) == {"big.jsonl": [DATA]}


def test_storage_keeps_nothing_of_what_was_given_up(tmp_path: Path, sandbox: Sandbox) -> None:
    with begun(tmp_path, sandbox) as start:
        start.passed(len(DATA))
        eventually("all but the last piece", lambda: received(sandbox) == len(DATA) // PUT_PIECE * PUT_PIECE)
        start.give_up()
        with pytest.raises(AxomsyncError):
            start.finish(PROOF, unwatched)
    assert (start.complete, start.offer(), start.gauge.read(1.0).bytes_received) == (False, None, 0)
    assert stored(sandbox) == {}
    assert len(puts(sandbox)) == 1


def test_other_bytes_than_the_checked_ones_are_not_stored(tmp_path: Path, sandbox: Sandbox) -> None:
    with begun(tmp_path, sandbox) as start:
        start.passed(len(DATA))
        with pytest.raises(SourceChanged, match="content changed after it was checked"):
            start.finish(blake3(b"other").hexdigest(), unwatched)
    assert stored(sandbox) == {}


def test_large_file_of_a_real_agent_arrives_once(sandbox: Sandbox, make_agent: AgentFactory) -> None:
    data = DATA * 27  # more than a file needs that is worth a head start
    agent = make_agent(sandbox)
    (agent.drop / "large.jsonl").write_bytes(data)
    agent.sync()
    [row] = agent.uploads()
    assert (row["state"], row["sha256"]) == ("uploaded", sha256(data))
    assert puts(sandbox) == [row["key"]]
    assert stored(sandbox) == {"large.jsonl": [data]}


# In one process


class Watched(FarSide):
    """A far side that calls `meanwhile` in the middle of the first PUT of more than one piece."""

    def __init__(self, clocks: Clocks, meanwhile: Callable[[], object]) -> None:
        super().__init__(clocks)
        self.meanwhile: list[Callable[[], object]] = [meanwhile]

    def put(self, url: str, pieces: Iterator[bytes], length: int, content_type: str) -> Confirmation:
        return super().put(url, self._watched(pieces, length), length, content_type)

    def _watched(self, pieces: Iterator[bytes], length: int) -> Iterator[bytes]:
        for number, piece in enumerate(pieces):
            if number == 0 and length > PUT_PIECE and self.meanwhile:
                self.meanwhile.pop()()
            yield piece


def assert_once(here: DropHere, far: FarSide, data: bytes) -> None:
    [(row, _)] = here.uploads()
    assert (row.state, row.sha256, row.reason) == (UploadState.UPLOADED, sha256(data), None)
    orphans = {key for keys in here.read(Reader.orphans).values() for key in keys}
    assert {key: body for key, body in far.objects.items() if key not in orphans} == {row.key: data}


@pytest.mark.parametrize(
    "fault", ["", "refused", "expired", "cut", "lost before storing", "lost", "lost, then expired", "bug"]
)
def test_whatever_storage_does_the_file_arrives_once(tmp_path: Path, template: Path, fault: str) -> None:
    here = DropHere(tmp_path / "here", template)
    (here.folder / "a.jsonl").write_bytes(DATA)
    here.far.faults.extend([fault, fault])
    here.live()
    here.clocks.advance(3600)
    here.finish()
    assert_once(here, here.far, DATA)
    assert len(here.far.objects) - 1 == fault.count("then expired"), "an orphan"


def test_console_that_refuses_is_told_as_ever(tmp_path: Path, template: Path) -> None:
    here = DropHere(tmp_path / "here", template)
    (here.folder / "a.jsonl").write_bytes(DATA)
    here.far.console_refuses = "the console is being mended"
    here.live()
    [(row, _)] = here.uploads()
    assert (row.state, row.reason) == (UploadState.QUEUED, "the console is being mended")
    here.far.console_refuses = None
    here.clocks.advance(3600)
    here.finish()
    assert_once(here, here.far, DATA)


@pytest.mark.parametrize("writes", range(9))
def test_kill_between_any_two_writes_leaves_one_object(tmp_path: Path, template: Path, writes: int) -> None:
    here = DropHere(tmp_path / "here", template)
    (here.folder / "a.jsonl").write_bytes(DATA)
    here.live(writes)
    here.finish()
    assert_once(here, here.far, DATA)


def test_file_that_is_broken_at_its_end_leaves_no_object(tmp_path: Path, template: Path) -> None:
    here = DropHere(tmp_path / "here", template)
    (here.folder / "a.jsonl").write_bytes(DATA + BROKEN)
    here.finish()
    [(row, _)] = here.uploads()
    assert row.state is UploadState.REJECTED
    assert (row.upload_id, row.key, here.read(lambda reader: reader.presigned(row))) == (None, None, None)
    assert (here.far.objects, here.read(Reader.orphans)) == ({}, {})
    assert (here.folder / "rejected" / "a.jsonl").exists()


def test_file_that_changes_while_it_is_sent_starts_over(tmp_path: Path, template: Path) -> None:
    here = DropHere(tmp_path / "here", template)
    path, other = here.folder / "a.jsonl", DATA.replace(b"x", b"y")
    path.write_bytes(DATA)
    far = here.far = here._console = here._storage = Watched(here.clocks, lambda: path.write_bytes(other))
    here.finish()
    assert_once(here, far, other)
    assert len(far.objects) == 1


def test_file_that_is_empty_when_it_begins_leaves_no_object(tmp_path: Path, template: Path) -> None:
    here = DropHere(tmp_path / "here", template)
    path = here.folder / "a.jsonl"
    path.write_bytes(DATA)
    with here.ledger() as ledger:
        ledger.see_uploads([(b"a.jsonl", "a.jsonl", stamp_of(path.stat()))])
        [upload] = ledger.read.uploads()
        path.write_bytes(b"")
        start = head_start_of(upload, here.folder, worker_context(ledger, here.far, here.far))
        start.begin()
        with pytest.raises(SourceChanged):
            start.finish(PROOF, unwatched)
    assert here.far.objects == {}


def test_new_rights_while_it_is_sent_are_no_change(tmp_path: Path, template: Path) -> None:
    here = DropHere(tmp_path / "here", template)
    path = here.folder / "a.jsonl"
    path.write_bytes(DATA)
    far = here.far = here._console = here._storage = Watched(here.clocks, lambda: path.chmod(0o640))
    here.finish()
    assert_once(here, far, DATA)
    assert far.puts == 1


def test_content_that_another_agent_has_sent_is_a_duplicate(tmp_path: Path, template: Path) -> None:
    here = DropHere(tmp_path / "here", template)
    (here.folder / "a.jsonl").write_bytes(DATA)
    other, content = Claims(here.folder, "other", keeps=True), f"{sha256(DATA)}/a.jsonl"  # not registered: nobody sees it
    assert other.take(content) is None
    other.settle(content, Stored("theirs", "their key", None))
    other.release(content)
    here.finish()
    [(row, _)] = here.uploads()
    assert (row.state, row.key, here.far.objects) == (UploadState.DUPLICATE, "their key", {})


def test_twins_are_sent_once(tmp_path: Path, template: Path) -> None:
    here = DropHere(tmp_path / "here", template, dedupe="content")
    for name in ("a.jsonl", "b.jsonl"):
        (here.folder / name).write_bytes(DATA)
    here.finish()
    assert sorted(row.state for row, _ in here.uploads()) == [UploadState.DUPLICATE, UploadState.UPLOADED]
    assert (len(here.far.objects), here.far.puts) == (1, 1)


def with_a_gate(here: DropHere) -> None:
    here.gates = Gatekeeper(here.outside).gates("sys.exit(1)")


def with_another_agent(here: DropHere) -> None:
    Claims(here.folder, "other", keeps=False).register()


def with_one_of_its_size(here: DropHere) -> None:
    (here.folder / "known.jsonl").write_bytes(dataset("known", 1) + b"\n" * (len(BROKEN) - len(dataset("known", 1))))
    here.finish()
    here.far.names.clear()


@pytest.mark.parametrize(
    ("settings", "prepare"),
    [
        ({}, with_a_gate),
        ({}, with_another_agent),
        ({}, with_one_of_its_size),
        ({"shard": "1KiB"}, lambda here: None),
        ({"max_put": "1KiB"}, lambda here: None),
    ],
    ids=["a gate", "another agent", "one of its size", "shards", "too large"],
)
def test_no_upload_begins_early_where(
    tmp_path: Path, template: Path, settings: dict[str, Any], prepare: Callable[[DropHere], None]
) -> None:
    here = DropHere(tmp_path / "here", template, **settings)
    prepare(here)
    (here.folder / "a.jsonl").write_bytes(BROKEN)
    here.finish()
    assert any(row.state is UploadState.REJECTED for row, _ in here.uploads())
    assert here.far.names == {}


# Its thread


class Slow(FarSide):
    """A far side whose first piece of a PUT waits until `go` is set."""

    def __init__(self, clocks: Clocks) -> None:
        super().__init__(clocks)
        self.taken, self.go = threading.Event(), threading.Event()

    def put(self, url: str, pieces: Iterator[bytes], length: int, content_type: str) -> Confirmation:
        return super().put(url, self._slowly(pieces), length, content_type)

    def _slowly(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self.taken.set()
            self.go.wait(PATIENCE)
            yield piece


@contextmanager
def one_file(home: Path, template: Path, far: FarSide, data: bytes) -> Iterator[tuple[Uploader, int, WorkerContext]]:
    """An uploader, and the row of one file that it has not carried yet."""
    here = DropHere(home, template)
    path = here.folder / "a.jsonl"
    path.write_bytes(data)
    with here.ledger() as ledger:
        ledger.see_uploads([(b"a.jsonl", "a.jsonl", stamp_of(path.stat()))])
        context = worker_context(ledger, far, far)
        uploader = Uploader(here.settings, context)
        yield uploader, ledger.read.uploads()[0].id, context
        uploader.close()


def test_carrier_ends_after_the_head_start_that_it_began(tmp_path: Path, template: Path) -> None:
    """Else the agent closes connections under it, whose descriptors are files of others a moment later."""
    far = Slow(Clocks())
    with one_file(tmp_path / "here", template, far, DATA + BROKEN) as (uploader, row, context):
        carrier = threading.Thread(target=uploader.carry, args=(row, unwatched))
        carrier.start()
        assert far.taken.wait(PATIENCE)
        eventually("the fault", lambda: context.ledger.read.upload(row).state is UploadState.REJECTED)
        assert carrier.is_alive()
        far.go.set()
        carrier.join(PATIENCE)
        assert not any(thread.name == "head start" for thread in threading.enumerate())
    assert far.objects == {}


def test_stop_while_storage_answers_loses_no_confirmation(tmp_path: Path, template: Path) -> None:
    class Answering(FarSide):
        def put(self, url: str, pieces: Iterator[bytes], length: int, content_type: str) -> Confirmation:
            confirmation = super().put(url, pieces, length, content_type)
            context.stop.set()
            time.sleep(2 * head_start.LOOK_SECONDS)  # longer than anybody who waits for it sleeps
            return confirmation

    far = Answering(Clocks())
    with one_file(tmp_path / "here", template, far, DATA) as (uploader, row, context):
        with suppress(Stopping):
            uploader.carry(row, unwatched)
        assert context.ledger.read.upload(row).state is UploadState.UPLOADED
    assert far.puts == 1


def test_carrier_that_hangs_is_not_hidden_by_it(tmp_path: Path, template: Path) -> None:
    """It beats only when its carrier waits for it, and so has the signed URL in the ledger."""
    waited: list[bool] = []
    far = FarSide(Clocks())
    with one_file(tmp_path / "here", template, far, DATA) as (uploader, row, context):

        def beat() -> None:
            if threading.current_thread().name == "head start":
                read = context.ledger.read
                waited.append(read.presigned(read.upload(row)) is not None)

        uploader.carry(row, beat)
    assert (far.puts, set(waited)) == (1, {True})


def test_file_that_grew_before_the_check_is_shown_with_its_size(tmp_path: Path, template: Path) -> None:
    totals: set[int] = set()
    far = Watched(Clocks(), lambda: totals.update(transfer.bytes_total for transfer in context.meter.read()))
    with one_file(tmp_path / "here", template, far, DATA[: DATA.index(b"\n") + 1]) as (uploader, row, context):
        (tmp_path / "here" / "drop" / "a.jsonl").write_bytes(DATA)
        uploader.carry(row, unwatched)
    assert (totals, len(far.objects)) == ({len(DATA)}, 1)


def test_without_a_thread_to_spare_the_file_goes_up_as_ever(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        if thread.name == "head start":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refused)
    here = DropHere(tmp_path / "here", template)
    (here.folder / "a.jsonl").write_bytes(DATA)
    here.finish()
    assert_once(here, here.far, DATA)


def test_broken_head_start_is_told(tmp_path: Path, template: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    far = FarSide(Clocks())
    far.faults.append("cut")
    with one_file(tmp_path / "here", template, far, DATA) as (_, row, context):
        upload = context.ledger.read.upload(row)
        start = head_start_of(upload, tmp_path / "here" / "drop", context)
        start.begin()
        start.passed(len(DATA))
        told = "a.jsonl: the upload that began during the check was broken off (the connection broke); it begins again"
        eventually("its end", lambda: told in caplog.text)
        start.end()


# What the check tells of its way


@pytest.fixture(scope="module")
def workers() -> Iterator[LineWorkers]:
    workers = LineWorkers(2)
    yield workers
    workers.close()


SIZES = Sizes(slot=4096, read_size=1024, line_limit=10_000, large_line=2_000)


@pytest.mark.parametrize("in_processes", [False, True], ids=["one reading", "in processes"])
@pytest.mark.parametrize("broken_at", [None, 0, 700, 1399])
def test_check_tells_how_far_all_is_well(workers: LineWorkers, broken_at: int | None, in_processes: bool) -> None:
    lines = [b'{"text": "line %d"}\n' % number for number in range(1400)]
    if broken_at is not None:
        lines[broken_at] = b'{"text": "lin\n'
    data, told = b"".join(lines), list[int]()
    with opened(data) as file:
        try:
            if in_processes:
                ranges.check_in_parts(file, len(data), idle, workers, good=told.append, sizes=SIZES)
            else:
                jsonl.check(file, len(data), "full", idle, good=told.append, read_size=1024)
        except InvalidDataset:
            assert broken_at is not None
    assert told == sorted(told)
    if broken_at is None:
        assert told[-1] == len(data)
        assert len(set(told)) > 3, "on its way"
    else:
        assert max(told, default=0) <= sum(map(len, lines[: broken_at + 1]))
