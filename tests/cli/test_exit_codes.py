"""What each verb ends with, and what it says then: the table of exit codes that scripts rely on."""

import time
from pathlib import Path

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


@pytest.mark.parametrize(
    "verb",
    [
        ("nonsense",),
        ("status", "--nonsense"),
        ("status", "surplus"),
        ("config",),
        ("config", "nonsense"),
        ("sync", "--json=1"),
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
