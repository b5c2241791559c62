"""How many files go up at once: real carriers, files and ledger; a far side whose answers take time that is an argument."""

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from axomsync.core.errors import KeyRefused, Transient
from axomsync.core.records import Presigned, UploadState
from axomsync.core.turns import TURNS
from axomsync.drop import backlog
from axomsync.drop.carriers import SMALL_AT_ONCE, UPLOADS_AT_ONCE, Carriers
from axomsync.drop.pipeline import Uploader
from axomsync.drop.watch import stamp_of
from axomsync.ledger import Ledger
from axomsync.runtime.gates import Gate, Gates
from axomsync.storage.s3 import Confirmation
from tests.drop.inprocess import Clocks, DropHere, FarSide, Stop, ledger_template
from tests.rig.agent import PATIENCE, eventually
from tests.rig.contexts import worker_context
from tests.rig.turns import own_turns

MANY = 900
A_MOMENT = 0.02


class Away(FarSide):
    """Answers all PUTs at once, when every carrier waits for one; `seconds`: how long a round of so many takes."""

    def __init__(self, seconds: Callable[[int], float], retry_after: float | None = None) -> None:
        super().__init__(Clocks())
        self._retry_after = retry_after
        self.clocks, self._seconds, self.turns = self._clocks, seconds, TURNS
        self.rounds: list[int] = []  # PUTs in each
        self.left_out = 0  # files that wait for a later try
        self.refuses = range(0)  # numbers of files whose first presign is answered with 429
        self._named: set[str] = set()  # files that had an answer to a presign
        self._came, self._inside = threading.Condition(), 0

    def presign(self, filename: str, content_type: str) -> Presigned:
        with self._came:
            is_new = filename not in self._named
            self._named.add(filename)
            if is_new and len(self._named) in self.refuses:
                self.left_out += self._retry_after == 60.0
                raise Transient("the console answered 429", self._retry_after)
        return super().presign(filename, content_type)

    def put(self, url: str, pieces: Iterator[bytes], length: int, content_type: str) -> Confirmation:
        with self.turns.lent(), self._came:  # as the real one does
            self._inside, mine = self._inside + 1, len(self.rounds)
            self._came.notify_all()
            self._came.wait_for(lambda: len(self.rounds) > mine)
        return super().put(url, pieces, length, content_type)

    def serve(self, files: int) -> None:
        """Answer until each of the files has had an answer."""
        with self._came:
            while (left := files - self.left_out - sum(self.rounds)) > 0:
                if self._inside < min(left, len(_at_work())):
                    self._came.wait(0.01)
                    continue
                self.clocks.advance(self._seconds(self._inside))
                self.rounds.append(self._inside)
                self._inside = 0
                self._came.notify_all()


def _at_work() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("upload-")]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ledger_template(tmp_path_factory.mktemp("template"))


@contextmanager
def carried(
    home: Path,
    template: Path,
    far: Away,
    files: int,
    connections: int | None = None,
    suffix: str = "",
    gate: tuple[str, ...] = (),
    cpu: Callable[[], float] = lambda: 0.0,
) -> Iterator[Ledger]:
    """A ledger after all of so many small files were carried once; its carriers live until the block ends."""
    here = DropHere(home, template)
    with here.ledger() as ledger:
        paths = [here.folder / f"{number}.jsonl{suffix}" for number in range(files)]
        for path in paths:
            line = f'{{"text": "{path.name}"}}\n'.encode()
            path.write_bytes(gzip.compress(line) if suffix else line)
        ledger.see_uploads([(path.name.encode(), path.name, stamp_of(path.stat())) for path in paths])
        gates = Gates(before_upload=Gate("before_upload", gate))
        clocks: dict[str, Any] = {"clock": lambda: far.clocks.monotonic, "now": lambda: far.clocks.wall}
        context = worker_context(ledger, far, far, gates=gates, stop=Stop(far.clocks), **clocks)
        carriers = Carriers(Uploader(here.settings, context), context, lambda: None, connections, cpu)
        try:
            assert carriers.begin(ledger.read.uploads(), None)
            far.serve(files)
            assert carriers.wait_until_idle(60)
            yield ledger
        finally:
            carriers.end()
    assert not _at_work()


def test_to_a_far_side_many_small_files_go_up_at_once(tmp_path: Path, template: Path) -> None:
    far = Away(lambda at_once: 0.2)
    with carried(tmp_path, template, far, MANY) as ledger:
        assert {row.state for row in ledger.read.uploads()} == {UploadState.UPLOADED}
    assert (far.rounds[0], max(far.rounds)) == (UPLOADS_AT_ONCE, SMALL_AT_ONCE)
    assert len(far.objects) == far.puts == MANY
    assert far.clocks.monotonic - Clocks().monotonic < 0.5 * 0.2 * MANY / UPLOADS_AT_ONCE


@pytest.mark.parametrize(("small_bytes", "in_turn"), [(backlog.SMALL_BYTES, True), (10, False)])
def test_small_files_are_worked_on_in_turn(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch, small_bytes: int, in_turn: bool
) -> None:
    """While the first carrier is asked for a URL, another one comes, or does not."""

    class Asked(Away):
        met, first = False, True
        second = threading.Event()

        def presign(self, filename: str, content_type: str) -> Presigned:
            with self._came:
                is_first, self.first = self.first, False
            if is_first:
                self.met = self.second.wait(A_MOMENT if in_turn else PATIENCE)
            else:
                self.second.set()
            return super().presign(filename, content_type)

    monkeypatch.setattr(backlog, "SMALL_BYTES", small_bytes)
    far = Asked(lambda at_once: 0.2)
    far.turns = own_turns(monkeypatch)
    with carried(tmp_path, template, far, 2 * UPLOADS_AT_ONCE):
        assert far.met is not in_turn


