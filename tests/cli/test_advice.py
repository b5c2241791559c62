"""What `status`, `uploads` and `models` end in: the command that comes next, where there is something to do."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from axomsync.cli import advice, tables
from tests.rig.agent import AgentProcess, eventually
from tests.rig.faults import Content, Fault, FaultyServer


def upload(path: str, state: str) -> dict[str, Any]:
    return {"path": path, "state": state}


def model(name: str, state: str, damage: str | None = None) -> dict[str, Any]:
    return {"name": name, "version": "v1", "state": state, "damage": damage}


def status(drop: Path, *subjects: str, running: bool = True, paused: bool = False) -> dict[str, Any]:
    problems = [{"subject": subject, "next_attempt": None} for subject in subjects]
    agent = {"running": running, "paused": paused}
    return {"instance": None, "agent": agent, "drop": {"folder": str(drop)}, "problems": problems}


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    for name in ("bad.jsonl", "sub folder/it's.jsonl"):
        file = tmp_path / "rejected" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path


def test_an_instance_has_its_name_in_each_step(drop: Path, tmp_path: Path) -> None:
    (tmp_path / "axomsync@.service").touch()
    stopped = {**status(drop, running=False), "instance": "eu"}
    assert advice.of_status(stopped, [], units=[str(tmp_path)]) == ["to start the agent: systemctl start axomsync@eu"]
    steps = advice.of_status({**status(drop, "console", "llama/v1", paused=True), "instance": "eu"}, ["llama/v1"])
    assert [step.partition(": ")[2] for step in steps] == [
        "axomsync --instance eu resume",
        "axomsync --instance eu doctor",
        "axomsync --instance eu retry llama/v1",
    ]


def test_when_all_is_well_nothing_is_to_be_done(drop: Path) -> None:
    assert advice.of_status(status(drop), []) == []
    assert advice.of_uploads([upload("a.jsonl", "uploaded"), upload("b.jsonl", "queued")], drop) == []
    assert advice.of_models([model("llama", "published"), model("soon", "waiting")]) == []


def test_the_agent_is_started_as_it_is_installed(drop: Path, tmp_path: Path) -> None:
    stopped = status(drop, running=False)
    assert advice.of_status(stopped, [], units=[str(tmp_path)]) == ["to start the agent: axomsync run"]
    (tmp_path / "axomsync.service").touch()
    assert advice.of_status(stopped, [], units=[str(tmp_path)]) == ["to start the agent: systemctl start axomsync"]


@pytest.mark.parametrize(
    ("document", "step"),
    [
        ({"paused": True}, "to go on: axomsync resume"),
        ({"subjects": ("console",)}, "to look into it: axomsync doctor"),
        ({"subjects": ("evil/v1",)}, "to know more, and try again once it is mended: axomsync retry evil/v1"),
    ],
)
def test_status_says_what_comes_next(document: dict[str, Any], step: str, drop: Path) -> None:
    subjects = document.pop("subjects", ())
    assert advice.of_status(status(drop, *subjects, **document), [s for s in subjects if "/" in s]) == [step]


def test_what_retry_does_not_take_is_not_advised(drop: Path) -> None:
    subjects = ("llama/v1", "llama/current", "hook current_moved", "health of llama/v2")
    assert advice.of_status(status(drop, *subjects), []) == []


def test_each_retry_that_status_advises_is_taken(server: FaultyServer, agent: AgentProcess) -> None:
    """What goes on by itself, what is carried, and what the agent tells of besides files and models needs no retry."""
    agent.configure({"drop": {"max_put": "100B"}, "mirror": {"exclude": ["*"]}})
    server.add_model("bot", "v1", {"a.bin": Content(10)})
    (agent.drop / "held.jsonl").write_text('{"a": 1}\n' * 100)
    agent.sync(expect=1)
    agent.call("pull", "bot")
    (agent.mirror / "bot" / "current").unlink()
    (agent.mirror / "bot" / "current").mkdir()

    def subjects() -> set[str]:
        return {problem["subject"] for problem in agent.status()["problems"]}

    with (agent.drop / "open.jsonl").open("w") as writing:
        writing.write('{"a": 2}\n')
        writing.flush()
        agent.start()
        eventually("all of these", lambda: subjects() >= {"bot/current", "held.jsonl", "open.jsonl"})
        advised = [step for step in agent.call("status").stdout.splitlines() if "axomsync retry" in step]
        assert [step.rpartition(": ")[2] for step in advised] == ["axomsync retry held.jsonl"]
        assert agent.call("retry", "held.jsonl").returncode == 0


def test_the_command_that_moves_a_file_back_does_so_in_a_shell(drop: Path) -> None:
    paths = ["bad.jsonl", "sub folder/it's.jsonl"]
    steps = advice.of_uploads([upload(path, "rejected") for path in (*paths, "gone.jsonl")], drop)
    assert len(steps) == 2
    (drop / "sub folder").mkdir()
    for step in steps:
        said, _, command = step.partition(": ")
        assert said == "correct it and move it back"
        subprocess.run(["sh", "-c", command], check=True)
    assert all((drop / path).exists() for path in paths)


def test_of_many_a_few_are_named(drop: Path) -> None:
    steps = advice.of_uploads([upload(f"{number}.jsonl", "failed") for number in range(9)], drop)
    assert steps[-1] == "and 6 more: axomsync uploads --state failed"
    assert len(steps) == advice.MOST + 1


def test_damage_is_mended_by_another_command() -> None:
    steps = advice.of_models([model("llama", "published", damage="w: 3 bytes"), model("evil", "blocked")])
    assert [step.rpartition(": ")[2] for step in steps] == ["axomsync retry evil/v1", "axomsync verify --repair llama/v1"]


def test_the_verbs_end_in_them(server: FaultyServer, agent: AgentProcess) -> None:
    server.add_model("evil", "v1", {"../w": Content(10)})
    (agent.drop / "broken.jsonl").write_text("broken\n")
    agent.sync(expect=1)
    back = f"correct it and move it back: mv {agent.drop}/rejected/broken.jsonl {agent.drop}/broken.jsonl"
    assert agent.call("uploads").stdout.splitlines()[-1] == back
    assert agent.call("models").stdout.splitlines()[-1].endswith("axomsync retry evil/v1")
    assert back in agent.call("status").stdout.splitlines()[-4:]
    assert agent.call("uploads", "--csv").stdout.count("mv ") == 0, "that is for programs"


def test_without_an_agent_status_says_how_the_console_was(server: FaultyServer, agent: AgentProcess) -> None:
    agent.sync()
    shown = agent.call("status").stdout
    assert "reachable" not in shown, "nobody has asked since"
    assert f"answered last at {agent.status()['console']['last_poll']}" in shown
    server.inject(Fault(status=503), "/api/", times=99)
    agent.sync(expect=75)
    assert "trouble when the agent ended: " in agent.call("status").stdout


def test_plain_tables_are_aligned_by_what_a_terminal_shows() -> None:
    plain = tables.table(("A", "B"), [("größe", 1), ("模型", None), ("x", "\x1b[2J")]).plain()
    assert plain == "A      B\ngröße  1\n模型   -\nx      \\x1b[2J\n"
