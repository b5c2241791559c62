"""Files that another user of the drop folder's group plants in the agent's places: nothing outside of the folder changes.

The agent is root here, and no permission would keep it from following a link. Root plants hard links, since kernels may
forbid them to others; the other user plants everything else.
"""

import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from axomsync.core.records import UploadState
from axomsync.ledger import Reader
from axomsync.sandbox.console import Sandbox
from tests.drop.conftest import dataset, sha256, stored
from tests.drop.inprocess import DropHere, ledger_template
from tests.rig.agent import AgentProcess

STRANGER, GROUP = 65534, 60
IDENTITY = "0123456789ab"
GOOD, BROKEN = dataset("a"), b"broken\n"

# Each planted file and its place, as a command of the other user; the hard link as root.
PLANTS = {
    "link": 'ln -s "$OUTSIDE/file" "$PLACE"',
    "link to a folder": 'ln -s "$OUTSIDE" "$PLACE"',
    "dangling link": 'ln -s "$OUTSIDE/absent" "$PLACE"',
    "fifo": 'mkfifo "$PLACE"',
    "folder": 'mkdir "$PLACE" && touch "$PLACE/full"',
    "hard link": "",
}


def claim_of(name: str, data: bytes = GOOD) -> str:
    return hashlib.sha256(f"{sha256(data)}/{name}".encode()).hexdigest()


PLACES = [
    "uploaded", "uploaded/x", "uploaded/x/a.jsonl", "uploaded/x/a.jsonl.receipt.json",
    "uploaded/x/.a.jsonl.receipt.json.part",
    "rejected", "rejected/x", "rejected/x/b.jsonl", "rejected/x/b.jsonl.reason.txt", "rejected/x/.b.jsonl.reason.txt.part",
    ".axomsync", ".axomsync/agents", ".axomsync/claims", ".axomsync/agents/here",
    f".axomsync/claims/{claim_of('a.jsonl')}", f".axomsync/claims/{claim_of('a.jsonl')}.json",
    f".axomsync/claims/{claim_of('a.jsonl')}.judged", f".axomsync/claims/{claim_of('a.jsonl')}.json.here",
    ".axomsync-deleting-1", "x/.axomsync-deleting-1",
]  # fmt: skip


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that every user can enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="axomsync-planted-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture
def outside(home: Path) -> Iterator[Path]:
    folder = home / "outside"
    folder.mkdir()
    for name in ("file", "other"):
        (folder / name).write_text("mine")
    before = looks(folder)
    yield folder
    assert looks(folder) == before


def looks(folder: Path) -> list[tuple[str, str, int, int, int]]:
    entries = []
    for path in sorted(folder.iterdir()):
        status = path.stat()
        entries.append((path.name, path.read_text(), status.st_mode, status.st_uid, status.st_mtime_ns))
    return entries


