"""A gate before publication: nothing appears that it did not pass, and only what it passed."""

import ctypes
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from axomsync.core.records import ModelState
from axomsync.runtime.gates import Gates
from tests.mirror.inprocess import MirrorHere
from tests.rig.agent import eventually
from tests.rig.faults import Content, FaultyServer
from tests.rig.gatekeepers import Gatekeeper

FILES = {"a.bin": Content(300_000, 1), "sub/b.bin": Content(5000, 2), "config.json": Content(20, head=b'{"r": 8}')}
IN_MOVED_TO, IN_CREATE = 0x80, 0x100
NO = 'print("first"); print("it is not signed"); sys.exit(1)'


@pytest.fixture
def keeper(tmp_path: Path) -> Gatekeeper:
    return Gatekeeper(tmp_path)


class Watcher:
    """Names that appear in a folder, as inotify(7) tells."""

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert libc.inotify_add_watch(self.descriptor, os.fsencode(folder), IN_CREATE | IN_MOVED_TO) > 0

    def seen(self) -> list[str]:
        """The names since the last call, without the inner part of the mirror folder."""
        names, events = [], b""
        with suppress(BlockingIOError):
            events = os.read(self.descriptor, 1 << 16)
        while events:
            _, _, _, length = struct.unpack_from("iIII", events)
            names.append(os.fsdecode(events[16 : 16 + length].rstrip(b"\0")))
            events = events[16 + length :]
        return [name for name in names if name != ".axomsync"]


@pytest.fixture
def watcher(mirror: MirrorHere) -> Iterator[Watcher]:
    watcher = Watcher(mirror.folder)
    yield watcher
    os.close(watcher.descriptor)


def outside(mirror: MirrorHere) -> list[str]:
    return sorted(path.name for path in mirror.folder.iterdir() if path.name != ".axomsync")


def published(mirror: MirrorHere, name: str = "bot/v1") -> dict[str, bytes]:
    folder = mirror.folder / name
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name[0] != "."}


def whole() -> dict[str, bytes]:
    return {rel: b"".join(map(bytes, content.pieces())) for rel, content in FILES.items()}


def test_nobody_sees_a_path_that_the_gate_has_not_passed(
    mirror: MirrorHere, server: FaultyServer, keeper: Gatekeeper, watcher: Watcher, tmp_path: Path
) -> None:
    server.add_model("bot", "v1", FILES)
    go = tmp_path / "go"
    mirror.gates = keeper.gates(
        f"""
names = sorted(os.path.relpath(os.path.join(folder, name), place) for folder, _, names in os.walk(place) for name in names)
assert names == [".axomsync.json", "a.bin", "config.json", "sub/b.bin"], names
assert os.stat(place).st_mode & 0o777 == 0o755 and event["model"]["name"] == "bot", event
while not os.path.exists({str(go)!r}):
    time.sleep(0.005)
"""
    )
    work = threading.Thread(target=mirror.sync)
    work.start()
    eventually("the gate", lambda: keeper.asked() == ["before_publish"])
    assert (outside(mirror), watcher.seen()) == ([], [])
    go.touch()
    work.join()
    assert published(mirror) == whole()
    assert watcher.seen() == ["bot"]
    assert mirror.models()[0].reason is None


def test_a_no_blocks_the_model_with_the_last_line(
    mirror: MirrorHere, server: FaultyServer, keeper: Gatekeeper, watcher: Watcher
) -> None:
    model_id = server.add_model("bot", "v1", FILES)
    mirror.settings["poll"] = "1s"
    mirror.gates = keeper.gates(NO)
    with mirror.running() as loop:
        eventually("the no", lambda: [row.state for row in mirror.models()] == [ModelState.BLOCKED])
        polls = len(server.requests)
        loop.hurry()
        eventually("another poll", lambda: len(server.requests) > polls)
    row = mirror.model(model_id)
    assert row.reason == "[hooks] before_publish: it is not signed"
    assert keeper.asked() == ["before_publish"]  # no question at each poll
    assert (row.next_attempt or 0) > row.updated_at + 3000
    assert (outside(mirror), watcher.seen()) == ([], [])
    mirror.gates = Gates()
    mirror.sync()
    assert published(mirror) == whole()


