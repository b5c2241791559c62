"""A real agent with gates: killed while they look, told no, asked to try again."""

from pathlib import Path

from tests.rig.agent import AgentProcess, eventually
from tests.rig.faults import KEY, Content, FaultyServer
from tests.rig.gatekeepers import Gatekeeper

GOOD = '{"text": "hello"}\n' * 10


def states(agent: AgentProcess) -> tuple[str, str]:
    newest = max((row["created_at"], row["state"]) for row in agent.uploads() if row["path"] == "a.jsonl")
    return agent.models()[0]["state"], newest[1]


def puts(server: FaultyServer) -> list[str]:
    return [request.path for request in server.storage_requests() if request.method == "PUT"]


def test_no_life_lets_pass_what_no_gate_passed(tmp_path: Path) -> None:
    keeper, verdict = Gatekeeper(tmp_path), tmp_path / "verdict"
    command = keeper.command(
        f"""
verdict = open({str(verdict)!r}).read()
agent = os.getppid()
while verdict == "hang" and os.getppid() == agent:  # whoever is killed leaves it alone
    time.sleep(0.2)
print("the gate says", verdict)
sys.exit(verdict == "no")
"""
    )
    config = {"hooks": {"before_publish": command, "before_upload": command, "timeout": "5m"}}
    with FaultyServer() as server, AgentProcess(tmp_path / "box", server.url, KEY, config) as agent:
        server.add_model("bot", "v1", {"a.bin": Content(100_000)})
        (agent.drop / "a.jsonl").write_text(GOOD)
        verdict.write_text("hang")
        agent.start()
        eventually("both gates", lambda: len(keeper.asked()) == 2)
        assert "before_publish looks at it" in agent.call("explain", "bot/v1").stdout
        assert states(agent) == ("verifying", "queued")
        for target in ("bot/v1", "a.jsonl"):
            done = agent.call("forget", target)
            assert (done.returncode, f"{target}: under way; `axomsync pause` first" in done.stderr) == (1, True), done.stderr
        agent.kill()
        assert (list(agent.mirror.glob("*")), puts(server)) == ([agent.mirror / ".axomsync"], [])
        agent.start()
        eventually("both gates", lambda: len(keeper.asked()) == 4)
        assert agent.terminate() == 0  # a gate does not hold up the end
        verdict.write_text("no")
        agent.sync(expect=1)
        assert states(agent) == ("blocked", "rejected")
        assert "[hooks] before_publish: the gate says no" in agent.call("explain", "bot/v1").stdout
        assert (agent.drop / "rejected" / "a.jsonl.reason.txt").exists()
        assert (list(agent.mirror.glob("*")), puts(server)) == ([agent.mirror / ".axomsync"], [])
        pushed = tmp_path / "pushed.jsonl"
        pushed.write_text(GOOD + GOOD)
        done = agent.call("push", str(pushed))
        assert (done.returncode, pushed.exists(), puts(server)) == (1, True, [])
        assert "[hooks] before_upload: the gate says no" in done.stdout + done.stderr
        verdict.write_text("yes")
        agent.start()
        assert states(agent) == ("blocked", "rejected")  # no new life asks at once
        asked = len(keeper.asked())
        assert agent.call("retry", "bot/v1").returncode == 0
        (agent.drop / "rejected" / "a.jsonl").rename(agent.drop / "a.jsonl")
        eventually("both", lambda: states(agent) == ("published", "uploaded"))
        assert len(keeper.asked()) == asked + 2
        assert agent.terminate() == 0
