"""Files with times that the ledger can't hold, and the pauses between scans. Needs a filesystem with such times (tmpfs)."""

import os
import sqlite3

import pytest

from axomsync.sandbox.console import Sandbox
from tests.drop.conftest import AgentFactory, dataset, stored
from tests.rig.agent import AgentProcess, eventually
from tests.rig.disks import small_disk

FAR = (9_999_999_999, -9_999_999_999)  # seconds: the years 2286 and 1653


@pytest.mark.parametrize("after", ["archive", "keep", "delete"])
def test_file_with_a_time_out_of_range_is_uploaded(sandbox: Sandbox, make_agent: AgentFactory, after: str) -> None:
    agent = make_agent(sandbox, after=after)
    with small_disk(agent.drop, "size=4m"):
        for seconds in FAR:
            file = agent.drop / f"{seconds}.jsonl"
            file.write_bytes(dataset(str(seconds)))
            os.utime(file, (seconds, seconds))
            assert file.stat().st_mtime == seconds, "this filesystem has no such times"
        (agent.drop / "a.jsonl").write_bytes(dataset("a"))
        for _ in range(2):
            done = agent.sync()
            assert "Traceback" not in done.stderr
        assert len(stored(sandbox)) == 3
        assert {row["state"] for row in agent.uploads()} == {"uploaded"}


def test_locked_ledger_does_not_delay_the_next_scan(sandbox: Sandbox, agent: AgentProcess) -> None:
    agent.start()
    other = sqlite3.connect(agent.state / "state.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    (agent.drop / "a.jsonl").write_bytes(dataset("a"))
    eventually("the news", lambda: "keeps it locked" in agent.log())
    other.execute("ROLLBACK")
    other.close()
    eventually("the upload", (agent.drop / "uploaded" / "a.jsonl").exists, patience=15)


def test_rows_of_one_scan_are_in_the_order_of_their_files(sandbox: Sandbox, make_agent: AgentFactory) -> None:
    agent = make_agent(sandbox)
    names = [f"{number * 7919 % 101}.jsonl" for number in range(40)]
    for second, name in enumerate(names):
        (agent.drop / name).write_bytes(dataset(name))
        os.utime(agent.drop / name, (1_800_000_000 + second, 1_800_000_000 + second))
    agent.sync()
    assert [row["path"] for row in agent.uploads()] == names
