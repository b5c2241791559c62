"""Fixtures and helpers for the drop folder: an agent that only uploads, and queries of storage and disk."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from axomsync.sandbox.console import Sandbox
from tests.rig.agent import AgentProcess, Config
from tests.rig.recording import RecordingRelay, StorageRequest

AgentFactory = Callable[..., AgentProcess]


def dataset(name: str, lines: int = 3) -> bytes:
    """Make a valid dataset; each name gives other content."""
    return b"".join(json.dumps({"text": f"{name}, line {n}"}).encode() + b"\n" for n in range(1, lines + 1))


@contextmanager
def opened(data: bytes) -> Iterator[int]:
    """Open a file in memory that holds these bytes."""
    file = os.memfd_create("dataset")
    try:
        assert os.write(file, data) == len(data)
        yield file
    finally:
        os.close(file)


def idle() -> None:
    """Do nothing, for what is called while a file is read."""


def stored(sandbox: Sandbox) -> dict[str, list[bytes]]:
    """Bytes of every object in storage, by the file name that the console received."""
    objects: dict[str, list[bytes]] = {}
    for upload in sandbox.uploads():
        if upload.stored is not None:
            objects.setdefault(upload.filename, []).append(sandbox.store.get_bytes(upload.key))
    return objects


def put_requests(sandbox: Sandbox) -> list[StorageRequest]:
    """Every PUT so far, oldest first.

    Let some of the body arrive before a kill: SeaweedFS, unlike S3, stores an empty object if the connection ends before the
    body's first byte.
    """
    assert isinstance(sandbox.relay, RecordingRelay)
    return [request for request in sandbox.relay.requests if request.method == "PUT"]


def puts(sandbox: Sandbox) -> list[str]:
    """The object keys of every PUT so far, oldest first."""
    return [request.path.removeprefix("/axom/") for request in put_requests(sandbox)]


def receipt(file: Path) -> dict[str, Any]:
    """The receipt next to an archived file."""
    document: dict[str, Any] = json.loads(file.with_name(f"{file.name}.receipt.json").read_bytes())
    return document


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, by its path; without the files that agents write for each other."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and ".axomsync" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def make_agent(tmp_path: Path) -> Iterator[AgentFactory]:
    """Makes an agent of a sandbox that only uploads; keyword arguments are keys of `[drop]`."""
    with ExitStack() as running:

        def make(sandbox: Sandbox, *, key: str | None = None, config: Config | None = None, **drop: object) -> AgentProcess:
            sections: dict[str, dict[str, object]] = {"mirror": {"enabled": False}, "drop": drop}
            for name, values in (config or {}).items():
                sections.setdefault(name, {}).update(values)
            return running.enter_context(AgentProcess(tmp_path, sandbox.url, key or sandbox.key, sections))

        yield make


@pytest.fixture
def agent(make_agent: AgentFactory, sandbox: Sandbox) -> AgentProcess:
    return make_agent(sandbox)
