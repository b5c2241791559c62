"""The verbs about mirrored models, with a running agent and without one."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.agent import AgentProcess, eventually
from tests.rig.faults import KEY, Content, Fault, FaultyServer
from tests.rig.old_ledger import old_ledger

FILES = {"a.bin": Content(1_000_000, 1), "b.bin": Content(5000, 2)}


@pytest.fixture
def agent(tmp_path: Path, server: FaultyServer) -> Iterator[AgentProcess]:
    config = {"drop": {"enabled": False}, "mirror": {"keep": 2, "exclude": ["other"]}}
    with AgentProcess(tmp_path / "box", server.url, KEY, config) as agent:
        yield agent


def add(server: FaultyServer, *versions: str, name: str = "chassis") -> None:
    for number, version in enumerate(versions, 1):
        server.add_model(name, version, {**FILES, "b.bin": Content(5000 + number, number)})


def say(agent: AgentProcess, *arguments: str, expect: int = 0) -> str:
    done = agent.call(*arguments)
    assert done.returncode == expect, f"{arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def current(agent: AgentProcess) -> str:
    return os.readlink(agent.mirror / "chassis" / "current")


def damage(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"?")


def test_what_root_does_to_current_leaves_nothing_of_roots(server: FaultyServer) -> None:
    """The agent runs as another user, and could not keep it."""
    assert os.geteuid() == 0, "verbs are to run as root"
    place = Path(tempfile.mkdtemp())  # pytest's own folders are root's
    try:
        add(server, "v1", "v2")
        views = [f"hf:{place}/box/hf", f"flat:{place}/box/flat"]
        config = {"drop": {"enabled": False}, "mirror": {"promote": "manual", "views": views}}
        with AgentProcess(place / "box", server.url, KEY, config) as agent:
            agent.state.mkdir()
            subprocess.run(["chown", "-R", "65534:65534", place], check=True)
            assert agent.call("pull", "chassis/v1").returncode == agent.call("pull", "chassis/v2").returncode == 0
            for verb in (("promote", "chassis", "v2"), ("rollback", "chassis"), ("pin", "chassis/v2"), ("unpin", "chassis")):
                for each in ("hf", "flat", "models/.axomsync"):
                    shutil.rmtree(place / "box" / each, ignore_errors=True)
                done = agent.call(*verb)
                assert (done.returncode, done.stderr) == (0, "")
                assert (place / "box" / "hf" / "models--chassis" / "refs" / "main").exists()
                assert [path for path in place.rglob("*") if path.lstat().st_uid == 0] == []
    finally:
        shutil.rmtree(place)


def test_wait_is_patient_while_an_agent_brings_its_ledger_up_to_date(agent: AgentProcess, server: FaultyServer) -> None:
    add(server, "v1")
    old_ledger(agent.state)
    (agent.mirror / ".axomsync").mkdir()
    command = agent.command("wait", "chassis/v1", "--timeout", "30s")
    with subprocess.Popen(command, env=agent.environ, stdout=subprocess.PIPE, text=True) as waiting:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1)
        agent.call("sync")
        told, _ = waiting.communicate(timeout=30)
    assert told.strip() == str(agent.mirror / "chassis" / "v1")


def test_without_an_agent(agent: AgentProcess, server: FaultyServer) -> None:
    add(server, "v1", "v2", "v3")
    add(server, "v1", name="other")
    assert say(agent, "pull", "chassis/v2").strip() == str(agent.mirror / "chassis" / "v2")
    assert os.listdir(agent.mirror / "chassis") != [], "and nothing else"
    assert {p.name for p in (agent.mirror / "chassis").iterdir()} == {"v2", "current"}
    assert say(agent, "pull", "other").strip() == str(agent.mirror / "other" / "v1"), "though it is left out"
    assert "the console lists no model" in say(agent, "pull", "nobody", expect=1)
    agent.sync()
    assert current(agent) == "v3"
    other = next(m for m in agent.models() if m["name"] == "other")
    assert (other["state"], other["proofs"]) == ("published", {"proven": 2})
    assert len(other["digest"]) == 64
    assert "2 proven" in say(agent, "models")

    assert "-> v2, pinned" in say(agent, "rollback", "chassis")
    assert current(agent) == "v2"
    assert "there is no older version" in say(agent, "rollback", "chassis", expect=1)
    assert "there is no v9; there are v3, v2" in say(agent, "rollback", "chassis", "v9", expect=1)
    assert "nothing to remove" in say(agent, "prune")
    add(server, "v4", "v5")
    agent.sync()
    assert current(agent) == "v2"
    assert "-> v5" in say(agent, "unpin", "chassis")
    assert "it was not pinned" in say(agent, "unpin", "chassis")
    assert "would be removed: chassis/v2: not among the newest 2" in say(agent, "prune", "--dry-run")
    assert json.loads(agent.call("prune", "--json").stdout)["removed"] == [
        "chassis/v2: removed, not among the newest 2 of its name ([mirror] keep)"
    ]
    assert {p.name for p in (agent.mirror / "chassis").iterdir()} == {"v4", "v5", "current"}
    assert "-> v4, pinned" in say(agent, "pin", "chassis/v4")
    held = {"path": str(agent.mirror / "chassis" / "current"), "version": "v4", "pinned": True}
    assert json.loads(say(agent, "pin", "chassis/v4", "--json")) == held
    assert "no such model is published" in say(agent, "pin", "chassis/v1", expect=1)

    assert say(agent, "wait", "chassis").strip() == str(agent.mirror / "chassis" / "v5")
    assert "chassis/v1 is not published yet, it is ignored: not among" in say(
        agent, "wait", "chassis/v1", "--timeout", "100ms", expect=75
    )
    say(agent, "wait", "chassis", "--timeout", "soon", expect=2)

    assert "whole" in say(agent, "verify")
    damage(agent.mirror / "chassis" / "v4" / "a.bin")
    told = say(agent, "verify", expect=1)
    assert "a.bin: 1 of " in told
    assert "1 of 3 models are damaged; `axomsync verify --repair`" in told
    (document,) = json.loads(agent.call("verify", "chassis/v5", "--json").stdout)
    assert [file["proof"] for file in document["files"]] == ["proven", "proven"]
    assert "repaired" in say(agent, "verify", "chassis/v4", "--repair")
    assert FILES["a.bin"].fault_in(agent.mirror / "chassis" / "v4" / "a.bin") is None


def test_pin_of_a_name_without_current_puts_nothing_into_service(agent: AgentProcess, server: FaultyServer) -> None:
    agent.configure({"drop": {"enabled": False}, "mirror": {"promote": "manual"}})
    add(server, "v1", "v2", "v3")
    agent.sync()
    told = say(agent, "pin", "chassis", expect=1)
    assert "current leads to no version; name the one to hold, as in `axomsync pin chassis/VERSION`" in told
    assert "there are v3, v2, v1" in told
    assert {path.name for path in (agent.mirror / "chassis").iterdir()} == {"v1", "v2", "v3"}
    assert "-> v2, pinned" in say(agent, "pin", "chassis/v2")
    assert "-> v2, pinned" in say(agent, "pin", "chassis")


def test_a_folder_or_an_id_counts_for_more_than_a_label(agent: AgentProcess, server: FaultyServer) -> None:
    agent.configure({"drop": {"enabled": False}, "mirror": {"promote": "manual"}})
    plain, *others = (f"{letter * 8}-1" for letter in "abc")
    for model_id in (plain, *others):  # each folder but the first gets its id, since the labels are the same
        server.add_model("chassis", "v1", FILES, model_id=model_id)
        agent.sync()
    folders = {model_id: f"v1--{model_id[:8]}" for model_id in others} | {plain: "v1"}
    for model_id, folder in folders.items():
        assert f"-> {folder}, pinned" in say(agent, "pin", model_id)
        assert "-> v1, pinned" in say(agent, "pin", "chassis/v1")
        assert f"-> {folder}, pinned" in say(agent, "rollback", "chassis", model_id)
        assert f"-> {folder}, pinned" in say(agent, "rollback", "chassis", folder)
        assert "-> v1, pinned" in say(agent, "rollback", "chassis", "v1")
        say(agent, "unpin", "chassis")
        assert f"-> {folder}\n" in say(agent, "promote", "chassis", folder)
        say(agent, "rollback", "chassis", "v1")
        say(agent, "unpin", "chassis")
    shutil.rmtree(agent.mirror / "chassis" / "v1")
    both = ", ".join(f"v1--{model_id[:8]} (id {model_id})" for model_id in others)
    for verb in (("pin", "chassis/v1"), ("promote", "chassis", "v1"), ("rollback", "chassis", "v1")):
        assert f"several versions are called v1: {both}; name one by its id" in say(agent, *verb, expect=1)


def test_verify_tells_of_all_models_whatever_is_wrong_with_some(agent: AgentProcess, server: FaultyServer) -> None:
    agent.configure({"drop": {"enabled": False}, "mirror": {"keep": 9}})
    add(server, "v1", "v2", "v3", "v4")
    agent.sync()
    (agent.mirror / "chassis" / "v4" / "a.bin").chmod(0)
    for version in ("v2", "v3"):
        damage(agent.mirror / "chassis" / version / "a.bin")
    (gone,) = (model["id"] for model in agent.models() if model["version"] == "v3")
    server.inject(Fault(status=404), f"/models/{gone}/download", times=9)
    done = subprocess.run(
        ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *agent.command("verify", "--repair")],
        env=agent.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    states = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines() if line.startswith("chassis/")}
    assert states == {"chassis/v1": "whole", "chassis/v2": "repaired", "chassis/v3": "damaged"}
    repair, reading, damaged = (line for line in done.stderr.splitlines() if line.startswith("axomsync: "))
    assert repair.startswith("axomsync: chassis/v3: ")
    assert "v4/a.bin: " in reading
    assert damaged.endswith("1 of 3 models are damaged")


def test_with_a_running_agent(agent: AgentProcess, server: FaultyServer) -> None:
    add(server, "v1", "v2", "v3")
    agent.start()
    assert say(agent, "wait", "chassis/v3").strip() == str(agent.mirror / "chassis" / "v3")
    say(agent, "wait", "chassis/v2")
    assert say(agent, "pull", "chassis/v1").strip() == str(agent.mirror / "chassis" / "v1"), "though it is not kept"
    assert "nothing to remove" in say(agent, "prune"), "what was pulled stays"
    damage(agent.mirror / "chassis" / "v2" / "a.bin")
    assert "repaired" in say(agent, "verify", "chassis/v2", "--repair")
    assert FILES["a.bin"].fault_in(agent.mirror / "chassis" / "v2" / "a.bin") is None
    say(agent, "rollback", "chassis", "v1")
    add(server, "v4")
    say(agent, "wait", "chassis/v4")
    eventually("v2 removed", lambda: not (agent.mirror / "chassis" / "v2").exists())
    assert current(agent) == "v1"
    server.add_model("broken", "v1", FILES)
    server.inject(Fault(status=403, body=b'{"detail": "no"}'), "/download", times=100)
    assert "lacks the scope" in say(agent, "pull", "broken", expect=1)
    assert agent.terminate() == 0


def test_a_bar_on_a_terminal(agent: AgentProcess, server: FaultyServer, tmp_path: Path) -> None:
    add(server, "v1")
    server.rate = 500_000
    command = " ".join(map(str, agent.command("pull", "chassis")))
    done = subprocess.run(
        ["script", "-qec", command, str(tmp_path / "typescript")],
        env={**agent.environ, "TERM": "xterm", "COLUMNS": "120"}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "chassis/v1" in done.stdout
    assert "/1.0 MB" in done.stdout
    assert done.stdout.rstrip().endswith(str(agent.mirror / "chassis" / "v1"))
