"""A reload, pause or resume while a folder's filesystem never answers: the other direction follows, the problem is told."""

import json
import signal
import subprocess
from collections.abc import Callable
from contextlib import closing
from threading import Event

import httpx
import pytest

from axomsync.agent import requests
from axomsync.ledger import Reader
from tests.rig.agent import AgentProcess, eventually
from tests.rig.disks import OWN_MOUNTS, beside, silent_disk
from tests.rig.faults import Content, Fault, FaultyServer

SILENT = "its filesystem does not answer"


def beside_it(agent: AgentProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a verb where the agent runs, which has mounts of its own."""
    assert agent.process is not None
    command = [*beside(agent.process.pid), *agent.command(*arguments)]
    return subprocess.run(
        command, env=agent.environ, cwd=agent.home, capture_output=True, text=True, timeout=30, check=False
    )


def reasons(agent: AgentProcess) -> list[str]:
    """What holds up a reload, as the ledger has it for `status`."""
    with closing(Reader(agent.state / "state.db")) as reader:
        return [problem.reason for problem in reader.problems() if problem.subject == "reload"]


def asked(agent: AgentProcess) -> list[str]:
    """The requests that the agent has not begun."""
    with closing(Reader(agent.state / "state.db")) as reader:
        return [row["verb"] for row in reader.new_requests()]


def refusal(agent: AgentProcess, verb: str) -> str | None:
    """What the agent answers to a request; the command would look at the folder itself, and not ask."""
    ledger = agent.state / "state.db"
    outcome = requests.wait_for(Reader(ledger), requests.ask(ledger, verb), 10)
    assert outcome is not None
    assert outcome.exit_code == 75
    return outcome.error


def drop(agent: AgentProcess, name: str) -> Callable[[], bool]:
    """Put a file into the drop folder; returns a probe for its upload."""
    (agent.drop / name).write_text(f'{{"text": "{name}"}}\n')
    return (agent.drop / "uploaded" / f"{name}.receipt.json").exists


def start(agent: AgentProcess, server: FaultyServer) -> int:
    """Start an agent that has published a model; returns its process."""
    server.add_model("llama", "v1", {"w": Content(10)})
    agent.configure({"web": {"listen": "127.0.0.1:0"}})
    agent.start(*OWN_MOUNTS)
    eventually("the model", (agent.mirror / "llama" / "current").exists)
    assert agent.process is not None
    return agent.process.pid


def ask(agent: AgentProcess, how: str, timeout: str) -> None:
    """Have the agent exchange its workers."""
    if how == "reload":
        agent.configure({"hooks": {"timeout": timeout}, "web": {"listen": "127.0.0.1:0"}})
        agent.hangup()
    else:
        assert beside_it(agent, how).returncode == 0


@pytest.mark.parametrize("how", [("reload",), ("pause", "resume")])
def test_the_drop_follows_a_reload_or_pause_while_the_mirror_does_not_answer(
    how: tuple[str, ...], server: FaultyServer, agent: AgentProcess
) -> None:
    pid = start(agent, server)
    with silent_disk(agent.mirror, pid):
        eventually("an upload", drop(agent, "before.jsonl"))
        for verb in how:
            ask(agent, verb, "31m")
            eventually("the problem", lambda: reasons(agent))
        eventually("an upload", drop(agent, "after.jsonl"))
        (reason,) = reasons(agent)
        assert f"waits for the mirror: {agent.mirror}: {SILENT}" in reason
        status = json.loads(beside_it(agent, "status", "--json").stdout)
        assert reason in [problem["reason"] for problem in status["problems"] if problem["subject"] == "reload"]
        page = status["agent"]["page"]
        assert [httpx.get(page + probe).status_code for probe in ("healthz", "readyz")] == [200, 200]
        assert "the mirror waits for the end of its old work" in str(refusal(agent, "prune"))

        ask(agent, "reload", "32m")  # one more, while the first one is held up
        eventually("the reload", lambda: agent.log().count("reloaded") == 1 + how.count("reload"))
        eventually("an upload", drop(agent, "last.jsonl"))
        assert len(reasons(agent)) == 1

    server.add_model("llama", "v2", {"w": Content(20, 2)})
    umounted = subprocess.run([*beside(pid), "umount", "--lazy", agent.mirror], check=False)
    assert umounted.returncode == 0
    eventually("the new model", (agent.mirror / "llama" / "v2" / "w").exists)
    assert reasons(agent) == []
    eventually("an upload", drop(agent, "end.jsonl"))
    log = agent.log()
    assert (log.count("reload: a reload, pause or resume waits"), log.count("reload: works again")) == (1, 1), log
    assert "Traceback" not in log
    assert agent.terminate() == 0


def test_the_mirror_follows_a_reload_while_the_drop_folder_does_not_answer(
    server: FaultyServer, agent: AgentProcess
) -> None:
    pid = start(agent, server)
    with silent_disk(agent.drop, pid):
        assert beside_it(agent, "poll").returncode == 0  # it looks at both folders
        ask(agent, "reload", "31m")
        eventually("the problem", lambda: reasons(agent))
        assert f"waits for the drop: {agent.drop}: {SILENT}" in reasons(agent)[0]
        server.add_model("llama", "v2", {"w": Content(20, 2)})
        eventually("the new model", (agent.mirror / "llama" / "v2" / "w").exists)
    assert subprocess.run([*beside(pid), "umount", "--lazy", agent.drop], check=False).returncode == 0
    eventually("an upload", drop(agent, "a.jsonl"))
    assert reasons(agent) == []
    assert agent.terminate() == 0


def test_an_agent_whose_reload_is_held_up_ends_in_time(server: FaultyServer, agent: AgentProcess) -> None:
    pid = start(agent, server)
    with silent_disk(agent.mirror, pid):
        ask(agent, "reload", "31m")
        eventually("the problem", lambda: reasons(agent))
        assert agent.process is not None
        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(10) == 0


def test_a_pull_waits_for_old_work_that_will_end(server: FaultyServer, agent: AgentProcess) -> None:
    pid, answered = start(agent, server), Event()
    server.inject(Fault(first=lambda: answered.wait(60)), "/models")
    assert beside_it(agent, "poll").returncode == 0
    ask(agent, "reload", "31m")
    eventually("the problem", lambda: reasons(agent))
    assert "waits for the mirror: its old work has not ended" in reasons(agent)[0]
    command = [*beside(pid), *agent.command("pull", "llama")]
    with subprocess.Popen(command, env=agent.environ, cwd=agent.home, stdout=subprocess.PIPE, text=True) as pull:
        try:
            eventually("the request", lambda: asked(agent) == ["pull"])
            assert beside_it(agent, "retry").returncode == 0, "the agent does not look at requests"
        finally:
            answered.set()
        assert pull.wait(30) == 0
        assert pull.stdout is not None
        assert pull.stdout.read() == f"{agent.mirror / 'llama' / 'v1'}\n"
    assert reasons(agent) == []
    assert agent.terminate() == 0
