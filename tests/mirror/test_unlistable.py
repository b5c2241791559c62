"""A folder in the mirror folder that can't be listed is told, and keeps no other model from anything."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.rig.agent import AgentProcess, eventually
from tests.rig.faults import KEY, Content, FaultyServer

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@pytest.fixture
def agent(server: FaultyServer) -> Iterator[AgentProcess]:
    """An installation that the user 65534 can reach and that is that user's: root could list every folder."""
    with TemporaryDirectory() as home:
        mirror = {"views": [f"flat:{home}/view"], "scrub": "1s", "promote": "manual"}
        with AgentProcess(Path(home), server.url, KEY, {"mirror": mirror, "drop": {"enabled": False}}) as agent:
            for path in (agent.state, Path(home, "view")):
                path.mkdir()
            for path in (agent.home, agent.drop, agent.mirror, agent.state, Path(home, "view")):
                give(path)
            agent.config_file.chmod(0o644)
            yield agent


def give(path: Path) -> None:
    os.chown(path, 65534, 65534)
    path.chmod(0o755)


def close(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    os.chown(folder, 0, 0)
    folder.chmod(0o700)


def call(agent: AgentProcess, *arguments: str) -> tuple[int, str, str]:
    command = [*NOBODY, *agent.command(*arguments)]
    done = subprocess.run(command, env=agent.environ, capture_output=True, text=True, cwd=agent.home, check=False)
    return done.returncode, done.stdout, done.stderr


def add(server: FaultyServer, name: str, *versions: int) -> None:
    for version in versions:
        server.add_model(name, f"v{version}", {"config.pbtxt": Content(3000, version)})


def problems(agent: AgentProcess) -> dict[str, str]:
    return {problem["subject"]: problem["reason"] for problem in json.loads(call(agent, "status", "--json")[1])["problems"]}


def test_a_name_that_can_not_be_listed_is_told_and_the_others_go_on(agent: AgentProcess, server: FaultyServer) -> None:
    add(server, "bot", 1)
    close(agent.mirror / "x")
    fault = f"{agent.mirror / 'x'}: "
    code, _, told = call(agent, "sync")
    assert (code, f"mirror folder: {fault}" in told) == (1, True), told
    assert call(agent, "promote", "bot", "v1")[0] == 0
    agent.start(*NOBODY)
    add(server, "bot", 2)
    eventually("the next version", (agent.mirror / "bot" / "v2").is_dir)
    assert problems(agent)["mirror folder"].startswith(fault)
    for verb in ("warm bot", "promote bot v2", "rollback bot", "unpin bot", "pin bot/v2"):
        code, _, told = call(agent, *verb.split())
        assert code == 0, (verb, told)
    code, listed, told = call(agent, "verify")
    assert (code, told.count(fault)) == (1, 1)
    assert "bot/v1" in listed
    assert call(agent, "verify", "bot")[0] == 0
    give(agent.mirror / "x")
    eventually("no problem", lambda: not problems(agent))
    assert agent.terminate() == 0


def test_a_name_whose_folder_the_disk_can_not_read_keeps_no_other_from_coming(
    agent: AgentProcess, server: FaultyServer
) -> None:
    add(server, "bot", 1)
    folder = agent.mirror / "x"
    folder.mkdir()
    fails = ("strace", "-f", "-qq", "-o", "/dev/null", "-P", str(folder), "-e", "inject=openat:error=EIO")
    agent.launch("sync", prefix=fails)
    assert agent.wait() == 1
    assert f"mirror folder: {folder}: the disk reported an I/O error" in agent.log()
    assert (agent.mirror / "bot" / "v1").is_dir()


def test_published_models_that_can_not_be_looked_at_keep_no_other_from_coming(
    agent: AgentProcess, server: FaultyServer
) -> None:
    add(server, "bot", 1)
    add(server, "closed", 1)
    assert call(agent, "sync")[0] == 0
    close(agent.mirror / "closed")
    server.requests.clear()
    add(server, "bot", 2)
    assert call(agent, "sync")[0] == 1
    assert (agent.mirror / "bot" / "v2").is_dir()
    assert len({request.path for request in server.storage_requests()}) == 1, "what can't be looked at is not fetched again"
    agent.start(*NOBODY)
    inner = next(path for path in agent.mirror.glob(".axomsync/*") if path.name != "by-hand")
    (inner / ".repaired-bot").mkdir()  # a repair begins
    add(server, "bot", 3)
    eventually("the next version", (agent.mirror / "bot" / "v3").is_dir)
    assert (inner / ".repaired-bot").is_dir(), "what is at work is no leftover"
    eventually("the fault", lambda: str(agent.mirror / "closed") in problems(agent).get("mirror folder", ""))
    assert agent.terminate() == 0


def test_what_belongs_to_a_disk_is_not_told(agent: AgentProcess, server: FaultyServer) -> None:
    add(server, "bot", 1)
    add(server, "lost+found", 1)
    close(agent.mirror / "lost+found")
    assert call(agent, "sync")[0] == 0
    assert (agent.mirror / "bot" / "v1").is_dir()
    assert (agent.mirror / "%6Cost+found" / "v1").is_dir()
    assert problems(agent) == {}
    code, _, told = call(agent, "verify")
    assert (code, told) == (0, "")
    code, _, told = call(agent, "import", str(agent.mirror))
    assert (code, "lost+found:" in told) == (0, False), told
