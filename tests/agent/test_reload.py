"""`axomsync reload`: a running agent reads its configuration again, and the caller learns the outcome."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from axomsync.transport.authorities import NOBODY
from tests.rig.agent import AgentProcess, eventually
from tests.rig.faults import KEY, Content, FaultyServer


@pytest.fixture
def agent(tmp_path: Path, server: FaultyServer) -> Iterator[AgentProcess]:
    with AgentProcess(tmp_path / "box", server.url, KEY, {"mirror": {"poll": "60s", "include": ["nothing"]}}) as agent:
        yield agent


def test_an_agent_that_can_not_exchange_its_workers_answers_and_tries_again(tmp_path: Path, agent: AgentProcess) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_bytes(NOBODY)
    agent.configure({"console": {"ca_file": str(authority)}})
    agent.start()
    authority.rename(tmp_path / "away")
    assert agent.call("pause").returncode == 0
    eventually("the reason", lambda: "agent: [console] ca_file" in agent.log())
    for _ in range(12):  # its failures would have begun to take longer than a request waits
        assert agent.call("poll").returncode == 0, agent.log()
    (problem,) = agent.status()["problems"]
    assert (problem["subject"], str(authority) in problem["reason"]) == ("agent", True)
    agent.configure({})
    assert agent.call("reload").returncode == 0, "the remedy is not taken"
    eventually("the end of the problem", lambda: agent.status()["problems"] == [])
    assert agent.status()["agent"]["paused"]
    assert agent.call("resume").returncode == 0
    (agent.drop / "a.jsonl").write_text('{"text": "a"}\n')
    eventually("the upload", (agent.drop / "uploaded" / "a.jsonl").exists)
    assert "Traceback" not in agent.log()
    assert agent.log().count("agent: [console] ca_file") == 1
    assert agent.terminate() == 0


def test_problems_end_with_the_workers_that_told_them_and_those_of_the_agent_stay(agent: AgentProcess) -> None:
    page: dict[str, object] = {"listen": "127.0.0.1:0"}
    agent.configure({"web": page})
    agent.drop.rmdir()
    agent.start()

    def told() -> set[str]:
        url = eventually("the page", lambda: agent.status()["agent"]["page"])  # a reload gives it another port
        lines = httpx.get(url + "metrics").text.splitlines()
        return {line.split('"')[1] for line in lines if line.startswith("axomsync_problem{") and line.endswith(" 1.0")}

    eventually("the folder's problem", lambda: "drop folder" in told())
    agent.configure({"console": {"ca_file": "/nowhere/ca.pem"}})
    assert agent.call("reload").returncode == 78
    for verb in ("pause", "resume"):
        assert agent.call(verb).returncode == 0
        eventually("the workers", lambda: told() >= {"configuration", "drop folder"})
        assert {problem["subject"] for problem in agent.status()["problems"]} >= {"configuration", "drop folder"}

    agent.configure({"web": page, "drop": {"enabled": False}})
    assert agent.call("reload").returncode == 0
    eventually("the reload", lambda: "reloaded" in agent.log())
    eventually("the end of both", lambda: told() == set())
    assert agent.status()["problems"] == []
    assert agent.terminate() == 0


def test_the_outcome_of_a_reload_is_told(server: FaultyServer, agent: AgentProcess) -> None:
    server.add_model("wanted", "v1", {"w": Content(100)})
    none_runs = agent.call("reload")
    assert (none_runs.returncode, "an agent reads its configuration when it starts" in none_runs.stderr) == (1, True)
    agent.start()
    eventually("a poll", agent.models)
    assert "is in use: nothing has changed" in agent.call("reload").stdout

    agent.configure({"mirror": {"poll": "50s"}, "transfer": {"connections": 3}})
    done = agent.call("reload", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["running"]) == (0, True)
    assert {"mirror.poll", "mirror.include", "transfer.connections"} <= set(told["changed"])
    eventually("the model that is now wanted", (agent.mirror / "wanted" / "v1" / "w").exists)

    agent.configure({"console": {"ca_file": "/nowhere/ca.pem"}})
    bad = agent.call("reload")
    assert (bad.returncode, bad.stdout) == (78, ""), bad
    assert "[console] ca_file /nowhere/ca.pem: can't be used" in bad.stderr
    assert [problem["subject"] for problem in agent.status()["problems"]] == ["configuration"]

    agent.configure({"drop": {"settle": "soon"}})
    bad = agent.call("reload")
    assert (bad.returncode, "[drop] settle" in bad.stderr) == (78, True)

    agent.configure({})
    assert agent.call("reload").returncode == 0
    assert agent.status()["problems"] == []
    assert agent.terminate() == 0
