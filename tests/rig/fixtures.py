"""The far sides as fixtures: the server that misbehaves; the sandbox, with one object store for each test session (and xdist
worker), and a console and a relay of its own for each test."""

import io
import logging
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from axomsync.sandbox.console import Sandbox
from axomsync.sandbox.objectstore import ObjectStore
from tests.rig.agent import AgentProcess
from tests.rig.faults import KEY, FaultyServer
from tests.rig.recording import RecordingRelay


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    """A console and a storage that can misbehave; `tests/mirror` asks more of it."""
    with FaultyServer() as server:
        yield server


@pytest.fixture
def agent(tmp_path: Path, server: FaultyServer) -> Iterator[AgentProcess]:
    """An agent of that server with the default configuration; it starts when a test starts it."""
    with AgentProcess(tmp_path / "box", server.url, KEY) as agent:
        yield agent


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A running SeaweedFS, shared: keys hold a UUID, so tests do not meet in it. A test that kills it starts its own."""
    with ObjectStore(tmp_path_factory.mktemp("objectstore")) as store:
        yield store


SandboxFactory = Callable[..., Sandbox]


@pytest.fixture
def sandbox_factory(object_store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxFactory]:
    """Makes running sandboxes whose `relay` is a `RecordingRelay`; takes any argument of `Sandbox`. Without a `folder` each
    begins with an empty catalog; with the folder of one that was stopped, it goes on where that one was."""
    with ExitStack() as running:

        def make(
            folder: Path | None = None, *, url_lifetime: timedelta = timedelta(minutes=15), **arguments: Any
        ) -> Sandbox:
            arguments = {"store": object_store, "relay_class": RecordingRelay, **arguments}
            home = folder or tmp_path_factory.mktemp("sandbox")
            return running.enter_context(Sandbox(home, url_lifetime=url_lifetime, **arguments))

        yield make


@pytest.fixture
def sandbox(sandbox_factory: SandboxFactory) -> Sandbox:
    return sandbox_factory()


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What is logged; the process's own logging is as before afterwards."""
    root = logging.getLogger()
    handlers, level, raises, hooks = (
        root.handlers[:],
        root.level,
        logging.raiseExceptions,
        (sys.excepthook, threading.excepthook),
    )
    yield io.StringIO()
    root.handlers[:], logging.raiseExceptions = handlers, raises
    root.setLevel(level)
    sys.excepthook, threading.excepthook = hooks
