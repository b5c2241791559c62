"""Failures of the watch: limits of inotify are named, scans find files that an overflowing queue missed.

Network filesystems are polled, no link is followed, a folder that does not answer delays no scan, and the death of any
thread of the watch is noticed.
"""

import ctypes
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from axomsync.drop.watch import SLOW, TOO_DEEP, Watcher
from axomsync.ops import logs
from axomsync.sandbox.console import Sandbox
from tests.drop.conftest import AgentFactory, dataset, stored
from tests.rig.agent import AgentProcess, eventually

# Limits for one agent alone: those of a new user namespace.
LIMITED = ("unshare", "--user", "--map-root-user", "sh", "-c")
QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")


def limited(name: str, most: int) -> tuple[str, ...]:
    return (*LIMITED, f'echo {most} > /proc/sys/user/{name}; exec "$@"', "sh")


def is_stopped(task: Path) -> bool:
    """Check that the thread is stopped: its state follows its name, which is in brackets (proc_pid_stat(5))."""
    return (task / "stat").read_text().rpartition(")")[2].split()[0] == "T"


def problems(agent: AgentProcess) -> dict[str, str]:
    return {problem["subject"]: problem["reason"] for problem in agent.status()["problems"]}


@pytest.mark.parametrize(
    ("name", "most", "sysctl"),
    [
        ("max_inotify_instances", 0, "fs.inotify.max_user_instances"),
        ("max_inotify_watches", 0, "fs.inotify.max_user_watches"),
        ("max_inotify_watches", 2, "fs.inotify.max_user_watches"),  # enough for the root, not for all folders below it
    ],
)
def test_inotify_limit_is_reported_by_name_and_scans_go_on(
    sandbox: Sandbox, make_agent: AgentFactory, name: str, most: int, sysctl: str
) -> None:
    agent = make_agent(sandbox, rescan="300ms")
    for folder in "abcd":
        (agent.drop / folder).mkdir()
    agent.start(*limited(name, most))
    for folder in "abcd":
        (agent.drop / folder / f"{folder}.jsonl").write_bytes(dataset(folder))
    eventually("all receipts", lambda: len(list(agent.drop.rglob("*.receipt.json"))) == 4)
    assert stored(sandbox) == {f"{folder}.jsonl": [dataset(folder)] for folder in "abcd"}
    told = problems(agent)["watching the drop folder"]
    assert f"raise {sysctl}; it is scanned every rescan instead" in told
    assert agent.log().count(sysctl) == 1
    assert agent.process is not None
    threads = len(os.listdir(f"/proc/{agent.process.pid}/task"))
    assert threads < 60  # an observer that could not start leaves no thread behind

    if most:
        limit = f"echo 1000 > /proc/sys/user/{name}"
        os.system(f"nsenter --user --target {agent.process.pid} sh -c '{limit}'")
        eventually("a watch on all folders", lambda: "watching the drop folder: works again" in agent.log())
        eventually("a ledger that knows it", lambda: not problems(agent))  # it is written after the log
    assert agent.terminate() == 0


