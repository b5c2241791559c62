"""The ledger: data that survives crashes, writes that it refuses, and its messages about the disk."""

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlite_utils import Database

from axomsync import __version__
from axomsync.core.errors import AlreadyRunning, Forgotten, LocalFault, NewerLedger
from axomsync.core.filesystems import filesystem_type
from axomsync.core.records import (
    Checked,
    DurableSegment,
    ModelState,
    Presigned,
    RemoteModel,
    Stamp,
    Transfer,
    Upload,
    UploadState,
)
from axomsync.core.states import MODEL_TRANSITIONS, UPLOAD_TRANSITIONS, IllegalTransition
from axomsync.ledger import Ledger, Reader, Trouble, holder, stored, trouble_of
from axomsync.ledger.database import WAL_LIMIT_BYTES
from axomsync.ledger.schema import migrations
from axomsync.ledger.writer import LARGE_WAL_BYTES
from axomsync.runtime.problems import CALM_SECONDS, LedgerWatch, Problems
from tests.rig.agent import eventually
from tests.rig.disks import fill, remount, small_disk
from tests.rig.old_ledger import OLD_DUMP, old_ledger

NOW = 1_900_000_000.0
STAMP = Stamp(2049, 17, 100, 5, 6)
CHECKED = Checked("a" * 64, 100, 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def ledger(folder: Path) -> Iterator[Ledger]:
    with Ledger(folder, lambda: NOW) as ledger:
        yield ledger


def look(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    """Query the file as any SQLite tool does."""
    database = sqlite3.connect(folder / "state.db")
    try:
        return database.execute(sql).fetchall()
    finally:
        database.close()


def an_upload(ledger: Ledger, name: str = "a.jsonl") -> int:
    ledger.see_uploads([(name.encode(), name, STAMP)])
    return next(row.id for row in ledger.read.uploads() if row.filename == name)


def a_model(ledger: Ledger, model_id: str = "m-1") -> str:
    remote = RemoteModel(model_id, "llama", "v1", 7, "base", "ready", "2027-01-01T00:00:00Z")
    ledger.record_catalog([(remote, ModelState.QUEUED, None)])
    return model_id


# Schema


def schema(folder: Path) -> set[tuple[Any, ...]]:
    rows = look(folder, "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE '%sqlite_%'")
    return {(kind, name, table, " ".join((sql or "").split())) for kind, name, table, sql in rows}


def test_ledger_of_the_first_schema_is_migrated_with_all_its_rows(folder: Path, tmp_path: Path) -> None:
    old_ledger(folder)
    with Ledger(folder, lambda: NOW) as ledger:
        first, second, rejected, going = ledger.read.uploads()
        assert (first.state, first.upload_id, first.stamp.ino) == (UploadState.UPLOADED, "up-1", (1 << 64) - 5)
        assert (second.path, second.duplicate_of) == (b"sub/caf\xe9.jsonl", 1)
        assert (rejected.state, rejected.reason) == (UploadState.REJECTED, "line 1: no JSON")
        assert ledger.read.presigned(going) is not None
        model = ledger.read.model("m-1")
        assert (model.state, model.bytes_done, model.bytes_total) == (ModelState.DOWNLOADING, 610, 1010)
        files = {file.rel: file for file in ledger.read.files("m-1")}
        assert files["model.safetensors"].segments == (DurableSegment(0, 600, "1" * 64),)
        assert ledger.read.facts()["identity"] == "0123456789ab"
        ledger.recover()
        assert ledger.read.upload(going.id).state is UploadState.QUEUED
        assert ledger.read.model("m-1").state is ModelState.QUEUED
        assert (ledger.read.transfers(), ledger.read.problems()) == ([], [])
    with Ledger(tmp_path / "fresh", lambda: NOW):
        pass
    # A column that was added to an old migration instead of a new one would be missing here.
    assert schema(folder) == schema(tmp_path / "fresh")


def test_skipped_migration_is_applied_later(folder: Path, tmp_path: Path) -> None:
    """Two branches were merged: ledgers exist that had m004 before m003."""
    old_ledger(folder)
    database = Database(sqlite3.connect(folder / "state.db"))
    for pending in migrations.pending(database):
        if pending.name in ("m002_shards", "m004_retention_and_hooks"):
            pending.fn(database)
            database.table("_sqlite_migrations").insert(
                {"migration_set": "axomsync", "name": pending.name, "applied_at": "2027-01-01"}
            )
    database.close()
    for _ in range(2):
        with Ledger(folder, lambda: NOW) as ledger:
            assert len(ledger.read.uploads()) == 4
            ledger.record_orphan(1, Presigned("up-9", "key", "http://h/secret", None))
            assert ledger.read.orphans() == {1: ["key"]}
            assert ledger.read.model("m-1").damage is None
    with Ledger(tmp_path / "fresh", lambda: NOW):
        pass
    assert schema(folder) == schema(tmp_path / "fresh")


def test_every_table_is_strict_and_the_file_is_crash_safe(ledger: Ledger, folder: Path) -> None:
    tables = look(folder, "SELECT name, strict FROM pragma_table_list WHERE schema = 'main' AND name NOT LIKE '%sqlite_%'")
    assert len(tables) >= 8
    assert [name for name, strict in tables if not strict] == []
    assert look(folder, "PRAGMA journal_mode") == [("wal",)]
    assert ledger.write(lambda db: db.execute("PRAGMA synchronous").fetchone()) == (2,)  # FULL
    assert ledger.write(lambda db: db.execute("PRAGMA foreign_keys").fetchone()) == (1,)


def test_newer_schema_is_refused_and_the_file_stays_unchanged(folder: Path) -> None:
    newer = "INSERT INTO _sqlite_migrations VALUES(2,'axomsync','m999_from_the_future','2031-01-01');\nCOMMIT;"
    old_ledger(folder, OLD_DUMP.replace("COMMIT;", newer))
    before = (folder / "state.db").read_bytes()
    for open_it in (lambda: Ledger(folder, lambda: NOW), lambda: Reader(folder / "state.db")):
        with pytest.raises(
            NewerLedger, match=r"state.db: written by a newer axomsync.*m999_from_the_future.*install"
        ) as refusal:
            open_it()
        assert f"by 0.1.0, and this is {__version__}" in str(refusal.value)
    assert (folder / "state.db").read_bytes() == before
    assert holder(folder) is None, "the lock was kept"


def test_foreign_keys_are_enforced(ledger: Ledger) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        ledger.write(lambda db: db.execute("INSERT INTO files (model, rel, size) VALUES ('nobody', 'a', 1)"))
    with pytest.raises(sqlite3.IntegrityError):
        ledger.write(lambda db: db.execute("INSERT INTO facts VALUES ('a', x'00')"))  # STRICT
    ledger.set_facts(still="works")


def test_ledger_is_readable_for_owner_and_group_only(ledger: Ledger, folder: Path) -> None:
    ledger.set_facts(a="b")
    assert folder.stat().st_mode & 0o007 == 0
    for file in folder.iterdir():
        assert file.stat().st_mode & 0o007 == 0, file


def test_files_made_by_root_belong_to_the_folders_owner(folder: Path) -> None:
    """Root ran the program before the first start of a service with its own user."""
    folder.mkdir(mode=0o750)
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
    owner = folder.stat().st_uid
    with Ledger(folder, lambda: NOW) as ledger:
        ledger.set_facts(a="b")
        assert {file.name: file.stat().st_uid for file in folder.iterdir()} == dict.fromkeys(
            ("agent.lock", "state.db", "state.db-shm", "state.db-wal"), owner
        )


def test_existing_files_keep_their_owner(folder: Path) -> None:
    """It may be another user's file that the folder's owner moved there."""
    assert os.geteuid() == 0, "only root gives files away"
    folder.mkdir(mode=0o750)
    os.chown(folder, 65534, 65534)
    for name in ("agent.lock", "state.db"):
        (folder / name).touch(0o640)
    with Ledger(folder, lambda: NOW):
        assert {name: (folder / name).stat().st_uid for name in ("agent.lock", "state.db")} == {
            "agent.lock": 0, "state.db": 0,
        }  # fmt: skip


# Lists


def test_models_are_listed_by_their_time_whatever_its_form(ledger: Ledger, folder: Path) -> None:
    times = (
        "soon",
        None,
        "2026-05-01T11:59:00+02:00",
        "2026-05-01T10:00:00",
        "2026-05-01T10:00:00.5Z",
        "2026-05-01T09:30:00-01:00",
    )
    ids = [a_model(ledger, str(number)) for number in range(len(times))]
    change = "UPDATE models SET created_at = ?, path = id, state = 'published' WHERE id = ?"
    for model, made in zip(ids, times, strict=True):
        ledger.execute(change, made, model).result()
    newest_first = ids[::-1]
    newest_first[-2:] = sorted(ids[:2], reverse=True)
    assert [model.id for model in ledger.read.models()] == newest_first
    assert [model.id for model in ledger.read.latest_models(3)] == newest_first[:3]
    assert [model.id for model in ledger.read.published()] == newest_first
    assert [model.id for model in ledger.read.models_due([ModelState.PUBLISHED], NOW)][2:] == ids[2:]


# Transitions


def put_upload(ledger: Ledger, state: UploadState) -> int:
    row = an_upload(ledger, f"{state}-{os.urandom(4).hex()}.jsonl")
    ledger.write(lambda db: db.execute("UPDATE uploads SET state = ? WHERE id = ?", [str(state), row]) and None)
    return row


def put_model(ledger: Ledger, state: ModelState) -> str:
    model = a_model(ledger, os.urandom(4).hex())
    ledger.write(lambda db: db.execute("UPDATE models SET state = ? WHERE id = ?", [str(state), model]) and None)
    return model


def test_uploads_move_only_along_legal_transitions(ledger: Ledger) -> None:
    assert set(UPLOAD_TRANSITIONS) == set(UploadState)
    for old, new in itertools.product(UploadState, UploadState):
        row = put_upload(ledger, old)
        future = ledger.move_upload(row, new)
        if new is old or new in UPLOAD_TRANSITIONS[old]:
            future.result()
            assert ledger.read.upload(row).state is new
        else:
            with pytest.raises(IllegalTransition, match=f"can't go from {old} to {new}"):
                future.result()
            assert ledger.read.upload(row).state is old


def test_models_move_only_along_legal_transitions(ledger: Ledger) -> None:
    assert set(MODEL_TRANSITIONS) == set(ModelState)
    for old, new in itertools.product(ModelState, ModelState):
        model = put_model(ledger, old)
        if new is old or new in MODEL_TRANSITIONS[old]:
            ledger.move_model(model, new)
            assert ledger.read.model(model).state is new
        else:
            with pytest.raises(IllegalTransition, match=f"can't go from {old} to {new}"):
                ledger.move_model(model, new)
            assert ledger.read.model(model).state is old


OPERATIONS: dict[str, Callable[[Ledger, Upload], object]] = {
    "recover": lambda ledger, row: ledger.recover(),
    "retry": lambda ledger, row: ledger.retry([row.id], []),
    "forget_uploads": lambda ledger, row: ledger.forget_uploads([row.path]),
    "push_upload": lambda ledger, row: ledger.push_upload(row.path, row.filename, STAMP),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_uploads_are_moved_only_by_the_state_machine(operation: str, ledger: Ledger) -> None:
    for old in UploadState:
        row, before = put_upload(ledger, old), ledger.transitions.copy()
        ledger.move_upload(row, old, upload_id="up-1").result()  # so that no write may remove the row
        OPERATIONS[operation](ledger, ledger.read.upload(row))
        new = ledger.read.upload(row).state
        assert new is old or new in UPLOAD_TRANSITIONS[old]
        assert ledger.transitions - before == ({} if new is old else {("uploads", new): 1})


def test_recover_moves_models_only_by_the_state_machine(ledger: Ledger) -> None:
    for old in ModelState:
        model, before = put_model(ledger, old), ledger.transitions.copy()
        ledger.recover()
        new = ledger.read.model(model).state
        assert new is old or new in MODEL_TRANSITIONS[old]
        assert ledger.transitions - before == ({} if new is old else {("models", new): 1})


def test_final_states_allow_no_transition_back() -> None:
    assert UPLOAD_TRANSITIONS[UploadState.UPLOADED] == UPLOAD_TRANSITIONS[UploadState.DUPLICATE] == frozenset()
    assert ModelState.DOWNLOADING not in MODEL_TRANSITIONS[ModelState.PUBLISHED]


def test_missing_row_can_not_move(ledger: Ledger) -> None:
    with pytest.raises(Forgotten, match="upload 99: it was forgotten"):
        ledger.move_upload(99, UploadState.CHECKING).result()
    with pytest.raises(Forgotten, match="upload 99: it was forgotten"):
        ledger.touch_uploads([(99, STAMP)])
    with pytest.raises(Forgotten, match="model bot: it was forgotten"):
        ledger.move_model("bot", ModelState.QUEUED)
    for read in (lambda: ledger.read.upload(99), lambda: ledger.read.model("bot")):
        with pytest.raises(Forgotten):
            read()


def test_finished_upload_leaves_no_signed_url(ledger: Ledger) -> None:
    row = an_upload(ledger)
    ledger.move_upload(row, UploadState.CHECKING)
    ledger.record_check(row, STAMP, CHECKED)
    signed = Presigned("up-1", "tmp/up-1/a.jsonl", "https://s/?X-Amz-Signature=1", NOW + 60)
    ledger.record_presigned(row, signed)
    assert ledger.read.presigned(ledger.read.upload(row)) == signed
    ledger.record_uploaded(row, '"etag"', "b" * 32)
    ledger.record_moved_away(row).result()
    upload = ledger.read.upload(row)
    assert ledger.read.presigned(upload) is None
    assert ledger.read.same_content("a" * 64, "a.jsonl") == upload
    assert ledger.read.uploads_in_drop() == []


def test_failed_write_changes_nothing_and_does_not_affect_others(ledger: Ledger) -> None:
    row = an_upload(ledger)

    def half(db: Any) -> None:
        db.execute("UPDATE uploads SET reason = 'half'")
        raise ValueError("a bug")

    futures: list[Future[Any]] = [
        ledger.submit(lambda db: db.execute("INSERT INTO facts VALUES ('a', '1')") and None),
        ledger.submit(half),
    ]
    futures.append(ledger.submit(lambda db: db.execute("INSERT INTO facts VALUES ('b', '2')") and None))
    with pytest.raises(ValueError, match="a bug"):
        futures[1].result(10)
    for future in (futures[0], futures[2]):
        future.result(10)
    assert ledger.read.upload(row).reason is None
    assert {"a": "1", "b": "2"}.items() <= ledger.read.facts().items()


# Models


def test_durable_segments_only_grow(ledger: Ledger) -> None:
    model = a_model(ledger)
    ledger.plan_files(model, [("w", 1000)])
    for end, digest in ((400, "1" * 64), (700, "2" * 64), (500, "3" * 64)):
        ledger.record_durable([(model, "w", '"e"', DurableSegment(0, end, digest))])
    (file,) = ledger.read.files(model)
    assert file.segments == (DurableSegment(0, 700, "2" * 64),)
    assert ledger.read.model(model).bytes_done == 700


def test_bytes_received_twice_count_once(ledger: Ledger) -> None:
    model = a_model(ledger)
    ledger.plan_files(model, [("w", 1000)])
    for start, end in ((200, 300), (600, 1000), (500, 800)):
        ledger.record_durable([(model, "w", '"e"', DurableSegment(start, end, "1" * 64))])
    ledger.record_durable([(model, "w", '"e"', DurableSegment(0, 700, "2" * 64))])
    (file,) = ledger.read.files(model)
    assert [(segment.start, segment.end) for segment in file.segments] == [(0, 700), (500, 800), (600, 1000)]
    assert ledger.read.model(model).bytes_done == 1000


def test_plan_files_drops_only_the_segments_of_resized_files(ledger: Ledger) -> None:
    model = a_model(ledger)
    ledger.plan_files(model, [("w", 1000), ("c", 10), ("gone", 1)])
    ledger.record_durable((model, rel, '"e"', DurableSegment(0, 1, "1" * 64)) for rel in ("w", "c", "gone"))
    ledger.plan_files(model, [("w", 1001), ("c", 10)])
    assert {file.rel: (file.size, len(file.segments)) for file in ledger.read.files(model)} == {"w": (1001, 0), "c": (10, 1)}
    assert ledger.read.model(model).bytes_total == 1011


def test_transfers_problems_and_facts_show_the_latest_values(ledger: Ledger) -> None:
    transfer = Transfer("down", "llama/v1", 1, 2, 3, 4.5, None)
    ledger.show_transfers([transfer])
    assert ledger.read.transfers() == [transfer]
    ledger.show_transfers([])
    assert ledger.read.transfers() == []
    ledger.show_problem("console", "down", 5.0).result()
    ledger.show_problem("console", "still down", 6.0).result()
    (problem,) = ledger.read.problems()
    assert (problem.reason, problem.since, problem.next_attempt) == ("still down", NOW, 6.0)
    ledger.clear_problem("console").result()
    assert ledger.read.problems() == []


# Several processes at once


def test_threads_share_commits_and_each_gets_its_own_result(ledger: Ledger) -> None:
    def write(number: int) -> int:
        def work(db: Any) -> int:
            db.execute("INSERT INTO facts VALUES (?, ?)", [f"n{number}", str(number)])
            return number * 2

        return ledger.write(work)

    begun = threading.Barrier(32)

    def in_a_row(thread: int) -> None:
        begun.wait(10)
        for number in range(thread * 20, thread * 20 + 20):
            assert write(number) == number * 2

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(in_a_row, range(32)))
    assert sum(name.startswith("n") for name in ledger.read.facts()) == 640


def test_readers_in_other_processes_see_acknowledged_writes(ledger: Ledger, folder: Path) -> None:
    program = (
        "import sys, pathlib; from axomsync.ledger import Reader; print(Reader(pathlib.Path(sys.argv[1])).facts()['n'])"
    )
    for number in ("1", "2"):
        ledger.set_facts(n=number)
        seen = subprocess.run(
            [sys.executable, "-c", program, folder / "state.db"], capture_output=True, text=True, check=True
        )
        assert seen.stdout.strip() == number


HOLD = """
import sys, time
from pathlib import Path
from axomsync.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]), time.time)
print("held", flush=True)
sys.stdin.read()
"""


def test_second_agent_is_refused_with_the_pid_of_the_first(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        assert holder(folder) == first.pid
        with pytest.raises(AlreadyRunning, match=rf"another agent \(pid {first.pid}\) holds {folder}; stop it") as refusal:
            Ledger(folder, lambda: NOW)
        assert refusal.value.exit_code == 3
        first.kill()
        first.wait()
        assert holder(folder) is None
    with Ledger(folder, lambda: NOW):
        assert holder(folder) == os.getpid()


def test_holder_never_keeps_an_agent_from_starting(folder: Path) -> None:
    Ledger(folder, lambda: NOW).close()
    over = threading.Event()

    def look_all_the_time() -> None:
        while not over.is_set():
            holder(folder)

    watchers = [threading.Thread(target=look_all_the_time) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(30):
            Ledger(folder, lambda: NOW).close()
    finally:
        over.set()
        for watcher in watchers:
            watcher.join()


# Crashes

WRITE_FOR_EVER = """
import sys, threading, time
from pathlib import Path
from axomsync.ledger import Ledger
from axomsync.core.records import DurableSegment, ModelState, RemoteModel
ledger = Ledger(Path(sys.argv[1]), time.time)
def segments(model):
    ledger.record_catalog([(RemoteModel(model, "n", model, None, None, "ready", None), ModelState.QUEUED, None)])
    ledger.plan_files(model, [("w", 1 << 40)])
    for start in range(0, 1 << 40, 10):
        ledger.record_durable([(model, "w", "e", DurableSegment(start, start + 10, "0" * 64))])
        sys.stdout.write(f"{model} {start}\\n")
        sys.stdout.flush()
prefix = sys.argv[2]
for number in range(4):
    threading.Thread(target=segments, args=(f"{prefix}-{number}",)).start()
"""


def test_sigkill_loses_no_acknowledged_write(folder: Path) -> None:
    acknowledged: dict[str, set[int]] = {}
    for attempt in range(5):
        arguments = [sys.executable, "-c", WRITE_FOR_EVER, str(folder), f"m{attempt}"]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for line, _ in zip(writer.stdout, range(20 + 30 * attempt), strict=False):
                model, start = line.split()
                acknowledged.setdefault(model, set()).add(int(start))
            writer.send_signal(signal.SIGKILL)
            for line in writer.stdout:
                if line.endswith("\n"):
                    model, start = line.split()
                    acknowledged.setdefault(model, set()).add(int(start))
        with Ledger(folder, lambda: NOW) as ledger:
            assert ledger.write(lambda db: db.execute("PRAGMA integrity_check").fetchall()) == [("ok",)]
            for model, starts in acknowledged.items():
                (file,) = ledger.read.files(model)
                assert starts <= {segment.start for segment in file.segments}
    assert len(acknowledged) >= 5


# Failures of the disk


def fault_of(folder: Path) -> str:
    with pytest.raises(LocalFault) as fault:
        Ledger(folder, lambda: NOW)
    assert "\n" not in str(fault.value)
    return str(fault.value)


def test_full_disk_is_reported_at_the_start(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        filler = fill(disk)
        told = fault_of(disk / "state")
        assert told.startswith(f"{disk}/state")
        assert "the disk is full; free some space" in told
        filler.unlink()
        with Ledger(disk / "state", lambda: NOW):
            pass


SMALL_FILES = """
import resource, sys
from pathlib import Path
from axomsync.core.errors import LocalFault
from axomsync.ledger import Ledger
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
try:
    Ledger(Path(sys.argv[1]), lambda: 0.0)
except LocalFault as fault:
    print(fault)
"""


def test_file_size_limit_is_not_reported_as_a_full_disk(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SMALL_FILES, tmp_path], capture_output=True, text=True, check=True)
    told = "this process may not write files that large; raise LimitFSIZE= of the unit (ulimit -f)"
    assert done.stdout == f"{tmp_path}/state.db: {told}\n"


def record_for_ever(ledger: Ledger, model: str, kept: list[int]) -> None:
    for start in itertools.count(0, 10):
        ledger.record_durable([(model, "w", None, DurableSegment(start, start + 10, "0" * 64))])
        kept.append(start)


def test_full_disk_fails_each_write_until_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=1m") as disk, Ledger(disk / "state", lambda: NOW) as ledger:
        model = a_model(ledger)
        ledger.plan_files(model, [("w", 1 << 40)])
        filler = fill(disk)
        kept: list[int] = []
        with pytest.raises(LocalFault, match=rf"{disk}/state/state.db: the disk is full"):
            record_for_ever(ledger, model, kept)
        futures = [
            ledger.submit(lambda db: db.execute("INSERT INTO facts VALUES (hex(randomblob(5000)), '')")) for _ in "123"
        ]
        for future in futures:
            with pytest.raises(LocalFault):
                future.result(20)
        assert ledger.read.model(model).bytes_done == 10 * len(kept), "what was kept can't be read any more"
        filler.unlink()
        ledger.set_facts(room="again")
        assert ledger.read.facts()["room"] == "again"
        assert ledger.write(lambda db: db.execute("PRAGMA integrity_check").fetchall()) == [("ok",)]


def test_read_only_disk_is_reported_with_path_and_remedy(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=4m") as disk:
        Ledger(disk / "state", lambda: NOW).close()
        remount(disk, "ro")
        assert fault_of(disk / "state") == f"{disk}/state/agent.lock: the filesystem is read-only; remount it read-write"
        remount(disk, "rw")


def add_fact(number: int, db: Database) -> None:
    db.execute("INSERT INTO facts VALUES (?, ?)", [f"f{number}", "x" * 500])


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (b"this is no database, it is a letter to the editor, and a long one at that" * 100, "it is not a ledger; move it"),
        (None, "it is damaged; move it away, a new one loses no data"),
    ],
)
def test_damaged_ledger_is_reported_with_a_remedy(damage: bytes | None, told: str, folder: Path) -> None:
    with Ledger(folder, lambda: NOW) as ledger:
        for number in range(200):
            ledger.submit(partial(add_fact, number))
    file = folder / "state.db"
    whole = bytearray(file.read_bytes())
    whole[4096 : len(whole)] = os.urandom(len(whole) - 4096)
    file.write_bytes(damage or bytes(whole))
    assert f"{file}: {told}" in fault_of(folder)
    assert holder(folder) is None, "the lock was kept"
    file.unlink()
    with Ledger(folder, lambda: NOW):
        pass


def test_state_folder_that_can_not_be_made_is_reported_with_the_obstacle(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = fault_of(tmp_path / "file" / "state")
    assert told == f"{tmp_path}/file/state: a part of the path is not a folder; correct the configuration"


def test_lock_by_another_program_is_reported(folder: Path) -> None:
    with Ledger(folder, lambda: NOW, patience=0.2) as ledger:
        other = sqlite3.connect(folder / "state.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            future = ledger.submit(lambda db: db.execute("INSERT INTO facts VALUES ('a', 'b')") and None)
            with pytest.raises(LocalFault, match=r"state.db: another program keeps it locked"):
                future.result(30)
        finally:
            other.execute("ROLLBACK")
            other.close()
        ledger.set_facts(a="b")


def test_missing_ledger_is_reported_with_the_way_to_make_it(folder: Path) -> None:
    with pytest.raises(LocalFault, match=r"there is no ledger yet; `axomsync run` or `axomsync sync` creates it"):
        Reader(folder / "state.db")
    assert not folder.exists()


# Filesystems


def test_network_filesystems_are_refused_for_state(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_bytes(
        b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        b"30 22 0:40 / /data rw shared:2 master:1 - nfs4 server:/export rw\n"
        b"31 30 0:41 / /data/my\\040disk rw - xfs /dev/sdb rw\n"
        b"32 22 0:42 / /mnt/caf\xe9 rw - lustre mds:/fs rw\n"
        b"33 22 0:43 / /over rw - tmpfs t rw\n"
        b"34 22 0:44 / /over rw - fuse.sshfs me@there rw\n"
    )
    seen = {
        path: filesystem_type(Path(path), mounts)
        for path in ("/srv", "/data/x", "/data/my disk/x", "/data/my diskette", os.fsdecode(b"/mnt/caf\xe9/x"), "/over/x")
    }
    assert list(seen.values()) == ["ext4", "nfs4", "xfs", "nfs4", "lustre", "fuse.sshfs"]
    assert filesystem_type(Path("/srv"), tmp_path / "none") == ""
    assert filesystem_type(Path("/proc")) == "proc"


# Numbers out of range


@pytest.mark.parametrize("stamp", [
    Stamp(1, 2, 3, 15_000_000_000 * 10**9, 5), Stamp(1, 2, 3, -(10**20), -(10**20)),
    Stamp((1 << 64) - 1, (1 << 64) - 1, 3, 4, 5),
    Stamp(1 << 70, 1 << 70, 1 << 70, 1 << 70, 1 << 70),
])  # fmt: skip
def test_stamp_out_of_range_is_stored_as_the_nearest_value(stamp: Stamp, ledger: Ledger) -> None:
    ledger.see_uploads([(b"odd.jsonl", "odd.jsonl", stamp), (b"a.jsonl", "a.jsonl", STAMP)])
    odd, plain = ledger.read.uploads()
    assert (odd.stamp.mtime_ns, odd.stamp.ctime_ns) == (stored(stamp).mtime_ns, stored(stamp).ctime_ns)
    assert stored(odd.stamp) == odd.stamp
    assert plain.stamp == STAMP


# Writes without a waiting thread


def test_row_does_not_continue_after_an_unheard_failed_step(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=1m") as disk, Ledger(disk / "state", lambda: NOW) as ledger:
        row, other = an_upload(ledger), an_upload(ledger, "b.jsonl")
        filler = fill(disk)
        ledger.submit(lambda db: db.execute("INSERT INTO facts VALUES ('a', hex(zeroblob(900000)))") and None, row=row)
        eventually("the failure", ledger.trouble)
        filler.unlink()
        with pytest.raises(LocalFault, match="the disk is full"):
            ledger.move_upload(row, UploadState.CHECKING).result()
        assert ledger.read.upload(row).state is UploadState.SETTLING
        ledger.move_upload(other, UploadState.CHECKING).result()
        ledger.move_upload(row, UploadState.CHECKING).result()  # the failure was reported once
        assert ledger.trouble() is None


# A reader that never ends


def test_endless_reader_is_noticed_and_the_wal_shrinks_after_its_end(folder: Path, ledger: Ledger) -> None:
    other = sqlite3.connect(folder / "state.db", isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT * FROM facts").fetchall()
    wal = folder / "state.db-wal"
    while wal.stat().st_size < LARGE_WAL_BYTES:
        ledger.set_facts(large="x" * 2_000_000)
    assert ledger.held_by_reader()
    seconds = [0.0]
    problems = Problems(ledger)
    watch = LedgerWatch(ledger, problems, clock=lambda: seconds[0])
    watch.turn()
    assert [str(Trouble.HELD) in problem.reason for problem in problems.all()] == [True]
    assert trouble_of(folder) is Trouble.HELD, "other processes learn it too"
    other.execute("COMMIT")
    other.close()
    assert not ledger.held_by_reader()
    seconds[0] += CALM_SECONDS
    watch.turn()
    assert (problems.all(), trouble_of(folder)) == ([], None)
    for _ in range(3):
        ledger.set_facts(large="small")
    assert wal.stat().st_size <= WAL_LIMIT_BYTES


def test_probe_of_an_idle_ledger_writes_nothing(folder: Path, ledger: Ledger) -> None:
    ledger.set_facts(a="b")
    before = (folder / "state.db-wal").stat().st_mtime_ns, ledger.read.version()
    for _ in range(5):
        ledger.probe().result()
    assert ((folder / "state.db-wal").stat().st_mtime_ns, ledger.read.version()) == before


def test_flag_is_visible_while_it_is_raised_and_its_holder_lives(folder: Path, ledger: Ledger) -> None:
    assert trouble_of(folder) is None
    for trouble in Trouble:
        ledger.show_trouble(trouble)
        assert trouble_of(folder) is trouble
        holder(folder)  # it opens and closes the lock file in the same process
        assert trouble_of(folder) is trouble
    ledger.show_trouble(None)
    assert trouble_of(folder) is None


def test_ledgers_opened_at_once_leave_the_umask_as_it_is(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with ThreadPoolExecutor(8) as pool:
            for ledger in pool.map(lambda number: Ledger(tmp_path / str(number), time.time), range(24)):
                ledger.close()
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
