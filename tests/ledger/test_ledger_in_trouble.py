"""A state folder that is full, read-only, locked or failing under a running agent.

The trouble is reported everywhere within five seconds, once, and only while it lasts. Needs root for mounts.
"""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from axomsync.ledger import Trouble
from axomsync.ledger.lock import hold
from tests.rig.agent import AgentProcess, eventually
from tests.rig.disks import fill, locked, loop_disk, small_disk
from tests.rig.faults import KEY, FaultyServer
from tests.rig.old_ledger import old_ledger

SOON = 5.0  # seconds in which the trouble must be reported
LISTEN = {"web": {"listen": "127.0.0.1:0"}}


@contextmanager
def full(state: Path, agent: AgentProcess) -> Iterator[None]:
    filler = fill(state)
    yield
    filler.unlink()


@contextmanager
def failing(state: Path, agent: AgentProcess) -> Iterator[None]:
    assert agent.process is not None
    calls = "pwrite64,fdatasync,fsync"
    arguments = ["-f", "-qq", "-o", "/dev/null", "-P", f"{state}/state.db-wal", "-e", f"trace={calls}"]
    with subprocess.Popen(["strace", *arguments, "-e", f"inject={calls}:error=EIO", "-p", str(agent.process.pid)]) as strace:
        yield
        strace.send_signal(signal.SIGINT)


def everywhere(agent: AgentProcess, page: str) -> dict[str, bool]:
    """Report of the trouble at each of its places."""
    ready = httpx.get(page + "readyz")
    of_page = httpx.get(page + "api/status").json()["problems"]
    return {
        "status": any(problem["subject"] == "ledger" for problem in agent.status()["problems"]),
        "page": any(problem["subject"] == "ledger" for problem in of_page),
        "readyz": ready.status_code == 503 and ready.text.startswith("ledger: "),
        "metrics": 'axomsync_problem{subject="ledger"} 1.0' in httpx.get(page + "metrics").text,
    }


def heard(manager: socket.socket) -> list[str]:
    """Messages to the service manager since the last call."""
    said = []
    with suppress(BlockingIOError):
        while True:
            said.append(manager.recv(4096).decode())
    return said


TROUBLES: dict[str, tuple[Callable[[Path, AgentProcess], object], Trouble]] = {
    "full": (full, Trouble.FULL),
    "locked": (lambda state, agent: locked(state), Trouble.LOCKED),
    "failing": (failing, Trouble.FAILING),
}


@pytest.mark.parametrize("kind", TROUBLES)
def test_state_folder_trouble_is_reported_everywhere_once_while_it_lasts(
    kind: str, server: FaultyServer, tmp_path: Path
) -> None:
    happens, trouble = TROUBLES[kind]
    with ExitStack() as stack:
        manager = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        agent = stack.enter_context(AgentProcess(tmp_path / "box", server.url, KEY, LISTEN, environ=environ))
        state = stack.enter_context(small_disk(agent.state, "size=12m"))
        agent.start()
        page = str(eventually("a page", lambda: agent.status()["agent"]["page"]))
        eventually("readiness", lambda: httpx.get(page + "readyz").status_code == 200)
        with happens(state, agent):  # type: ignore[attr-defined]
            began = time.monotonic()
            eventually("the log", lambda: f"ledger: {state}/state.db: {trouble}" in agent.log(), patience=SOON)
            assert all(everywhere(agent, page).values()), everywhere(agent, page)
            assert time.monotonic() - began < SOON + 2.0, "the news took longer than people wait, and two processes to start"
            assert "ledger" in agent.call("status").stdout
            assert any(f"STATUS=in trouble: {state}" in said for said in heard(manager))
            while time.monotonic() - began < 15:  # longer than the wait for a lock
                (agent.drop / f"{time.monotonic()}.jsonl").write_text('{"a": 1}\n')
                time.sleep(0.5)
        eventually("the end of it", lambda: "ledger: works again" in agent.log(), patience=20)
        said = list[str]()

        def hears_of_the_end() -> bool:
            said.extend(heard(manager))
            return bool(said) and "in trouble" not in said[-1]

        eventually("that the manager hears of it, after the log", hears_of_the_end)
        eventually("silence", lambda: not any(everywhere(agent, page).values()))
        assert agent.log().count("ledger: ") == 2, agent.log()
        eventually("the uploads", lambda: {row["state"] for row in agent.uploads()} <= {"uploaded", "duplicate"})
        assert agent.terminate() == 0
        assert "Traceback" not in agent.log()


