"""Ledgers with flipped bits in any place: every command that opens one prints one line with the fault and a remedy."""

import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from axomsync.agent.requests import Steering
from axomsync.config import Settings
from axomsync.core.errors import AxomsyncError, Forgotten, LocalFault, NewerLedger
from axomsync.core.records import Checked, DurableSegment, ModelState, Presigned, RemoteModel, Stamp, Transfer, UploadState
from axomsync.core.states import IllegalTransition
from axomsync.ledger import Ledger, Reader
from axomsync.runtime.heartbeat import Liveness
from axomsync.status.documents import event_document, model_document, upload_document
from axomsync.status.explain import explain
from axomsync.status.report import status_document
from axomsync.status.targets import Targets
from tests.rig.agent import AgentProcess, eventually
from tests.rig.anything import some

FLIPS = some(120)
NOW = 1_900_000_000.0
ADVICE = "move it away, a new one loses no data"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with something in every table, as one file."""
    folder = tmp_path_factory.mktemp("filled")
    with Ledger(folder, lambda: NOW) as ledger:
        names = [f"data-{number}.jsonl" for number in range(40)]
        ledger.see_uploads((name.encode(), name, Stamp(1, 2, 3, 4, 5)) for name in names)
        for row in ledger.read.uploads():
            ledger.move_upload(row.id, UploadState.CHECKING)
            ledger.record_check(row.id, row.stamp, Checked(f"{row.id:064x}", 3, 1)).result()
            ledger.record_presigned(row.id, Presigned(f"u-{row.id}", f"k/{row.id}", "http://s/?x=1", NOW))
            if row.id % 2:
                ledger.record_uploaded(row.id, "etag", "md5")
        for number in range(20):
            remote = RemoteModel(f"m-{number}", "llama", f"v{number}", 7, None, "ready", "2027-01-01T00:00:00Z")
            ledger.record_catalog([(remote, ModelState.QUEUED, None)])
            ledger.plan_files(remote.id, [("w", 1000), ("c", 10)])
            ledger.record_durable([(remote.id, "w", "e", DurableSegment(0, 100, "1" * 64))])
            ledger.move_model(remote.id, ModelState.BLOCKED, reason="no room")
        ledger.show_transfers([Transfer("down", "llama/v1", 1, 2, 3, 4.0, None)])
        ledger.show_problem("console", "down", NOW).result()
        ledger.set_facts(identity="abc", last_poll=str(NOW), pause_ends="0", version="0.1.0")
        ledger.execute("INSERT INTO requests (verb, parameters, asked_at) VALUES ('poll', '{}', 1)").result()
    return folder / "state.db"


def read_all(path: Path) -> None:
    """Read everything that the verbs read."""
    reader = Reader(path)
    try:
        settings = Settings.model_validate({"state": {"folder": str(path.parent)}})
        status_document(settings, reader)
        uploads = [upload_document(row, reader.shards(row.id)) for row in reader.uploads()]
        models = [model_document(row) for row in reader.models()]
        assert all(isinstance(document["state"], str) for document in (*uploads, *models))
        for model in reader.models():
            reader.files(model.id)
        explain(reader, Targets(tuple(reader.uploads()), tuple(reader.models())))
        [event_document(line) for line in reader.history(100)]
        reader.events_due(NOW)
        reader.orphans()
        for row in reader.uploads():
            reader.presigned(row)
    finally:
        reader.close()


def write_some(path: Path) -> None:
    """Do what an agent does at its start, and move a file and a model by one step."""
    with Ledger(path.parent, time.time) as ledger:
        ledger.recover()
        Steering(ledger, {}, Liveness(60, time.monotonic)).look()
        ledger.show_problem("console", "down", None).result()
        ledger.see_uploads([(b"new.jsonl", "new.jsonl", Stamp(1, 2, 3, 4, 5))])
        for row in ledger.read.uploads():
            if row.state is UploadState.QUEUED:
                ledger.move_upload(row.id, UploadState.FAILED, reason="x").result()
        for model in ledger.read.models():
            ledger.move_model(model.id, model.state, reason="x")
        ledger.set_facts(last_poll="1")


def verdict(work: Callable[[Path], None], path: Path) -> str | None:
    """Message about the file; None if the damage is not noticed. Any unexpected failure is raised."""
    try:
        work(path)
    except (IllegalTransition, Forgotten):
        return None  # a row number was changed, so one row is taken for another: the move is refused, and nothing is lost
    except AxomsyncError as failure:
        return str(failure)
    return None


def test_damaged_ledger_gives_one_line_with_advice_or_is_not_noticed(filled: Path, tmp_path: Path) -> None:
    whole, chance, met = filled.read_bytes(), random.Random(12), 0
    offsets = [*range(0, 100, 7), *(chance.randrange(len(whole)) for _ in range(FLIPS))]
    for number, offset in enumerate(offsets):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = folder / "state.db"
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        for work in (read_all, write_some, read_all):
            try:
                said = verdict(work, path)
            except Exception as bug:
                raise AssertionError(f"byte {offset} of {len(whole)}, {work.__name__}: {type(bug).__name__}: {bug}") from bug
            if said is not None:
                met += 1
                assert "\n" not in said
                assert said.startswith(f"{path}: "), said
                assert ADVICE in said or "newer axomsync" in said or "of an older version" in said, (offset, said)
        shutil.rmtree(folder)
    assert met > FLIPS // 8


@pytest.mark.parametrize(
    ("statement", "met_by"),
    [
        ("UPDATE uploads SET state = 'upmoaded' WHERE id = 1", read_all),
        ("UPDATE models SET state = 'blockee' WHERE id = 'm-1'", read_all),
        ("UPDATE uploads SET filename = CAST(x'ff41' AS TEXT) WHERE id = 1", read_all),
        ("UPDATE uploads SET repeated_lines = '{' WHERE id = 1", read_all),
        ("UPDATE uploads SET shape = '{' WHERE id = 1", read_all),
        ("UPDATE uploads SET shape = '{\"findings\": [1]}' WHERE id = 1", read_all),
        ("UPDATE models SET left_out = '{\"a\": 1}'", read_all),
        ('UPDATE models SET proofs = \'{"proven": "a"}\'', read_all),
        ("UPDATE _sqlite_migrations SET name = 'm00\x11_first' WHERE name = 'm001_first_schema'", read_all),
        ("DROP TABLE segments", read_all),
        ("ALTER TABLE uploads RENAME COLUMN sha256 TO shb256", read_all),
    ],
)
def test_unknown_words_and_columns_are_damage(
    statement: str, met_by: Callable[[Path], None], filled: Path, tmp_path: Path
) -> None:
    path = tmp_path / "state.db"
    shutil.copy(filled, path)
    database = sqlite3.connect(path, isolation_level=None)
    database.execute(statement)
    database.close()
    assert verdict(met_by, path) == f"{path}: it is damaged; {ADVICE}"


@pytest.mark.parametrize("damage", ["state = 'upmoaded'", "filename = CAST(x'ff41' AS TEXT)"])
def test_reading_damage_leaves_no_old_state_behind(damage: str, tmp_path: Path) -> None:
    """The failure is kept, as whoever tells of it keeps it; later readings see what was written meanwhile."""
    with Ledger(tmp_path, lambda: NOW) as ledger:
        ledger.see_uploads([(b"a", "a", Stamp(1, 2, 3, 4, 5)), (b"b", "b", Stamp(1, 3, 3, 4, 5))])
        reader = Reader(ledger.path)
        try:
            ledger.execute(f"UPDATE uploads SET {damage} WHERE id = 1").result()
            with pytest.raises(LocalFault, match="it is damaged") as kept:
                reader.uploads()
            ledger.execute("UPDATE uploads SET state = 'settling', filename = 'c'").result()
            assert [upload.filename for upload in reader.uploads()] == ["c", "c"], kept
        finally:
            reader.close()


def test_every_verb_prints_one_line_about_a_damaged_ledger(filled: Path, tmp_path: Path) -> None:
    with AgentProcess(tmp_path, "http://127.0.0.1:9", "axom_live_x") as agent:
        agent.state.mkdir()
        shutil.copy(filled, agent.state / "state.db")
        database = sqlite3.connect(agent.state / "state.db", isolation_level=None)
        database.execute("UPDATE uploads SET state = 'upmoaded'")
        database.execute("UPDATE models SET state = 'blockee'")
        database.close()
        for words in (("status",), ("uploads",), ("explain", "m-1"), ("sync",)):
            done = agent.call(*words)
            assert done.returncode != 0, words
            assert "Traceback" not in done.stderr, done.stderr
            assert ADVICE in done.stderr.replace("\n", " "), (words, done.stderr)
        agent.start()
        eventually("the line", lambda: f"ledger: {agent.state}/state.db: it is damaged; {ADVICE}" in agent.log())
        assert "Traceback" not in agent.log()
        assert agent.log().count("ledger: ") == 1


def test_unreadable_requests_fail_and_the_others_are_done(tmp_path: Path) -> None:
    with Ledger(tmp_path, time.time) as ledger:
        for parameters in ("{", "[]", "1"):
            ledger.execute("INSERT INTO requests (verb, parameters, asked_at) VALUES ('x', ?, 1)", parameters).result()
        Steering(ledger, {}, Liveness(60, time.monotonic)).look()
        assert ledger.read.new_requests() == []
        row = ledger.read.request(1)
        assert row is not None
        assert "can't be read" in row["outcome"]


def test_newer_ledger_is_still_reported_as_newer(filled: Path, tmp_path: Path) -> None:
    shutil.copy(filled, tmp_path / "state.db")
    database = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    columns = "(migration_set, name, applied_at)"
    database.execute(f"INSERT INTO _sqlite_migrations {columns} VALUES ('axomsync', 'm099_later', '2031-01-01')")
    database.close()
    with pytest.raises(NewerLedger):
        Reader(tmp_path / "state.db")
    with pytest.raises((NewerLedger, LocalFault)):
        Ledger(tmp_path, time.time)
