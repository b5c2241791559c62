"""Shared by the mirror's tests: a server that can misbehave, and agents that mirror from it, as a process or in this one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mirror.inprocess import MirrorHere
from tests.rig.agent import AgentProcess
from tests.rig.faults import KEY, FaultyServer


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    """In every test storage sees neither the key nor a cookie."""
    with FaultyServer() as server:
        yield server
        for request in server.storage_requests():
            assert not {"authorization", "cookie", "x-api-key"} & set(request.headers), request
            assert KEY not in str(request)


@pytest.fixture
def agent(tmp_path: Path, server: FaultyServer) -> Iterator[AgentProcess]:
    with AgentProcess(tmp_path / "box", server.url, KEY, {"drop": {"enabled": False}}) as agent:
        yield agent


@pytest.fixture
def mirror(tmp_path: Path, server: FaultyServer) -> Iterator[MirrorHere]:
    with MirrorHere(tmp_path / "here", server) as mirror:
        yield mirror