def test_status_shows_trouble_without_a_page_and_a_disk_made_read_only_by_the_kernel(
    server: FaultyServer, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        agent = stack.enter_context(AgentProcess(tmp_path / "box", server.url, KEY))
        options = ("mkfs.ext4", "-b", "4096")
        state = stack.enter_context(loop_disk(agent.state, tmp_path / "image", 32 << 20, *options))
        subprocess.run(["mount", "-o", "remount,errors=remount-ro", state], check=True)
        agent.start()
        device = subprocess.run(["findmnt", "-no", "SOURCE", state], capture_output=True, text=True, check=True).stdout
        Path("/sys/fs/ext4", os.path.basename(device.strip()), "trigger_fs_error").write_text("1")
        eventually("the log", lambda: "ledger: " in agent.log(), patience=SOON)
        done = agent.call("status", "--json")
        (problem,) = [p for p in json.loads(done.stdout)["problems"] if p["subject"] == "ledger"]
        assert problem["reason"].startswith(f"{state}/state.db: ")
        assert agent.log().count("ledger: ") == 1
        agent.kill()


def remove_folder(state: Path) -> None:
    state.rename(state.with_name("moved"))


def put_older_back(state: Path) -> None:
    copy = state.with_name("copy.db")
    with closing(sqlite3.connect(state / "state.db")) as db, closing(sqlite3.connect(copy)) as other:
        db.backup(other)
    copy.rename(state / "state.db")


@pytest.mark.parametrize("take_away", [remove_folder, put_older_back])
def test_agent_with_a_removed_ledger_ends_with_a_message_and_the_next_one_loses_nothing(
    server: FaultyServer, tmp_path: Path, take_away: Callable[[Path], None]
) -> None:
    with AgentProcess(tmp_path / "box", server.url, KEY) as agent:
        agent.start()
        (agent.drop / "a.jsonl").write_text('{"a": 1}\n')
        eventually("the upload", lambda: [row["state"] for row in agent.uploads()] == ["uploaded"])
        take_away(agent.state)
        assert agent.process is not None
        assert agent.process.wait(20) == 75
        assert agent.log().count(f"ledger: {agent.state}/state.db: {Trouble.REMOVED}") == 1
        assert "Traceback" not in agent.log()
        agent.start()
        (agent.drop / "a.jsonl").write_text('{"a": 1}\n')
        eventually("the end", lambda: sorted(row["state"] for row in agent.uploads()) == ["duplicate", "uploaded"])
        assert len(server.console_requests("/presign")) == 1, "and only once"
        assert agent.terminate() == 0


@pytest.mark.parametrize("room", [16384, 65536])
def test_start_on_a_full_disk_leaves_no_file_that_is_misreported_later(room: int, tmp_path: Path) -> None:
    with AgentProcess(tmp_path / "box", "http://127.0.0.1:9/api", KEY) as agent, small_disk(agent.state, "size=1m") as state:
        filler = fill(state)
        os.truncate(filler, filler.stat().st_size - room)
        assert "disk is full" in agent.call("sync").stderr
        told = agent.call("status")
        assert "disk is full" in told.stdout + told.stderr
        assert "older version" not in told.stdout
        filler.unlink()
        assert "the start that was to make it failed" in agent.call("status").stdout
        assert agent.call("sync").returncode == 75, "only the console is missing"
        assert "ledger" not in agent.call("status").stdout


def test_a_ledger_that_an_agent_is_making_is_not_told_as_a_failed_start(tmp_path: Path) -> None:
    with AgentProcess(tmp_path / "box", "http://127.0.0.1:9/api", KEY) as agent:
        lock = hold(agent.state)
        (agent.state / "state.db").touch(0o600)
        told = agent.call("models")
        assert (told.returncode, "starts at this moment" in told.stderr) == (1, True), told.stderr
        os.close(lock)
        assert "failed" in agent.call("models").stderr


def test_an_agent_that_runs_since_before_an_upgrade_is_not_told_as_one_that_starts(tmp_path: Path) -> None:
    with AgentProcess(tmp_path / "box", "http://127.0.0.1:9/api", KEY) as agent:
        old_ledger(agent.state)
        lock = hold(agent.state)
        assert "of an older version; start the agent anew" in agent.call("models").stderr
        os.close(lock)
