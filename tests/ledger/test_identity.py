"""The name of an agent among others: it outlives the ledger."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from axomsync.ledger.identity import identity_of
from tests.rig.agent import AgentProcess

KNOWN = "0123456789ab"


def test_identity_stays_when_the_ledger_is_lost_or_replaced(tmp_path: Path) -> None:
    made = identity_of(tmp_path, None)
    assert (tmp_path / "identity").read_text() == f"{made}\n"
    assert identity_of(tmp_path, None) == identity_of(tmp_path, KNOWN) == made


def test_identity_of_an_older_ledger_is_written_to_the_file(tmp_path: Path) -> None:
    assert identity_of(tmp_path, KNOWN) == KNOWN
    assert identity_of(tmp_path, None) == KNOWN


PLANTS: dict[str, Callable[[Path, Path], object]] = {
    "link": lambda place, outside: place.symlink_to(outside),
    "fifo": lambda place, outside: os.mkfifo(place),
    "folder": lambda place, outside: place.mkdir(),
    "hard link": lambda place, outside: place.hardlink_to(outside),
    "other text": lambda place, outside: place.write_bytes(b"\xff../../etc" * 100),
    "nothing": lambda place, outside: place.touch(),
}


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
def test_identity_is_never_read_from_another_kind_of_file(tmp_path: Path, plant: Callable[[Path, Path], object]) -> None:
    outside, state = tmp_path / "outside", tmp_path / "state"
    outside.write_text("../elsewhere")
    state.mkdir()
    plant(state / "identity", outside)
    assert identity_of(state, KNOWN) == KNOWN
    assert outside.read_text() == "../elsewhere"


def test_agent_with_a_lost_ledger_keeps_its_identity(tmp_path: Path) -> None:
    with AgentProcess(tmp_path, "http://127.0.0.1:9", "axom_live_x", {"mirror": {"enabled": False}}) as agent:
        agent.call("sync")
        for file in agent.state.glob("state.db*"):
            file.unlink()
        agent.call("sync")
        assert [mark.name for mark in (agent.drop / ".axomsync" / "agents").iterdir()] == [
            (agent.state / "identity").read_text().strip()
        ]


def test_what_a_killed_life_left_of_the_file_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".axomsync-unfinished-0123").write_text("012")
    (tmp_path / "notes").write_text("a person's")
    identity_of(tmp_path, KNOWN)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["identity", "notes"]