@pytest.mark.parametrize("program", ["sys.exit(75)", "os.kill(os.getpid(), signal.SIGKILL)", "time.sleep(100)"])
def test_a_gate_that_did_not_judge_is_asked_again(
    mirror: MirrorHere, server: FaultyServer, keeper: Gatekeeper, program: str
) -> None:
    server.add_model("bot", "v1", FILES)
    mirror.gates = keeper.gates(program, timeout="1s")
    mirror.sync()
    [row] = mirror.models()
    assert row.state is ModelState.QUEUED
    assert "[hooks] before_publish: " in (row.reason or "")
    assert outside(mirror) == []
    mirror.gates = keeper.gates("")
    mirror.sync()
    assert published(mirror) == whole()
    assert keeper.asked() == ["before_publish"] * 2


SWAPS = {
    "a write in place, with the same size and times": """
path, before = place + "/a.bin", os.stat(place + "/a.bin")
with open(path, "r+b") as file:
    file.seek(1000); file.write(b"evil")
os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
""",
    "another file in its place, with the same size and times": """
path, before = place + "/a.bin", os.stat(place + "/a.bin")
open(place + "/x", "wb").write(b"e" * before.st_size)
os.utime(place + "/x", ns=(before.st_atime_ns, before.st_mtime_ns))
os.chmod(place + "/x", before.st_mode); os.rename(place + "/x", path)
""",
    "one more file": 'open(place + "/sub/run.pkl", "wb").write(b"evil")',
    "one less": 'os.remove(place + "/sub/b.bin")',
    "a link": 'os.remove(place + "/a.bin"); os.symlink("/etc/passwd", place + "/a.bin")',
    "a folder as a link": 'os.rename(place + "/sub", place + "/../gone"); os.symlink("/etc", place + "/sub")',
    "its rights": 'os.chmod(place + "/a.bin", 0o777)',
    "its record": 'open(place + "/.axomsync.json", "a").write(" ")',
    "a process that goes on": """
if os.fork() == 0:
    os.setsid(); os.close(1); os.close(2)
    before = os.stat(place + "/a.bin")
    open(place + "/a.bin", "r+b").write(b"evil")
    open(os.path.dirname(place) + "/written", "w").close()
    os._exit(0)
while not os.path.exists(os.path.dirname(place) + "/written"):
    time.sleep(0.001)
""",
}


@pytest.mark.parametrize("swap", SWAPS)
def test_a_gate_that_changes_what_it_looks_at_is_caught(
    mirror: MirrorHere, server: FaultyServer, keeper: Gatekeeper, watcher: Watcher, swap: str
) -> None:
    server.add_model("bot", "v1", FILES)
    mirror.gates = keeper.gates(SWAPS[swap])
    mirror.sync()
    [row] = mirror.models()
    assert row.state is ModelState.BLOCKED
    assert "changed while it looked, and is not what it passed; a gate must only read" in (row.reason or "")
    assert (outside(mirror), watcher.seen()) == ([], [])
    mirror.gates = keeper.gates("")
    mirror.sync()
    assert published(mirror) == whole()
    assert Path("/etc/passwd").exists()


def test_what_only_looks_like_a_change_is_read_again_and_passes(
    mirror: MirrorHere, server: FaultyServer, keeper: Gatekeeper
) -> None:
    server.add_model("bot", "v1", FILES)
    mirror.gates = keeper.gates('os.link(place + "/a.bin", place + "/../x"); os.remove(place + "/../x")')
    mirror.sync()
    assert published(mirror) == whole()


def test_files_that_join_a_published_model_pass_the_gate_first(
    mirror: MirrorHere, server: FaultyServer, keeper: Gatekeeper
) -> None:
    server.add_model("bot", "v1", FILES)
    mirror.settings["files"] = ["*.json"]
    mirror.sync()
    mirror.settings["files"] = ["*"]
    mirror.gates = keeper.gates(NO)
    mirror.sync()
    assert list(published(mirror)) == ["config.json"]
    mirror.gates = keeper.gates(SWAPS["a write in place, with the same size and times"])
    mirror.sync()
    assert list(published(mirror)) == ["config.json"]
    mirror.gates = keeper.gates("")
    mirror.sync()
    assert published(mirror) == whole()
