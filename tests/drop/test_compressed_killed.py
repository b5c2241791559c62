"""A real agent that is killed while it unpacks, and again while it sends: no spool is left, and the content goes up once."""

import gzip
import os
from pathlib import Path

from axomsync.sandbox.console import Sandbox
from tests.drop.conftest import AgentFactory, dataset, puts, receipt, sha256, stored
from tests.rig.agent import AgentProcess, eventually


def unpacked(agent: AgentProcess) -> int:
    """Bytes in the nameless files of the agent's spool."""
    assert agent.process is not None
    total, folder = 0, Path(f"/proc/{agent.process.pid}/fd")
    for name in os.listdir(folder):
        try:
            if os.readlink(folder / name).startswith(f"{agent.state}/spool/"):
                total += (folder / name).stat().st_size
        except OSError:
            continue  # closed since it was listed
    return total


def test_a_kill_leaves_no_spool_and_the_content_goes_up_once(sandbox: Sandbox, make_agent: AgentFactory) -> None:
    agent = make_agent(sandbox, include=["*.jsonl.gz"], config={"log": {"level": "debug"}})
    content = dataset("long", 200_000) * 3
    packed = gzip.compress(content, 1)
    (agent.drop / "train.jsonl.gz").write_bytes(packed)
    for most in (0, len(content) - 1):  # first in the middle of the unpacking, then when all is unpacked
        agent.start()
        eventually("bytes in the spool", lambda least=most: unpacked(agent) > least or puts(sandbox))
        agent.kill()
        assert os.listdir(agent.state / "spool") == []
    agent.start()
    eventually("the upload", lambda: (agent.drop / "uploaded" / "train.jsonl.gz").exists())
    assert (unpacked(agent), os.listdir(agent.state / "spool")) == (0, [])
    assert agent.terminate() == 0
    assert stored(sandbox) == {"train.jsonl": [content]}
    told = receipt(agent.drop / "uploaded" / "train.jsonl.gz")
    assert (told["sha256"], told["packed"]["sha256"]) == (sha256(content), sha256(packed))

    sent = len(puts(sandbox))
    for file in agent.state.glob("state.db*"):
        file.unlink()
    (agent.drop / "again").mkdir()
    (agent.drop / "again" / "train.jsonl.gz").write_bytes(gzip.compress(content, 2))
    agent.sync()
    assert {row["path"]: row["state"] for row in agent.uploads()} == {
        "train.jsonl.gz": "uploaded",
        "again/train.jsonl.gz": "duplicate",
    }
    assert len(puts(sandbox)) == sent, "a lost ledger sends nothing again"