def test_where_more_at_once_are_no_faster_eight_go_up(tmp_path: Path, template: Path) -> None:
    far = Away(lambda at_once: 0.0125 * at_once)
    with carried(tmp_path, template, far, 480):
        assert max(far.rounds) == 2 * UPLOADS_AT_ONCE, "tried once"
        assert far.rounds[-11:-1] == [UPLOADS_AT_ONCE] * 10


def test_where_the_processor_is_the_limit_eight_go_up(tmp_path: Path, template: Path) -> None:
    far = Away(lambda at_once: 0.2)
    cpu = count(0, 0.15 / UPLOADS_AT_ONCE)  # each file takes so much, and eight of them three quarters of the time
    with carried(tmp_path, template, far, 200, cpu=lambda: next(cpu)):
        assert max(far.rounds) == UPLOADS_AT_ONCE


@pytest.mark.parametrize("retry_after", [None, 1.0, 60.0])
def test_far_side_that_refuses_a_few_gets_fewer_requests(tmp_path: Path, template: Path, retry_after: float | None) -> None:
    """Whether a quick try overcomes the refusal, or the file waits for a later one."""
    far = Away(lambda at_once: 0.2, retry_after)
    far.refuses = range(MANY // 2, MANY // 2 + 6)
    with carried(tmp_path, template, far, MANY) as ledger:
        waiting = [row for row in ledger.read.uploads() if row.state is not UploadState.UPLOADED]
        assert len(waiting) == far.left_out == (6 if retry_after == 60.0 else 0)
        assert all(row.reason == "the console answered 429" and row.next_attempt is not None for row in waiting)
    assert far.rounds[-3] < max(far.rounds)
    assert max(far.rounds) > 2 * UPLOADS_AT_ONCE


def test_when_the_far_side_gets_slow_eight_go_up_again(tmp_path: Path, template: Path) -> None:
    far = Away(lambda at_once: 0.2 if sum(far.rounds) < MANY else 0.25 * at_once)
    with carried(tmp_path, template, far, 2 * MANY):
        assert max(far.rounds) == SMALL_AT_ONCE
        assert max(far.rounds[-50:]) <= 2 * UPLOADS_AT_ONCE


def test_refusal_of_the_key_outlasts_files_that_had_their_url(tmp_path: Path, template: Path) -> None:
    """Else `sync` would end as if the key had been accepted."""

    class Refusing(Away):
        has_url = threading.Event()

        def presign(self, filename: str, content_type: str) -> Presigned:
            if filename == "9.jsonl":
                with self.turns.lent():
                    assert self.has_url.wait(PATIENCE)
                raise KeyRefused("the console refuses the API key")
            presigned = super().presign(filename, content_type)
            if filename == "8.jsonl":
                self.has_url.set()
            return presigned

    far = Refusing(lambda at_once: 0.2)
    far.left_out = 1
    with carried(tmp_path, template, far, 10) as ledger:
        assert [problem.subject for problem in ledger.read.problems()] == ["console"]


def test_larger_files_go_up_by_eight(tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "SMALL_BYTES", 10)
    far = Away(lambda at_once: 0.2)
    with carried(tmp_path, template, far, 100):
        assert max(far.rounds) == UPLOADS_AT_ONCE


@pytest.mark.parametrize("kind", [{"suffix": ".gz"}, {"gate": ("true",)}])
def test_files_that_cost_more_than_their_bytes_go_up_by_eight(tmp_path: Path, template: Path, kind: dict[str, Any]) -> None:
    """A compressed one takes room on the disk for what it holds, one with a gate is a program of somebody's."""
    far = Away(lambda at_once: 0.2)
    with carried(tmp_path, template, far, 100, **kind) as ledger:
        assert {row.state for row in ledger.read.uploads()} == {UploadState.UPLOADED}
    assert max(far.rounds) == UPLOADS_AT_ONCE


@pytest.mark.parametrize(("connections", "at_once"), [(1, UPLOADS_AT_ONCE), (20, 20), (200, SMALL_AT_ONCE)])
def test_no_more_go_up_at_once_than_connections_are_allowed(
    tmp_path: Path, template: Path, connections: int, at_once: int
) -> None:
    far = Away(lambda at_once: 0.2)
    with carried(tmp_path, template, far, MANY, connections):
        assert max(far.rounds) == at_once


def test_carriers_that_nobody_needs_end(tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("axomsync.drop.carriers.LONGEST_WAIT_SECONDS", 0.05)
    far = Away(lambda at_once: 0.2)
    with carried(tmp_path, template, far, MANY):
        eventually("eight carriers", lambda: len(_at_work()) == UPLOADS_AT_ONCE)


def test_without_a_thread_to_spare_eight_carry_all(tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name.startswith("upload-") and len(_at_work()) >= UPLOADS_AT_ONCE:
            raise RuntimeError("can't start new thread")
        begun(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    far = Away(lambda at_once: 0.2)
    with carried(tmp_path, template, far, 200) as ledger:
        assert {row.state for row in ledger.read.uploads()} == {UploadState.UPLOADED}
    assert max(far.rounds) == UPLOADS_AT_ONCE
