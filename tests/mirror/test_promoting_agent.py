"""A real agent whose `current` waits, moves when somebody says so, is checked, and goes back; with and without the agent."""

import json
from pathlib import Path

from tests.rig.agent import AgentProcess, eventually
from tests.rig.faults import KEY, Content, FaultyServer

CHECK = 'while [ ! -e "$0.go" ]; do sleep 0.05; done; [ ! -e "$0.ill" ] || { echo answers nonsense; exit 1; }'


def test_an_agent_waits_promotes_checks_and_goes_back_after_a_kill(tmp_path: Path) -> None:
    told, check = tmp_path / "told", tmp_path / "check"
    hooks = {
        "current_moved": ["sh", "-c", 'echo "$AXOMSYNC_VERSION" >>"$0"', str(told)],
        "health": ["sh", "-c", CHECK, str(check)],
        "health_for": "1ms",  # one check
        "timeout": "1h",
    }
    config = {"drop": {"enabled": False}, "mirror": {"promote": "manual"}, "hooks": hooks}
    go, ill = Path(f"{check}.go"), Path(f"{check}.ill")
    go.touch()
    with FaultyServer() as server, AgentProcess(tmp_path / "box", server.url, KEY, config) as agent:
        link = agent.mirror / "bot" / "current"
        server.add_model("bot", "v1", {"w": Content(1000, 1)})
        agent.sync()
        assert not link.is_symlink()
        assert agent.call("promote", "bot").stdout == f"{link} -> v1\n"
        agent.start()
        eventually("the first move told", lambda: told.exists() and told.read_text() == "v1\n")
        second = server.add_model("bot", "v2", {"w": Content(1000, 2)})
        waits = [{"name": "bot", "version": "v2", "id": second, "until": None}]
        eventually("v2 waits", lambda: agent.status()["mirror"]["waiting"] == waits)
        assert {row["version"]: row["current"] for row in agent.models()} == {"v1": True, "v2": False}
        assert "bot/v2 waits for `axomsync promote bot`" in agent.call("status").stdout
        assert "current waits for `axomsync promote`" in agent.call("explain", "bot/v2").stdout

        go.unlink()
        assert json.loads(agent.call("promote", "bot", "--json").stdout)["version"] == "v2"
        eventually("the second move told", lambda: told.read_text() == "v1\nv2\n")
        (trial,) = agent.status()["mirror"]["trials"]
        assert (trial["version"], trial["previous"]) == ("v2", "v1")
        agent.kill()
        ill.touch()
        go.touch()
        agent.start()
        eventually("the way back", lambda: link.readlink() == Path("v1") and told.read_text() == "v1\nv2\nv1\n")
        (problem,) = agent.status()["problems"]
        assert problem["subject"] == "health of bot/v2"
        assert "it said: answers nonsense; current went back to v1, which is pinned" in problem["reason"]
        refused = agent.call("promote", "bot")
        assert (refused.returncode, "which is pinned; `axomsync unpin` first" in refused.stderr) == (1, True)

        ill.unlink()
        assert agent.call("unpin", "bot").stdout == f"{link} -> v1\n"
        server.add_model("bot", "v3", {"w": Content(1000, 3)})
        eventually("v3 waits", lambda: [row["version"] for row in agent.status()["mirror"]["waiting"]] == ["v3"])
        agent.configure({**config, "mirror": {"promote": "now"}})
        agent.hangup()
        eventually("v3 leads after the reload", lambda: link.readlink() == Path("v3"))
        assert agent.status()["mirror"]["waiting"] == []
        assert agent.terminate() == 0
