"""`push`: given files are uploaded now, through the same ledger, and stay where they are."""

import json
import os
import shlex
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from axomsync.sandbox.console import Sandbox
from tests.drop.conftest import dataset, stored
from tests.rig.agent import AgentProcess, eventually
from tests.rig.faults import KEY, Fault, FaultyServer


def test_given_files_are_uploaded_once_and_stay(tmp_path: Path, sandbox: Sandbox) -> None:
    (tmp_path / "elsewhere").mkdir()
    good, bad = tmp_path / "elsewhere" / "a.jsonl", tmp_path / "elsewhere" / "b.txt"
    good.write_bytes(dataset("a"))
    bad.write_bytes(b"{}\nbroken\n")
    with AgentProcess(tmp_path, sandbox.url, sandbox.key) as agent:
        done = agent.call("push", str(good), str(bad), "--json")
        assert done.returncode == 1, done.stderr
        rows = {row["path"]: row for row in json.loads(done.stdout)}
        assert rows[str(good)]["state"] == "uploaded"
        assert rows[str(good)]["folder"] == str(good.parent)
        assert (rows[str(bad)]["state"], rows[str(bad)]["reason"][:16]) == ("rejected", "line 2, column 1")
        assert (good.read_bytes(), bad.read_bytes()) == (dataset("a"), b"{}\nbroken\n")
        assert sorted(path.name for path in good.parent.iterdir()) == ["a.jsonl", "b.txt"]
        done = agent.call("push", str(good))
        assert done.returncode == 0
        assert "duplicate" in done.stdout
        assert agent.call("push", str(tmp_path / "nothing")).returncode == 2
        os.mkfifo(tmp_path / "pipe.jsonl")
        assert (
            "pipe.jsonl: it is no regular file; push the file itself" in agent.call("push", f"{tmp_path}/pipe.jsonl").stderr
        )
        assert list(agent.mirror.iterdir()) == []
        agent.sync(expect=None)
        assert stored(sandbox) == {"a.jsonl": [dataset("a")]}


def test_a_console_that_is_away_is_worth_another_try_and_the_next_agent_makes_it(tmp_path: Path, sandbox: Sandbox) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(dataset("a"))
    config = {"mirror": {"enabled": False}}
    with AgentProcess(tmp_path, "http://127.0.0.1:9/api", sandbox.key, config) as agent:
        done = agent.call("push", str(file))
        assert done.returncode == 75, done.stderr
    with AgentProcess(tmp_path, sandbox.url, sandbox.key, config) as agent:
        agent.sync()
        assert stored(sandbox) == {"a.jsonl": [dataset("a")]}
        assert [row["state"] for row in agent.uploads()] == ["uploaded"]
        assert file.read_bytes() == dataset("a")


def test_a_running_agent_uploads_what_it_is_given(tmp_path: Path, sandbox: Sandbox) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(dataset("a"))
    with AgentProcess(tmp_path, sandbox.url, sandbox.key, {"mirror": {"enabled": False}, "drop": {"rescan": "1h"}}) as agent:
        agent.start()
        done = agent.call("push", str(file), "--json")
        assert done.returncode == 0, done.stderr
        (row,) = json.loads(done.stdout)
        assert (row["path"], row["state"]) == (str(file), "uploaded")
        assert stored(sandbox) == {"a.jsonl": [dataset("a")]}
        assert agent.terminate() == 0


@pytest.fixture
def agent(tmp_path: Path, server: FaultyServer) -> Iterator[AgentProcess]:
    with AgentProcess(tmp_path / "box", server.url, KEY, {"mirror": {"enabled": False}}) as agent:
        yield agent


def puts(server: FaultyServer) -> int:
    return sum(request.method == "PUT" for request in server.storage_requests())


def test_a_pass_uploads_what_it_is_given_beside_its_own_files(agent: AgentProcess, server: FaultyServer) -> None:
    pushed = threading.Event()
    server.inject(Fault(first=pushed.wait), "/bucket/", method="PUT")
    (agent.drop / "own.jsonl").write_bytes(dataset("own"))
    (agent.home / "given.jsonl").write_bytes(dataset("given"))
    agent.launch("sync")
    eventually("its own upload", lambda: puts(server))
    done = agent.call("push", str(agent.home / "given.jsonl"))
    assert (done.returncode, puts(server)) == (0, 2), done.stderr
    pushed.set()
    assert agent.wait() == 0, agent.log()
    assert [row["state"] for row in agent.uploads()] == ["uploaded"] * 2


def test_a_push_goes_on_by_itself_when_the_agent_that_took_it_is_gone(agent: AgentProcess, server: FaultyServer) -> None:
    killed = threading.Event()
    server.inject(Fault(first=killed.wait), "/bucket/", method="PUT")
    file = agent.home / "a.jsonl"
    file.write_bytes(dataset("a"))
    agent.start()
    with subprocess.Popen(agent.command("push", str(file)), env=agent.environ, stdout=subprocess.DEVNULL) as push:
        eventually("the upload", lambda: puts(server))
        agent.kill()
        killed.set()
        assert push.wait(60) == 0
    assert [row["state"] for row in agent.uploads()] == ["uploaded"]


def test_a_bar_for_each_file_on_a_terminal_whatever_its_name(tmp_path: Path, sandbox: Sandbox) -> None:
    names = [b"plain.jsonl", b"red \x1b[31m\n[bold]\xe2\x80\xae.jsonl", b"\xff.jsonl"]
    folder = os.fsencode(tmp_path / "elsewhere")
    os.mkdir(folder)
    for number, name in enumerate(names):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(dataset(str(number), 30_000))
    config = {"mirror": {"enabled": False}, "transfer": {"bandwidth": "2MB/s"}}
    with AgentProcess(tmp_path, sandbox.url, sandbox.key, config) as agent:
        files = [os.fsdecode(os.path.join(folder, name)) for name in names]
        done = subprocess.run(
            ["script", "-qec", shlex.join(agent.command("push", *files)), str(tmp_path / "typescript")],
            env={**agent.environ, "TERM": "xterm", "COLUMNS": "200"}, capture_output=True, timeout=60, check=True,
        )  # fmt: skip
        screen = done.stdout.decode()  # whatever it shows is UTF-8
        shown = ["plain.jsonl", r"red \x1b[31m\n[bold]\u202e.jsonl", r"\xff.jsonl"]
        for text in shown:
            assert f"{text}: uploading" in screen
            assert f"{text}: uploaded" in screen
        assert "B/s" in screen
        assert "\x1b[31m\n" not in screen
        assert "\u202e" not in screen
        assert {row["state"] for row in agent.uploads()} == {"uploaded"}
