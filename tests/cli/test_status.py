"""`status --watch`: one screen that stays."""

import json
import signal
import subprocess
import time
from pathlib import Path

from axomsync.ledger import Ledger
from tests.rig.agent import AgentProcess


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
