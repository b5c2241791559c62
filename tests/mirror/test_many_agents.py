"""Four agents with their own ledgers on one mirror folder, killed and started at random: they can't harm each other."""

import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.mirror.test_lives import faults_in
from tests.rig.agent import AgentProcess, eventually
from tests.rig.faults import KEY, Content, FaultyServer

MODELS = 8
KILLS = 12


def files(number: int) -> dict[str, Content]:
    return {"a.bin": Content(2_000_000, number), "b/c.bin": Content(1000 + number, number)}


@pytest.fixture
def agents(tmp_path: Path, server: FaultyServer) -> Iterator[list[AgentProcess]]:
    mirror = {"folder": str(tmp_path / "shared")}
    (tmp_path / "shared").mkdir()
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                AgentProcess(tmp_path / f"box-{n}", server.url, KEY, {"drop": {"enabled": False}, "mirror": mirror})
            )
            for n in range(4)
        ]


def test_four_agents_on_one_mirror_folder(server: FaultyServer, agents: list[AgentProcess], tmp_path: Path) -> None:
    dice, shared = random.Random(7), tmp_path / "shared"
    server.rate = 3_000_000
    for number in range(MODELS):
        server.add_model("chassis", f"v{number}", files(number))
    for agent in agents:
        agent.launch("run")
    for _ in range(KILLS):
        agent = dice.choice(agents)
        enough = server.sent() + 500_000
        eventually("some bytes more", lambda n=enough: server.sent() >= n or whole(shared) == MODELS)
        agent.kill()
        assert [fault for n in range(MODELS) if (shared / f"chassis/v{n}").exists() for fault in faults(shared, n)] == []
        agent.launch("run")
    eventually("every model", lambda: whole(shared) == MODELS, patience=60)
    assert [fault for n in range(MODELS) for fault in faults(shared, n)] == []
    assert (shared / "chassis" / "current").readlink() == Path(f"v{MODELS - 1}")
    assert sorted(path.name for path in (shared / "chassis").iterdir()) == ["current", *(f"v{n}" for n in range(MODELS))]
    for agent in agents:
        eventually(
            "a ledger that knows all of them",
            lambda a=agent: a.status()["mirror"]["counts"]["published"] == MODELS,
        )
        assert agent.terminate() == 0


def faults(shared: Path, number: int) -> list[str]:
    return faults_in(shared / f"chassis/v{number}", files(number))


def whole(shared: Path) -> int:
    return len(list(shared.glob("chassis/v*/.axomsync.json")))
