"""Turns of threads: real threads, a clock set by the test; and who waits for the outside lends his."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from axomsync.console.client import Console
from axomsync.core import turns
from axomsync.core.folders import Folder
from axomsync.core.turns import LOOK_SECONDS, WITHOUT_SECONDS, Turns
from axomsync.ledger.committer import Committer
from axomsync.storage.client import SHORT_BODY, Storage
from tests.rig.agent import PATIENCE
from tests.rig.turns import own_turns

A_MOMENT = 0.02


class Clocks:
    """Monotonic and CPU time; only `work` moves them."""

    def __init__(self) -> None:
        self.monotonic = self.used = 0.0
        self.turns = Turns(lambda: self.monotonic, lambda: self.used)

    def work(self, seconds: float, used: float) -> None:
        self.monotonic += seconds
        self.used += used


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody goes on without the turn for the reason that somebody else has it for long."""
    monkeypatch.setattr(turns, "PATIENCE_SECONDS", 2 * PATIENCE)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def once_in(turns: Turns, then: threading.Event | None = None) -> bool:
    """Take the turn once; True if `then` came meanwhile."""
    with turns.taken():
        return then is not None and then.wait(PATIENCE)


def must_wait(turns: Turns, pool: ThreadPoolExecutor) -> Callable[[], None]:
    """Begin to take the turn in another thread, which can't have it now; returns what waits for the end of that."""
    came = threading.Event()

    def take() -> None:
        with turns.taken():
            came.set()

    taking = pool.submit(take)
    assert not came.wait(A_MOMENT)
    return lambda: taking.result(PATIENCE)


@pytest.mark.usefixtures("patient")
def test_one_block_at_a_time_runs(pool: ThreadPoolExecutor) -> None:
    turns = Turns()
    with turns.taken():
        others = [must_wait(turns, pool) for _ in range(3)]
    for wait in others:
        wait()


@pytest.mark.usefixtures("patient")
def test_a_turn_that_is_lent_comes_back(pool: ThreadPoolExecutor) -> None:
    turns, lent, back = Turns(), threading.Event(), threading.Event()

    def lend() -> None:
        with turns.taken():
            with turns.lent():
                lent.set()
                assert back.wait(PATIENCE)
            must_wait(turns, pool)

    lending = pool.submit(lend)
    assert lent.wait(PATIENCE)
    with turns.taken():
        back.set()
        assert not lending.done()
    lending.result(PATIENCE)


@pytest.mark.usefixtures("patient")
def test_a_block_that_fails_gives_its_turn_back(pool: ThreadPoolExecutor) -> None:
    turns = Turns()
    with pytest.raises(ValueError, match="why not"), turns.taken(), turns.lent():
        raise ValueError("why not")
    pool.submit(once_in, turns).result(PATIENCE)


@pytest.mark.usefixtures("patient")
def test_a_block_within_another_is_a_part_of_it(pool: ThreadPoolExecutor) -> None:
    turns = Turns()
    with turns.taken():
        with turns.taken():
            pass
        wait = must_wait(turns, pool)
        with turns.lent(), turns.lent():
            wait()
        with turns.lent():
            with turns.taken():
                pass
            pool.submit(once_in, turns).result(PATIENCE)
        wait = must_wait(turns, pool)
    wait()


@pytest.mark.usefixtures("patient")
def test_who_has_no_turn_lends_none(pool: ThreadPoolExecutor) -> None:
    turns, end = Turns(), threading.Event()
    holding = pool.submit(once_in, turns, end)
    with turns.lent():
        pass
    end.set()
    assert holding.result(PATIENCE)


def test_others_go_on_without_turns_where_somebody_waits_in_his(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "PATIENCE_SECONDS", A_MOMENT)
    clocks = Clocks()
    with clocks.turns.taken():
        pool.submit(once_in, clocks.turns).result(PATIENCE)
        monkeypatch.setattr(turns, "PATIENCE_SECONDS", 2 * PATIENCE)
        pool.submit(once_in, clocks.turns).result(PATIENCE)
        clocks.work(WITHOUT_SECONDS, 0.0)
        wait = must_wait(clocks.turns, pool)
    wait()


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("used", [0.5, 0.7])
def test_where_turns_are_waits_there_are_none_for_a_while(pool: ThreadPoolExecutor, used: float) -> None:
    """A folder on a slow network: its system calls would come one after the other, too."""
    clocks = Clocks()
    for _ in range(5):
        with clocks.turns.taken():
            clocks.work(LOOK_SECONDS / 4, used * LOOK_SECONDS / 4)
    with clocks.turns.taken():
        if used < turns.USED:
            pool.submit(once_in, clocks.turns).result(PATIENCE)
            clocks.work(WITHOUT_SECONDS, 0.0)
    with clocks.turns.taken():
        wait = must_wait(clocks.turns, pool)
    wait()


# Who lends


@pytest.fixture
def going_round(monkeypatch: pytest.MonkeyPatch, patient: None) -> Turns:
    """The turn of everything in this test."""
    return own_turns(monkeypatch)


@pytest.fixture
def server(going_round: Turns) -> Iterator[str]:
    """A console and a storage that answer once a thread of theirs has had the turn."""

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self._answer(b'{"upload_id": "u", "key": "k", "url": "http://127.0.0.1/k", "method": "PUT"}')

        def do_PUT(self) -> None:
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            once_in(going_round)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"d41d8cd98f00b204e9800998ecf8427e-1"')
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # its name in the base class
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, args=(A_MOMENT,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Committer]:
    """The writing side of a ledger."""
    with closing(Committer(tmp_path / "state.db", 1.0)) as ledger:
        yield ledger


def test_who_asks_the_console_lends_his_turn(server: str, going_round: Turns) -> None:
    with closing(Console(server, lambda: "key")) as console, going_round.taken():
        assert console.presign("train.jsonl", "application/jsonl").upload_id == "u"


@pytest.mark.parametrize("length", [1, SHORT_BODY + 1])
def test_who_sends_to_storage_lends_his_turn(server: str, going_round: Turns, length: int) -> None:
    with closing(Storage(loopback=True, stall=PATIENCE)) as storage, going_round.taken():
        storage.put(f"{server}/k", iter([bytes(length)]), length, "application/jsonl")


def test_who_waits_for_the_ledger_lends_his_turn(ledger: Committer, going_round: Turns) -> None:
    with going_round.taken():
        assert ledger.write(lambda db: db.conn.execute("SELECT 1").fetchone()) == (1,)


def test_the_ledger_works_in_its_turn(ledger: Committer, going_round: Turns, pool: ThreadPoolExecutor) -> None:
    ledger.write(lambda db: must_wait(going_round, pool))()


def test_who_waits_for_a_sync_lends_his_turn(
    tmp_path: Path, going_round: Turns, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sync itself is the real one; it begins when another thread has had the turn."""
    fsync, syncs = os.fsync, 0

    def late(descriptor: int) -> None:
        nonlocal syncs
        pool.submit(once_in, going_round).result(PATIENCE)
        fsync(descriptor)
        syncs += 1

    monkeypatch.setattr(os, "fsync", late)
    with Folder.open(tmp_path) as folder, going_round.taken():
        folder.write_new(b"receipt", b"{}")
    assert syncs == 2, "its bytes, and its name"
