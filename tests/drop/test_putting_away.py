"""Last step of a file: after storage has it, or after it was found invalid."""

import fcntl
import os
import signal
import sqlite3
import stat
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest

from axomsync.config import DropSettings
from axomsync.core.records import Stamp
from axomsync.drop.put_away import PutAway
from axomsync.ledger import Ledger, LedgerFault
from axomsync.sandbox.console import Sandbox
from tests.drop.conftest import AgentFactory, dataset, puts, receipt, sha256, stored, tree
from tests.rig.agent import AgentProcess, eventually

LONG_AGO = 1_000_000_000_123_456_789  # nanoseconds


def drop(path: Path, data: bytes) -> None:
    """Drop a file with an old time and special permissions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o640)
    os.utime(path, ns=(LONG_AGO, LONG_AGO))


def test_archived_files_keep_their_age_and_mode_and_have_a_receipt(sandbox: Sandbox, agent: AgentProcess) -> None:
    data = dataset("a", 12)
    drop(agent.drop / "sub" / "a.jsonl", data)
    began = int(time.time())
    agent.sync()

    archived = agent.drop / "uploaded" / "sub" / "a.jsonl"
    status = archived.stat()
    assert (status.st_mtime_ns, stat.S_IMODE(status.st_mode)) == (LONG_AGO, 0o640)
    (upload,) = sandbox.uploads()
    note = receipt(archived)
    at = datetime.fromisoformat(note.pop("time"))
    assert began <= at.timestamp() <= time.time()
    (stored_object,) = [entry for entry in sandbox.store.list("tmp") if entry.key == upload.key]
    expected = {
        "path": "sub/a.jsonl",
        "filename": "a.jsonl",
        "upload_id": upload.upload_id,
        "key": upload.key,
        "sha256": sha256(data),
        "md5": stored_object.etag.strip('"'),
        "etag": stored_object.etag,
        "bytes": len(data),
        "lines": 12,
        "duplicate": False,
    }
    assert {name: note[name] for name in expected} == expected
    (row,) = agent.uploads()
    assert {name: row[name] for name in ("upload_id", "key", "sha256", "bytes", "lines", "etag", "filename", "path")} == {
        name: note[name] for name in ("upload_id", "key", "sha256", "bytes", "lines", "etag", "filename", "path")
    }


def test_existing_names_are_never_overwritten(sandbox: Sandbox, agent: AgentProcess) -> None:
    theirs = {"uploaded/a.jsonl": b"theirs", "uploaded/b.jsonl.receipt.json": b"theirs", "rejected/c.jsonl": b"theirs"}
    for name, data in theirs.items():
        drop(agent.drop / name, data)
    broken = b"broken\n"
    for name, data in {"a.jsonl": dataset("a"), "b.jsonl": dataset("b"), "c.jsonl": broken}.items():
        drop(agent.drop / name, data)
    agent.sync(expect=1)
    drop(agent.drop / "a.jsonl", dataset("a"))  # once more: a duplicate, again with a new name
    drop(agent.drop / "c.jsonl", broken)
    agent.sync(expect=1)

    left = tree(agent.drop)
    a, b = (f"uploaded/{name}--{sha256(dataset(name))[:8]}" for name in ("a", "b"))
    notes = {name for name in left if name.endswith((".receipt.json", ".reason.txt"))} - theirs.keys()
    assert notes == {
        f"{a}.jsonl.receipt.json", f"{a}-2.jsonl.receipt.json", f"{b}.jsonl.receipt.json",
        "rejected/c--1.jsonl.reason.txt", "rejected/c--2.jsonl.reason.txt",
    }  # fmt: skip
    assert {name: data for name, data in left.items() if name not in notes} == {
        **theirs,
        f"{a}.jsonl": dataset("a"),
        f"{a}-2.jsonl": dataset("a"),
        f"{b}.jsonl": dataset("b"),
        "rejected/c--1.jsonl": broken,
        "rejected/c--2.jsonl": broken,
    }


@pytest.mark.parametrize("after", ["keep", "delete"])
def test_after_keeps_or_deletes_files_as_configured(sandbox: Sandbox, make_agent: AgentFactory, after: str) -> None:
    agent = make_agent(sandbox, after=after)
    drop(agent.drop / "a.jsonl", dataset("a"))
    drop(agent.drop / "sub" / "a.jsonl", dataset("a"))
    drop(agent.drop / "b.jsonl", b"broken")
    agent.sync(expect=1)
    files = tree(agent.drop)
    assert "line 1, column 1" in files.pop("rejected/b.jsonl.reason.txt").decode()
    assert files.pop("rejected/b.jsonl") == b"broken"
    assert files == ({"a.jsonl": dataset("a"), "sub/a.jsonl": dataset("a")} if after == "keep" else {})
    assert stored(sandbox) == {"a.jsonl": [dataset("a")]}
    agent.sync()
    (agent.drop / "a.jsonl").write_bytes(dataset("changed"))
    agent.sync()
    assert stored(sandbox) == {"a.jsonl": [dataset("changed"), dataset("a")]}
    assert len(puts(sandbox)) == 2


def test_max_put_holds_a_larger_file_until_it_is_raised(sandbox: Sandbox, make_agent: AgentFactory) -> None:
    agent = make_agent(sandbox, max_put="100B")
    drop(agent.drop / "large.jsonl", dataset("large", 10))
    drop(agent.drop / "small.jsonl", dataset("small", 1))
    agent.sync(expect=1)
    assert stored(sandbox) == {"small.jsonl": [dataset("small", 1)]}
    row = next(row for row in agent.uploads() if row["path"] == "large.jsonl")
    size = len(dataset("large", 10))
    assert row["state"] == "held"
    assert row["reason"].startswith(f"{size} bytes are more than storage takes in one PUT ([drop] max_put = 100 bytes)")
    assert (agent.drop / "large.jsonl").read_bytes() == dataset("large", 10)
    agent.configure({"mirror": {"enabled": False}, "drop": {"max_put": f"{size}B"}})
    agent.sync()
    assert stored(sandbox)["large.jsonl"] == [dataset("large", 10)]


def test_broken_file_that_grew_while_it_settled_is_rejected_too(sandbox: Sandbox, make_agent: AgentFactory) -> None:
    agent = make_agent(sandbox, settle="300ms")
    agent.start()
    path = agent.drop / "a.jsonl"
    with path.open("wb", buffering=0) as file:

        def grow_and_look() -> bool:
            file.write(dataset("a"))
            with closing(sqlite3.connect(f"file:{agent.state}/state.db?mode=ro", uri=True)) as ledger:
                return bool(ledger.execute("SELECT count(*) FROM uploads").fetchone()[0])

        eventually("a row for it", grow_and_look)
        file.write(b"broken\n")
    eventually("the reason", (agent.drop / "rejected" / "a.jsonl.reason.txt").exists)
    eventually("the file", (agent.drop / "rejected" / "a.jsonl").exists)
    assert puts(sandbox) == []


def test_corrected_file_that_is_moved_back_is_uploaded(sandbox: Sandbox, agent: AgentProcess) -> None:
    faulty = b"\n".join([b'{"a": 1}', b"", b"not json", b"[]", b'{"a": "\xff"}', b'{"cut": "of'])
    drop(agent.drop / "a.jsonl", faulty)
    agent.sync(expect=1)
    rejected = agent.drop / "rejected" / "a.jsonl"
    assert rejected.stat().st_mtime_ns == LONG_AGO
    assert rejected.with_name("a.jsonl.reason.txt").read_text() == (
        "a.jsonl was not uploaded: 5 problems found.\n\n"
        "- line 2: the line is blank; remove it (blank lines may only stand at the end)\n"
        "- line 3, column 1: the line is a text and no object; write an object, {…}, on each line\n"
        "- line 4, column 1: a JSON object is needed, this is an array; write an object, {…}, on each line\n"
        "- line 5, column 8: byte 8 of the line (0xff) is not UTF-8; it looks like Latin-1 or Windows-1252; save it as"
        " UTF-8 (iconv -f WINDOWS-1252 -t UTF-8)\n"
        "- line 6, column 12: the last line was cut off within a string; the file is not whole: copy or export it again\n\n"
        "In all:\n"
        "       1 x the line is blank\n"
        "       1 x the line is a text and no object\n"
        "       1 x a JSON object is needed, this is an array\n"
        "       1 x a byte is not UTF-8\n"
        "       1 x the last line was cut off within a string\n\n"
        f"To try again, correct the file and move it back to {agent.drop}/a.jsonl\n"
    )
    rejected.write_bytes(dataset("a"))
    os.rename(rejected, agent.drop / "a.jsonl")
    agent.sync()
    assert stored(sandbox) == {"a.jsonl": [dataset("a")]}


# The kernel stops the agent here for good: at the entry of the n-th renameat2(2), before the call happens, or after it. The
# first call gives the receipt its name, the second one moves the file.
@pytest.mark.parametrize(("call", "moment"), [(1, "before"), (1, "after"), (2, "before"), (2, "after")])
def test_crash_at_any_step_of_archiving_is_finished_by_the_next_agent(
    sandbox: Sandbox, agent: AgentProcess, call: int, moment: str
) -> None:
    drop(agent.drop / "a.jsonl", dataset("a"))
    archived = agent.drop / "uploaded" / "a.jsonl"
    if moment == "before":
        agent.launch("sync", prefix=strace(agent, f"signal=KILL:when={call}"))
        eventually("the crash", lambda: agent.process is not None and agent.process.poll() is not None)
    else:
        agent.launch("sync", prefix=strace(agent, f"delay_exit=5000000:when={call}"))
        eventually("the step", archived.with_name("a.jsonl.receipt.json").exists if call == 1 else archived.exists)
        kill_traced(agent)
    assert len(stored(sandbox)) == 1
    agent.sync()
    assert len(puts(sandbox)) == 1
    files = tree(agent.drop)
    assert sorted(name for name in files if "/." not in name) == ["uploaded/a.jsonl", "uploaded/a.jsonl.receipt.json"]
    assert files["uploaded/a.jsonl"] == dataset("a")
    (row,) = agent.uploads()
    assert (row["state"], row["upload_id"]) == ("uploaded", receipt(archived)["upload_id"])


@pytest.mark.parametrize("after", ["archive", "delete"])
def test_file_that_replaces_another_at_the_last_moment_is_not_lost(
    sandbox: Sandbox, make_agent: AgentFactory, after: str
) -> None:
    agent = make_agent(sandbox, after=after)
    path = agent.drop / "a.jsonl"
    drop(path, dataset("a"))
    call = 2 if after == "archive" else 1
    agent.launch("sync", prefix=strace(agent, f"delay_enter=1500000:when={call}"))
    trace = agent.home / "trace"
    eventually("the move being held up", lambda: trace.exists() and trace.read_text().count("renameat2(") == call)
    drop(path.with_name(".new"), dataset("b"))
    os.rename(path.with_name(".new"), path)
    assert agent.wait() == 0
    agent.sync()
    assert stored(sandbox) == {"a.jsonl": [dataset("b"), dataset("a")]}
    files = [data for name, data in tree(agent.drop).items() if name.endswith(".jsonl")]
    assert files == ([dataset("b")] if after == "archive" else [])


@pytest.mark.parametrize("place", ["a.jsonl", "x/y/a.jsonl"])
@pytest.mark.parametrize("then", ["nothing", "a new file"])
def test_a_file_that_the_disk_did_not_delete_is_deleted_by_the_next_life(
    sandbox: Sandbox, make_agent: AgentFactory, place: str, then: str
) -> None:
    """Meanwhile nothing has its name, or a new file."""
    agent = make_agent(sandbox, after="delete")
    drop(agent.drop / place, dataset("a"))
    trace = agent.home / "trace"
    inject = ("-e", "trace=unlinkat", "-e", "inject=unlinkat:error=EIO:when=1")
    agent.launch("run", prefix=("strace", "-f", "-qq", "-o", str(trace), *inject))
    eventually("the failure", lambda: "it can't be put away" in agent.log())
    if then == "a new file":
        drop(agent.drop / place, dataset("b"))
        eventually("the new file", lambda: len(puts(sandbox)) == 2)
    eventually("a look without the file", lambda: all(not row["in_drop"] for row in rows(agent)))
    kill_traced(agent)
    assert sum(".axomsync-deleting-" in name for name in tree(agent.drop)) >= 1
    agent.sync()
    assert [name for name in tree(agent.drop) if ".axomsync/" not in name] == []


def rows(agent: AgentProcess) -> list[sqlite3.Row]:
    with closing(sqlite3.connect(agent.state / "state.db")) as database:
        database.row_factory = sqlite3.Row
        return database.execute("SELECT * FROM uploads").fetchall()


def strace(agent: AgentProcess, fault: str) -> tuple[str, ...]:
    """Make strace tamper with renameat2(2) in the command that follows."""
    trace = agent.home / "trace"
    return (
        "strace", "-f", "-qq", "--seccomp-bpf", "-o", str(trace), "-e", "trace=renameat2", "-e", f"inject=renameat2:{fault}",
    )  # fmt: skip


def kill_traced(agent: AgentProcess) -> None:
    """Send SIGKILL to the agent itself, by the pid in its ledger's lock, and then to strace."""
    lock = agent.state / "agent.lock"
    os.kill(int(lock.read_text()), signal.SIGKILL)
    agent.kill()
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # held until the agent has ended


def test_a_ledger_that_can_not_be_read_is_no_fault_of_the_file(tmp_path: Path) -> None:
    settings = DropSettings(folder=tmp_path / "drop", enabled=True)
    with Ledger(tmp_path / "state", time.time) as ledger:
        ledger.see_uploads([(b"a.jsonl", "a.jsonl", Stamp(1, 2, 3, 4, 5))])
        (upload,) = ledger.read.uploads()
        ledger.read.close()
        with pytest.raises(LedgerFault):
            PutAway(settings, ledger).uploaded(upload, lambda: None)
