"""Several files of one huge line each, at once: all are uploaded, and the agent's memory stays the same."""

import time
from contextlib import suppress
from pathlib import Path

import pytest

from axomsync.sandbox.console import Sandbox
from tests.drop.conftest import AgentFactory
from tests.rig.memory import most_memory

FILES = 8
LINE_BYTES = 200_000_000
MOST = 600 << 20


def write_large_line(path: Path, kind: bytes) -> None:
    element = {b"text": b"word \\n ", b"objects": b'{"a": 1}, '}[kind] * 10_000
    with path.open("wb") as file:
        file.write(b'{"x": "' if kind == b"text" else b'{"x": [')
        while file.tell() < LINE_BYTES - len(element):
            file.write(element)
        file.write(b'"}\n' if kind == b"text" else b"0]}\n")


@pytest.mark.stress
@pytest.mark.timeout(600)
def test_eight_files_of_one_huge_line_need_little_memory(sandbox: Sandbox, make_agent: AgentFactory) -> None:
    agent = make_agent(sandbox)
    for number in range(FILES):
        write_large_line(agent.drop / f"{number}.jsonl", b"objects" if number == 0 else b"text")
    agent.launch("sync")
    assert agent.process is not None
    most = 0
    with suppress(OSError, StopIteration):  # it has ended
        while agent.process.poll() is None:
            most = most_memory(agent.process.pid)
            time.sleep(0.05)
    assert agent.process.wait() == 0, agent.log()
    assert [row["state"] for row in agent.uploads()] == ["uploaded"] * FILES
    assert 0 < most < MOST
