"""`status --watch`: one screen that stays."""

import json
import signal
import subprocess
import time
from pathlib import Path

from axomsync.ledger import Ledger
from tests.rig.agent import AgentProcess
from tests.rig.disks import dead_disk


def test_watching_ends_with_ctrl_c(tmp_path: Path) -> None:
    agent = AgentProcess(tmp_path / "box", "http://127.0.0.1:9/api", "axom_live_nobody")
    Ledger(agent.state, time.time).close()
    watch = subprocess.Popen(agent.command("status", "--watch", "--json"), env=agent.environ, stdout=subprocess.PIPE)
    assert watch.stdout is not None
    documents = [json.loads(watch.stdout.readline()) for _ in range(2)]
    watch.send_signal(signal.SIGINT)
    assert watch.wait(10) == 0
    assert all(not document["agent"]["running"] for document in documents)
    watch.stdout.close()


def test_a_folder_that_can_not_be_reached_is_a_problem_and_hides_nothing(tmp_path: Path) -> None:
    with dead_disk(tmp_path / "dead") as dead:
        folders = {"drop": {"folder": str(dead / "drop")}, "mirror": {"folder": str(dead / "models"), "promote": "manual"}}
        agent = AgentProcess(tmp_path / "box", "http://127.0.0.1:9/api", "axom_live_nobody", folders)
        Ledger(agent.state, time.time).close()
        problems = {problem["subject"]: problem["reason"] for problem in agent.status()["problems"]}
        for part, folder in (("drop", "drop"), ("mirror", "models")):
            expected = f"{dead / folder}: the program that serves this filesystem has ended; mount it anew"
            assert problems[f"{part} folder"] == expected
        shown = agent.call("status")
        assert (shown.returncode, shown.stderr) == (0, "")
        assert "mount it anew" in " ".join(shown.stdout.split())
        explained = agent.call("explain", str(dead / "drop/a.jsonl"))
        assert (explained.returncode, explained.stderr) == (0, "")
        assert "mount it anew" in " ".join(explained.stdout.split())
