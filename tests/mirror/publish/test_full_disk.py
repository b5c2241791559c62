"""A real, small filesystem that becomes full at any moment, and has space again later: nothing else is needed."""

import json
import random
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from axomsync.core.errors import LocalFault
from axomsync.core.oserrors import full_disk
from axomsync.core.records import ModelState
from axomsync.ledger.database import sqlite_fault
from axomsync.mirror.publish.folder import MirrorFolder
from tests.mirror.inprocess import MirrorHere
from tests.rig.agent import AgentProcess, eventually
from tests.rig.disks import fill, loop_disk, small_disk
from tests.rig.faults import KEY, Content, Fault, FaultyServer

MIB = 1 << 20
FILES = {"a.bin": Content(5 * MIB, 1), "b/c.bin": Content(1000, 2), "d.bin": Content(3 * MIB, 3)}
EXT4 = ("mkfs.ext4", "-b", "4096", "-m", "0")
PIECE = 256 * 1024
REQUESTS = 8 * MIB // PIECE


@pytest.fixture
def disk(mirror: MirrorHere, tmp_path: Path) -> Iterator[Path]:
    with loop_disk(mirror.folder, tmp_path / "disk", 24 * MIB, *EXT4) as disk:
        yield disk


def test_disk_without_inodes_is_not_called_full(tmp_path: Path) -> None:
    """In the mirror, in the ledger, and at all other places where the system reports a full disk."""
    with small_disk(tmp_path / "disk", "size=8m,nr_inodes=20") as disk:
        place = MirrorFolder(disk, "here")
        deep = {f"{number}/c.bin": 1 for number in range(20)}
        with pytest.raises(LocalFault, match="no inodes are left on the disk"):
            place.staging.prepare("m", deep)
        assert full_disk(str(disk / "not" / "there")) == full_disk(str(disk).encode())
        with pytest.raises(sqlite3.OperationalError) as error:
            sqlite3.connect(disk / "state.db").execute("CREATE TABLE t (x)")
        assert "no inodes are left on the disk" in str(sqlite_fault(error.value, disk / "state.db"))


def test_full_disk_at_ten_moments(server: FaultyServer, mirror: MirrorHere, disk: Path) -> None:
    server.longest_answer = PIECE
    outcomes = []
    for number in range(10):
        model_id = server.add_model(f"chassis-{number}", "v1", FILES)
        server.inject(Fault(first=lambda: fill(disk)), f"/{model_id}/", skip=number * REQUESTS // 10)
        mirror.sync()
        blocked = mirror.model(model_id)
        outcomes.append(blocked.state)
        if blocked.state != ModelState.PUBLISHED:
            assert blocked.state == ModelState.BLOCKED
            assert "free" in (blocked.reason or "")
            assert not (disk / blocked.name).exists(), "not even a folder"
        (disk / "filler").unlink()
        mirror.sync()
        published = mirror.model(model_id)
        assert published.state == ModelState.PUBLISHED, published.reason
        folder = Path(str(published.path))
        assert [fault for rel, content in FILES.items() if (fault := content.fault_in(folder / rel))] == []
        subprocess.run(["rm", "-r", disk / published.name], check=True)
        server.models.clear()
    assert outcomes.count(ModelState.BLOCKED) >= 5


@pytest.mark.stress
@pytest.mark.parametrize("ledger", ["elsewhere", "on the same disk"])
def test_full_disk_at_random_moments(tmp_path: Path, server: FaultyServer, ledger: str) -> None:
    """The only help is more space."""
    dice, box = random.Random(ledger), tmp_path / "box"
    box.mkdir()
    server.rate, server.longest_answer = 4_000_000, PIECE
    states, moments = [], 10
    with ExitStack() as stack:
        disk = stack.enter_context(loop_disk(box, tmp_path / "disk", 24 * MIB, *EXT4))
        state = (disk if ledger == "on the same disk" else tmp_path) / "state"
        (disk / "models").mkdir()
        config = {
            "drop": {"enabled": False},
            "mirror": {"folder": str(disk / "models")},
            "state": {"folder": str(state)},
        }
        agent = stack.enter_context(AgentProcess(tmp_path / "home", server.url, KEY, config))
        agent.start()
        for number in range(moments):
            enough = server.sent() + dice.randrange(8 * MIB)
            model_id = server.add_model(f"chassis-{number}", "v1", FILES)
            folder = disk / "models" / f"chassis-{number}" / "v1"
            eventually("that many bytes", lambda n=enough: server.sent() >= n)
            fill(disk)
            told = len(agent.log())
            fill(disk)
            states.append(eventually("an end", lambda f=folder, i=model_id, t=told: ended(agent, i, f, t)))
            (disk / "filler").unlink()
            eventually("a published model", folder.exists)
            assert [fault for rel, content in FILES.items() if (fault := content.fault_in(folder / rel))] == []
            eventually("its row", lambda i=model_id: seen(agent, i) == "published")
            server.models.clear()
            subprocess.run(["rm", "-r", folder.parent], check=True)
        assert agent.terminate() == 0
    assert states.count("blocked") >= moments // 3, states


def ended(agent: AgentProcess, model_id: str, folder: Path, told: int) -> str | None:
    """The preliminary result. Without space for the ledger only the log can tell it."""
    if folder.exists():
        return "published"
    return "blocked" if "free" in agent.log()[told:] or seen(agent, model_id) == "blocked" else None


def seen(agent: AgentProcess, model_id: str) -> str | None:
    """The log lines about a model that the agent has given up for now."""
    done = agent.call("models", "--json")
    rows = json.loads(done.stdout) if done.stdout else []
    states = [row["state"] for row in rows if row["id"] == model_id]
    return states[0] if states and states[0] in ("blocked", "published") else None
