"""What each verb ends with, and what it says then: the table of exit codes that scripts rely on."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from axomsync import __version__
from axomsync.ledger import Ledger
from tests.rig.agent import AgentProcess, eventually
from tests.rig.faults import KEY, Content, Fault, FaultyServer
from tests.rig.fixtures import SandboxFactory

ASKING = (("sync",), ("models",), ("datasets",), ("base-models",))
LOCAL = (("status",), ("uploads",), ("config", "check"), ("config", "show"))


def call(agent: AgentProcess, verb: tuple[str, ...], expect: int) -> str:
    """Standard error of a verb that must end with `expect`, free of tracebacks and of the key."""
    done = agent.call(*verb)
    assert done.returncode == expect, f"{verb} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    assert KEY not in done.stdout + done.stderr
    return done.stderr


@pytest.mark.parametrize("verb", ASKING + LOCAL)
def test_0_when_all_is_well(verb: tuple[str, ...], agent: AgentProcess) -> None:
    assert "error" not in call(agent, verb, 0)


@pytest.mark.parametrize("verb", ASKING)
def test_4_when_the_key_is_refused_with_what_to_do(verb: tuple[str, ...], agent: AgentProcess) -> None:
    agent.environ["AXOM_KEY"] = "axom_live_wrong"
    told = call(agent, verb, 4)
    assert "create a new one in the console, put it where $AXOM_KEY" in told
    assert "axom_live_wrong" not in told


@pytest.mark.parametrize("verb", ASKING)
def test_4_when_there_is_no_key_with_where_to_put_it(verb: tuple[str, ...], agent: AgentProcess) -> None:
    del agent.environ["AXOM_KEY"]
    assert "no API key: set $AXOM_KEY" in call(agent, verb, 4)


@pytest.mark.parametrize("verb", ASKING)
def test_75_when_the_console_is_down(verb: tuple[str, ...], server: FaultyServer, agent: AgentProcess) -> None:
    server.inject(Fault(status=503, headers={"Retry-After": "20"}), "/api/", times=99)
    assert f"{server.url} answered 503" in call(agent, verb, 75)


def test_1_again_says_again_what_waits_for_a_person(server: FaultyServer, agent: AgentProcess) -> None:
    server.inject(Fault(status=404, body=b"{}"), "/presign", method="POST", times=2)
    for name in ("a", "b"):
        (agent.drop / f"{name}.jsonl").write_text(f'{{"text": "{name}"}}\n')
    assert call(agent, ("sync",), 1).count("does not know it") == 3, "each file, and the reason of the exit code"
    told = call(agent, ("sync",), 1)
    assert told.count("does not know it") == 1
    assert "ends with 1: a.jsonl: failed: POST /api/uploads/presign: the console does not know it" in told
    assert "(and 1 more, see `axomsync uploads` and `axomsync models`)" in told
    agent.call("retry")
    assert "ends with" not in call(agent, ("sync",), 0)


@pytest.mark.parametrize("verb", [("run",), *ASKING, *LOCAL])
def test_78_when_the_configuration_is_bad_with_every_error(verb: tuple[str, ...], agent: AgentProcess) -> None:
    agent.config_file.write_text("[console]\nurl = 'x'\n[drop]\nsettel = '5s'\n[mirror]\npoll = 'often'\n")
    lines = call(agent, verb, 78).splitlines()
    assert [line.split(": ")[1] for line in lines] == [f"{agent.config_file}:{number}" for number in (2, 4, 6)]


def test_78_when_there_is_no_configuration(agent: AgentProcess) -> None:
    agent.config_file.unlink()
    told = call(agent, ("status",), 78)
    assert (
        told
        == f"axomsync: {agent.config_file}: there is no such file; `axomsync init --config {agent.config_file}` writes one\n"
    )


@pytest.mark.parametrize("verb", [("run",), ("sync",), ("config", "check"), ("models",)])
def test_78_when_the_certificates_can_not_be_read(verb: tuple[str, ...], agent: AgentProcess) -> None:
    agent.configure({"console": {"ca_file": "/nowhere/ca.pem"}})
    assert "[console] ca_file /nowhere/ca.pem: can't be used" in call(agent, verb, 78)


@pytest.mark.parametrize("verb", ["run", "status", "pause"])
def test_78_when_the_ledger_is_newer_than_the_program_with_what_to_do(verb: str, agent: AgentProcess) -> None:
    with Ledger(agent.state, time.time) as ledger:
        ledger.set_facts(version="99.0.0")
        ledger.write(lambda db: db.execute("INSERT INTO _sqlite_migrations VALUES (99, 'axomsync', 'm999', '2031-01-01')"))
    told = call(agent, (verb,), 78)
    assert told.startswith(
        f"axomsync: {agent.state}/state.db: written by a newer axomsync: by 99.0.0, and this is {__version__}"
    )
    assert "install that version again" in told


NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@pytest.fixture
def of_nobody() -> Iterator[AgentProcess]:
    """An installation that the user 65534 can reach and that is that user's: pytest's own folders are closed to others."""
    with TemporaryDirectory() as home, FaultyServer() as server, AgentProcess(Path(home), server.url, KEY) as agent:
        agent.state.mkdir()
        for path in (agent.home, agent.drop, agent.mirror, agent.state):
            os.chown(path, 65534, 65534)
            path.chmod(0o755)
        agent.config_file.chmod(0o644)
        yield agent


@pytest.mark.parametrize("closed", ["folder before the first start", "folder", "ledger", "ledger and its folder"])
def test_78_when_run_may_not_use_its_state_folder_with_the_command(closed: str, of_nobody: AgentProcess) -> None:
    agent = of_nobody
    ledger = agent.state / "state.db"
    if "before" not in closed:
        agent.start(*NOBODY)
        assert agent.terminate() == 0
    if "folder" in closed:
        os.chown(agent.state, 0, 0)
    if "ledger" in closed:
        os.chown(ledger, 0, 0)
        ledger.chmod(0o600)
    in_the_way = ledger if "ledger" in closed else agent.state
    agent.log_file.write_text("")
    agent.launch("run", prefix=NOBODY)
    assert agent.wait() == 78, agent.log()
    (told,) = agent.log().splitlines()
    assert "the service's user nobody may not " in told
    assert re.search(rf"; run: sudo [^;]* {in_the_way}(?: |;)", told)
    assert told.endswith("; then start the agent again")
    agent.launch("sync", prefix=NOBODY)
    assert agent.wait() == 1, "a person looks at it"


def test_1_when_the_state_folder_is_not_there_yet_since_its_disk_may_come(of_nobody: AgentProcess) -> None:
    agent = of_nobody
    agent.state.rmdir()
    os.chown(agent.home, 0, 0)
    agent.launch("run", prefix=NOBODY)
    assert agent.wait() == 1
    assert f"may not make files in {agent.home}" in agent.log()


@pytest.mark.parametrize(
    "verb",
    [
        ("nonsense",),
        ("status", "--nonsense"),
        ("status", "surplus"),
        ("config",),
        ("config", "nonsense"),
        ("sync", "--json=1"),
        ("uploads", "--limit", "9" * 20),
        ("logs", "--lines", "9" * 20),
        ("logs", "--lines", str(2**31)),
    ],
)
def test_2_when_the_command_line_is_wrong(verb: tuple[str, ...], agent: AgentProcess) -> None:
    assert "Error: " in call(agent, verb, 2) or verb == ("config",)


@pytest.mark.parametrize("verb", ["run", "sync"])
def test_3_when_another_agent_holds_the_state_folder(verb: str, agent: AgentProcess) -> None:
    agent.start()
    assert agent.process is not None
    told = call(agent, (verb,), 3)
    assert f"another agent (pid {agent.process.pid}) holds {agent.state}; stop it" in told
    assert agent.status()["agent"]["running"] is True
    assert agent.terminate() == 0


def test_1_when_something_is_rejected_and_only_in_the_pass_that_finds_it(agent: AgentProcess) -> None:
    (agent.drop / "broken.jsonl").write_text('{"text": "good"}\n{"text": \n')
    assert "line 2" in call(agent, ("sync",), 1)
    call(agent, ("sync",), 0)


def test_1_for_as_long_as_a_file_is_held(agent: AgentProcess) -> None:
    agent.configure({"drop": {"max_put": "10B"}})
    (agent.drop / "large.jsonl").write_text('{"text": "more than ten bytes"}\n')
    for _ in range(2):
        call(agent, ("sync",), 1)
    assert [row["state"] for row in agent.uploads()] == ["held"]


def test_1_when_a_model_can_not_be_trusted(server: FaultyServer, agent: AgentProcess) -> None:
    server.add_model("evil", "v1", {"../x": Content(1)})
    call(agent, ("sync",), 1)
    assert [row["state"] for row in agent.models()] == ["blocked"]


@pytest.mark.parametrize("folder", ["drop", "mirror"])
def test_1_when_a_folder_is_missing_with_its_path_and_the_need(folder: str, agent: AgentProcess) -> None:
    path = {"drop": agent.drop, "mirror": agent.mirror}[folder]
    path.rmdir()
    assert f"{path}: it does not exist; create it or correct the configuration" in call(agent, ("sync",), 1)
    assert not path.exists(), "a folder on a disk that is not mounted was made"


def test_75_when_a_part_of_the_drop_folder_can_not_be_read(agent: AgentProcess) -> None:
    hidden = agent.drop / "hidden"
    hidden.mkdir()
    (hidden / "a.jsonl").write_text('{"text": "a"}\n')
    hidden.chmod(0)
    agent.launch("sync", prefix=("setpriv", "--bounding-set=-dac_override,-dac_read_search"))
    assert agent.wait() == 75
    assert f"{hidden}: root may not look into it; run: chmod" in agent.log()
    hidden.chmod(0o755)
    call(agent, ("sync",), 0)


def test_4_comes_before_1_and_1_before_75(sandbox_factory: SandboxFactory, tmp_path: Path) -> None:
    sandbox = sandbox_factory()
    with AgentProcess(tmp_path / "box", sandbox.url, sandbox.create_key(["datasets"])) as agent:  # no scope to list
        (agent.drop / "a.jsonl").write_text('{"text": "a"}\n')
        assert "lacks the scope 'read'" in call(agent, ("sync",), 1)
        assert [row["state"] for row in agent.uploads()] == ["uploaded"], "one direction kept the other from its work"
        agent.environ["AXOM_KEY"] = "axom_live_wrong"
        (agent.drop / "broken.jsonl").write_text("no JSON\n")
        call(agent, ("sync",), 4)


def test_a_running_agent_waits_for_a_key_by_itself(server: FaultyServer, agent: AgentProcess) -> None:
    agent.environ["AXOM_KEY"] = "axom_live_wrong"
    agent.start()
    eventually("the refusal", lambda: "the console refuses the API key" in agent.log())
    assert agent.process is not None
    assert agent.process.poll() is None
    assert len(server.console_requests()) <= 2, "it hammers"
    assert agent.terminate() == 0
