"""Root's commands on a state folder that another user owns, and who plants links, pipes and hard links there. Needs root."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.rig.agent import AgentProcess
from tests.rig.faults import KEY, FaultyServer

NOBODY = 65534
NAMES = ("agent.lock", "state.db", "state.db-wal", "state.db-shm", "state.db-journal")
VERBS = (("retry",), ("pause",), ("status",), ("doctor", "--json"), ("prune",))


@pytest.fixture
def agent(place: Path) -> Iterator[AgentProcess]:
    assert os.geteuid() == 0, "only root can act as another user"
    with FaultyServer() as server:
        key_file = place / "key"
        key_file.write_text(KEY)
        key_file.chmod(0o600)  # root's
        with AgentProcess(place / "box", server.url, None, {"console": {"key_file": str(key_file)}}) as agent:
            agent.home.chmod(0o755)
            agent.state.mkdir(mode=0o750)
            for folder in (agent.drop, agent.mirror, agent.state):
                os.chown(folder, NOBODY, NOBODY)
            yield agent


def link(victim: Path, name: Path) -> None:
    name.symlink_to(victim)


def hard_link(victim: Path, name: Path) -> None:
    os.link(victim, name)


def fifo(victim: Path, name: Path) -> None:
    os.mkfifo(name)
    os.chown(name, NOBODY, NOBODY)


def facts_of(victim: Path) -> tuple[object, ...]:
    status = victim.stat()
    return (victim.read_bytes(), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns)


def test_what_root_does_is_done_as_the_owner_with_the_key_that_only_root_may_read(agent: AgentProcess) -> None:
    (agent.drop / "a.jsonl").write_text('{"a": 1}\n')
    agent.sync()
    assert "takes effect when one starts" in agent.call("pause").stdout
    made = [*agent.state.iterdir(), *(path for path in agent.drop.rglob("*") if path.name != "a.jsonl")]
    assert made
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(NOBODY, NOBODY)}


PLANTS = (link, hard_link, fifo)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("plant", PLANTS)
def test_nothing_outside_changes_whatever_lies_in_the_state_folder(
    name: str, plant: Callable[[Path, Path], None], agent: AgentProcess, place: Path
) -> None:
    """After `sync`, two of the verbs each time, so that every verb meets every name and every plant."""
    first = NAMES.index(name) + 2 * PLANTS.index(plant)
    victim = place / "shadow"
    victim.write_text("root:x:0:0\n")
    victim.chmod(0o600)
    before = facts_of(victim)
    plant(victim, agent.state / name)
    for words in (("sync",), *(VERBS * 3)[first : first + 2]):
        done = agent.call(*words, timeout=30)
        said = done.stdout + done.stderr
        assert "Traceback" not in said, said
        assert f"{agent.state}/{name}: " in said, (words, said)
        assert "move it away" in said
        assert facts_of(victim) == before
    (agent.state / name).unlink()
    agent.sync()
