"""Shared by the tests of gateways: storage that can misbehave, gateways before it, and a mirror that knows them."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.mirror.inprocess import MirrorHere
from tests.rig.faults import FaultyServer
from tests.rig.gateway import Gateway


@pytest.fixture
def gateway(tmp_path: Path, server: FaultyServer) -> Iterator[Gateway]:
    with Gateway(tmp_path / "gateway", [server.endpoint]) as gateway:
        yield gateway
        assert "X-Amz" not in gateway.all_logged()  # no signature in any log, whatever the test did


@pytest.fixture
def ring(tmp_path: Path, server: FaultyServer) -> Iterator[list[Gateway]]:
    """Three gateways."""
    with ExitStack() as stack:
        made = [stack.enter_context(Gateway(tmp_path / f"gateway{n}", [server.endpoint])) for n in range(3)]
        yield made
        assert not any("X-Amz" in gateway.all_logged() for gateway in made)


@pytest.fixture
def mirror(tmp_path: Path, server: FaultyServer) -> Iterator[MirrorHere]:
    with MirrorHere(tmp_path / "here", server) as mirror:
        yield mirror