def test_queue_overflow_loses_no_file_and_new_folders_are_watched(sandbox: Sandbox, make_agent: AgentFactory) -> None:
    agent = make_agent(sandbox, rescan="1h")
    agent.start()
    assert agent.process is not None
    eventually("a watch", lambda: agent.status()["drop"]["observer"] == "inotify")
    agent.process.send_signal(signal.SIGSTOP)
    tasks = Path(f"/proc/{agent.process.pid}/task")
    eventually("a stop of all threads", lambda: all(is_stopped(task) for task in tasks.iterdir()))  # else one may read
    one, other = agent.drop / ".one", agent.drop / ".other"
    one.touch()
    for _ in range(int(QUEUE.read_text()) // 3):  # a rename gives two events
        os.rename(one, other)
        os.rename(other, one)
    (agent.drop / "x" / "y").mkdir(parents=True)
    (agent.drop / "x" / "y" / "a.jsonl").write_bytes(dataset("a"))
    agent.process.send_signal(signal.SIGCONT)
    eventually("the file in the archive", (agent.drop / "uploaded" / "x" / "y" / "a.jsonl.receipt.json").exists)
    eventually("the overflow, and that it was noticed", lambda: "reconciling recursive watches" in agent.log())
    (agent.drop / "x" / "y" / "b.jsonl").write_bytes(dataset("b"))

    def is_seen() -> bool:
        # The new watches follow the line in the log; files from before wait for the next event there, or for `rescan`.
        # Not `touch`: a second one only changes times, and gives no hint.
        (agent.drop / "x" / "y" / ".hint").write_bytes(b"")
        return (agent.drop / "uploaded" / "x" / "y" / "b.jsonl.receipt.json").exists()

    eventually("the next one, by an event of its folder", is_seen)
    assert agent.terminate() == 0


def test_network_filesystem_is_polled(sandbox: Sandbox, make_agent: AgentFactory, tmp_path: Path) -> None:
    agent = make_agent(sandbox, rescan="1h")
    told = f"999 1 0:99 / {os.path.realpath(agent.drop)} rw,relatime - nfs4 server:/export rw\n"
    mounts = tmp_path / "mountinfo"
    mounts.write_text(Path("/proc/self/mountinfo").read_text() + told)
    agent.start("unshare", "--mount", "sh", "-c", f'mount --bind {mounts} /proc/$$/mountinfo; exec "$@"', "sh")
    eventually("a watch", lambda: agent.status()["drop"]["observer"] == "polling")
    (agent.drop / "a.jsonl").write_bytes(dataset("a"))
    eventually("a receipt", (agent.drop / "uploaded" / "a.jsonl.receipt.json").exists)
    assert agent.terminate() == 0


def test_polling_follows_no_link(sandbox: Sandbox, make_agent: AgentFactory, tmp_path: Path) -> None:
    agent = make_agent(sandbox, rescan="1h", observer="polling")
    (tmp_path / "elsewhere").mkdir()
    for name, target in (("one", "."), ("two", "."), ("root", "/"), ("elsewhere", tmp_path / "elsewhere")):
        (agent.drop / name).symlink_to(target)
    (agent.drop / "early.jsonl").write_bytes(dataset("early"))
    agent.start()
    eventually("the file of before", (agent.drop / "uploaded" / "early.jsonl.receipt.json").exists)
    eventually("a watch", lambda: agent.status()["drop"]["observer"] == "polling")
    (agent.drop / "sub").mkdir()
    (agent.drop / "sub" / "late.jsonl").write_bytes(dataset("late"))
    eventually("a new file", (agent.drop / "uploaded" / "sub" / "late.jsonl.receipt.json").exists)
    assert set(stored(sandbox)) == {"early.jsonl", "late.jsonl"}
    assert not problems(agent)
    assert agent.terminate() == 0


POLL = """
import os, sys, threading
from pathlib import Path
from axomsync.drop.watch import Watcher
opened, main = set(), threading.main_thread()
def note(event, args):
    if event == "open" and threading.current_thread() is not main:
        opened.add(os.fsdecode(args[0]))
sys.addaudithook(note)
watcher = Watcher(Path(sys.argv[1]), "polling", lambda: None)
watcher.heal()
print(watcher.kind, watcher.fault, sorted(opened & {"a", "b", "uploaded", "rejected", ".axomsync", ".git", "c.part"}))
"""


def test_polling_reads_the_folders_that_the_scan_reads(tmp_path: Path) -> None:
    for name in ("a/b/uploaded", "uploaded/b", "rejected", ".axomsync", ".git", "a/.git", "c.part"):
        (tmp_path / name).mkdir(parents=True)
    poll = subprocess.run([sys.executable, "-c", POLL, tmp_path], capture_output=True, text=True, check=True)
    assert (poll.stdout, poll.stderr) == ("polling None ['a', 'b', 'uploaded']\n", "")  # only the one below a/b
    (tmp_path / "a" / "b" / "uploaded").rmdir()
    poll = subprocess.run([sys.executable, "-c", POLL, tmp_path], capture_output=True, text=True, check=True)
    assert poll.stdout == "polling None ['a', 'b']\n"


# A disk that does not answer: outside of the main thread, which scans, the first look into a folder waits for an event.
SLOW_DISK = """
import sys, threading
from pathlib import Path
from axomsync.drop.watch import Watcher, scan
root, mode = Path(sys.argv[1]), sys.argv[2]
answers, woken, main = threading.Event(), threading.Event(), threading.main_thread()
def wait(event, args):
    if event in ("os.scandir", "os.listdir") and threading.current_thread() is not main:
        answers.wait()
sys.addaudithook(wait)
watcher = Watcher(root, mode, woken.set)
for _ in range(2):
    watcher.heal()
    print(watcher.kind, watcher.works(), woken.is_set(), watcher.fault)
    print(sorted(scan(root, ["*"], [], "", lambda: None).found))
answers.set()
assert woken.wait(10), "a file that came meanwhile waits for the next scan"
watcher.heal()
print(watcher.kind, watcher.works(), watcher.fault)
answers.clear()
gone = Watcher(root, mode, woken.set)
gone.heal()
gone.stop()
watcher.stop()
answers.set()
for thread in threading.enumerate():
    if thread is not main:
        thread.join(10)
print(threading.enumerate() == [main])
"""


@pytest.mark.parametrize("mode", ["inotify", "polling"])
def test_folder_that_does_not_answer_delays_no_scan(tmp_path: Path, mode: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.jsonl").touch()
    script = [sys.executable, "-c", SLOW_DISK, str(tmp_path), mode]
    told = subprocess.run(script, capture_output=True, text=True, check=True, timeout=60)
    waiting = [f"not watching True False {SLOW}", "[b'a/b.jsonl']"]
    assert told.stdout.splitlines() == [*waiting, *waiting, f"{mode} True None", "True"], told.stderr


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A folder with more folders within folders than Python may have calls within calls; so pytest can't remove it."""
    top = tmp_path / "deep"
    top.mkdir()
    folder = os.open(top, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("a", dir_fd=folder)
        inner = os.open("a", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    yield top
    subprocess.run(["rm", "-r", top], check=True)


@pytest.mark.parametrize("mode", ["inotify", "polling"])
def test_folders_that_are_nested_too_deep_are_told_and_end_nothing(deep: Path, mode: Literal["inotify", "polling"]) -> None:
    watcher = Watcher(deep, mode, lambda: None)

    def fault() -> str | None:
        watcher.heal()
        return watcher.fault

    if mode == "inotify" and sys.version_info >= (3, 12):  # its os.walk does not call itself
        eventually("a watch of all", lambda: fault() is None and watcher.kind == mode)
        watcher.stop()
        return
    eventually("the fault", lambda: fault() == TOO_DEEP)
    assert watcher.kind == "not watching"
    assert fault() == TOO_DEEP  # also while it is tried again
    subprocess.run(["rm", "-r", deep / "a"], check=True)
    eventually("a watch", lambda: fault() is None)
    assert watcher.kind == mode
    watcher.stop()


MAKE_FOLDERS = """
import sys, threading
from pathlib import Path
from axomsync.drop.watch import Watcher
root, woken = Path(sys.argv[1]), threading.Event()
watcher = Watcher(root, "inotify", woken.set)
watcher.heal()
woken.clear()
for number in range(200):
    (root / f"{number}/a/b/c").mkdir(parents=True)
assert woken.wait(10)
"""


def test_folders_made_during_the_search_cause_no_warning(tmp_path: Path) -> None:
    watching = subprocess.run([sys.executable, "-c", MAKE_FOLDERS, tmp_path], capture_output=True, text=True, check=True)
    assert watching.stdout + watching.stderr == ""


def watching() -> list[threading.Thread]:
    """All threads of the library: some are behind the observer and its emitters."""
    return [thread for thread in threading.enumerate() if type(thread).__module__.startswith("watchdog.")]


def hit(thread: threading.Thread, root: Path) -> None:
    """Raise an exception in a thread; it arrives when the thread wakes."""
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(KeyError))

    def has_ended() -> bool:
        (root / "noise").write_bytes(b"")
        return not thread.is_alive()

    eventually("the end of the thread", has_ended)


def test_dead_thread_of_the_watch_is_logged_in_one_line_and_restarted(tmp_path: Path, stream: io.StringIO) -> None:
    logs.set_up("console", "info", {}, stream)
    woken = threading.Event()
    watcher = Watcher(tmp_path, "inotify", woken.set)
    watcher.heal()
    kinds, of_before = {type(thread) for thread in watching()}, set[threading.Thread]()
    assert len(kinds) >= 2
    for kind in kinds:
        hit(next(thread for thread in watching() if type(thread) is kind and thread not in of_before), tmp_path)
        assert not watcher.works(), kind
        of_before.update(watching())  # a thread that waits for a lock of the dead one stays
        watcher.heal()
        assert watcher.works(), kind
        assert watcher.fault is None
        woken.clear()
        (tmp_path / kind.__name__).write_bytes(b"")
        assert woken.wait(10), kind
    watcher.stop()
    told = stream.getvalue().splitlines()
    assert len(told) == len(kinds), told
    assert all("a thread of watchdog ended (KeyError: ); it is begun again" in line for line in told)
