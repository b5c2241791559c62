"""An installation before a server that can misbehave, for tests of single verbs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.agent import AgentProcess
from tests.rig.faults import KEY, FaultyServer


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        yield server


@pytest.fixture
def agent(tmp_path: Path, server: FaultyServer) -> Iterator[AgentProcess]:
    with AgentProcess(tmp_path / "box", server.url, KEY) as agent:
        yield agent