def plant(place: Path, kind: str, outside: Path) -> None:
    missing = [folder for folder in (place.parent, *place.parent.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir()
        os.chown(folder, 0, GROUP)
        folder.chmod(0o2775)
    if kind == "hard link":
        place.hardlink_to(outside / "file")
        return
    stranger = ("setpriv", f"--reuid={STRANGER}", f"--regid={GROUP}", "--clear-groups", "sh", "-c", PLANTS[kind])
    subprocess.run(stranger, env={**os.environ, "PLACE": str(place), "OUTSIDE": str(outside)}, check=True)


def shared(folder: Path) -> None:
    os.chown(folder, 0, GROUP)
    folder.chmod(0o2770)


@pytest.mark.timeout(90)  # an agent that waits for a FIFO
@pytest.mark.parametrize("after", ["archive", "delete"])
@pytest.mark.parametrize("kind", PLANTS)
def test_planted_file_in_any_place_changes_nothing_outside_and_stops_nothing(
    home: Path, outside: Path, tmp_path: Path, kind: str, after: str
) -> None:
    template = ledger_template(tmp_path / "template")
    for number, place in enumerate(PLACES):
        here = DropHere(home / str(number), template, after=after)
        shared(here.folder)
        (here.folder / "x").mkdir()
        shared(here.folder / "x")
        (here.folder / "x" / "a.jsonl").write_bytes(GOOD)
        (here.folder / "x" / "b.jsonl").write_bytes(BROKEN)
        plant(here.folder / place, kind, outside)
        for _ in range(2):
            here.live()
            here.clocks.advance(7200)
        kept = [path for path in here.folder.rglob("*.jsonl") if path.is_file() and path.read_bytes() == GOOD]
        sent = list(here.far.objects.values())
        assert sent == [GOOD] if sent else kept, place
        waiting = here.read(Reader.uploads_in_drop)
        told = [row.reason for row in waiting] + [problem.reason for problem in here.read(Reader.problems)]
        assert all(row.reason for row in waiting), (place, waiting)
        assert not waiting or any(str(here.folder) in (reason or "") or "another agent" in (reason or "") for reason in told)


def test_thirty_planted_files_change_nothing_outside_by_any_system_call(home: Path, outside: Path, sandbox: Sandbox) -> None:
    config = {"mirror": {"enabled": False}}
    with AgentProcess(home / "agent", sandbox.url, sandbox.key, config) as agent:
        agent.state.mkdir(mode=0o750)
        (agent.state / "identity").write_text(IDENTITY)
        shared(agent.drop)
        planted, names = [], []
        for number, kind in enumerate(PLANTS):
            folder, name = f"n{number}", f"{number}.jsonl"
            names.append(name)
            for each in ("u", "v", "w"):
                (agent.drop / f"{folder}{each}").mkdir()
            (agent.drop / f"{folder}u" / name).write_bytes(GOOD)
            (agent.drop / f"{folder}v" / "b.jsonl").write_bytes(BROKEN)
            (agent.drop / f"{folder}w" / f"w{name}").write_bytes(GOOD)
            claim = claim_of(name)
            for place in (
                f"uploaded/{folder}u/{name}.receipt.json", f"uploaded/{folder}u/.{name}.receipt.json.part",
                f"rejected/{folder}v/b.jsonl.reason.txt", f"uploaded/{folder}w",
                f".axomsync/claims/{claim}.json", f".axomsync/claims/{claim}.judged",
            ):  # fmt: skip
                plant(agent.drop / place, kind, outside)
                planted.append(place)
        plant(agent.drop / ".axomsync" / "agents" / IDENTITY, "hard link", outside)
        assert len(planted) >= 30

        trace = home / "trace"
        calls = "openat,open,creat,renameat2,rename,renameat,unlink,unlinkat,mkdir,mkdirat,symlink,symlinkat,link,linkat"
        calls += ",chmod,fchmod,fchmodat,chown,fchown,lchown,fchownat,utimensat,truncate,ftruncate,mknod,mknodat"
        agent.launch("sync", prefix=("strace", "-f", "-qq", "-y", "--seccomp-bpf", "-o", str(trace), "-e", f"trace={calls}"))
        assert agent.wait() == 1, agent.log()  # rejected files

        seen = trace.read_text()
        assert "/drop/uploaded>" in seen, "it was traced"
        touched = [line for line in seen.splitlines() if str(outside) in line and not re.search(r" = -1 E", line)]
        assert touched == []
        made = [line for line in seen.splitlines() if "O_CREAT" in line and f"<{agent.drop}" in line]
        assert made, "receipts and reasons were written"
        assert [line for line in made if "O_EXCL" not in line or "O_NOFOLLOW" not in line] == []
        objects = stored(sandbox)
        assert all(objects[name] == [GOOD] and objects[f"w{name}"] == [GOOD] for name in names)
        assert [row["state"] for row in agent.uploads()].count("rejected") == len(PLANTS)


def test_folder_that_becomes_a_link_during_a_scan_is_not_followed(home: Path, outside: Path, tmp_path: Path) -> None:
    here = DropHere(home / "here", ledger_template(tmp_path / "template"))
    (here.folder / "x").mkdir()
    (here.folder / "x" / "a.jsonl").write_bytes(GOOD)
    here.far.faults.extend(["refused"] * 4)
    here.live()
    (here.folder / "x").rename(home / "away")
    (here.folder / "x").symlink_to(home / "away")  # the same file, by another path
    here.clocks.advance(7200)
    here.live()
    assert here.far.objects == {}
    assert [row.state for row, _ in here.uploads()] in ([], [UploadState.FAILED])
