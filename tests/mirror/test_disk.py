"""Faults of the mirror folder: missing, read-only, full, not mounted, or occupied by another thing."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.mirror.test_lives import faults_in
from tests.rig.agent import AgentProcess, eventually
from tests.rig.faults import Content, FaultyServer

MIB = 1 << 20
Mount = Callable[..., None]
FILES = {"a.bin": Content(6 * MIB, 1), "b/c.bin": Content(1000, 2)}


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Mount a tmpfs with these options on a folder, until the test ends."""
    with ExitStack() as mounted:

        def make(folder: Path, options: str) -> None:
            folder.mkdir(parents=True, exist_ok=True)
            run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder))
            mounted.callback(subprocess.run, ["umount", "-l", str(folder)], check=False, capture_output=True)

        yield make


def run(*command: str) -> None:
    subprocess.run(command, check=True)


def state(agent: AgentProcess) -> tuple[str, str]:
    (model,) = agent.models()
    return model["state"], model["reason"] or ""


def test_a_full_disk_blocks_until_there_is_room(agent: AgentProcess, server: FaultyServer, mount: Mount) -> None:
    mount(agent.mirror, "size=8m")
    agent.configure({"drop": {"enabled": False}, "mirror": {"reserve": "0B"}})
    ballast = agent.mirror / "somebody else's"
    ballast.write_bytes(bytes(5 * MIB))
    server.add_model("chassis", "v1", FILES)
    agent.sync(expect=1)
    total = sum(content.size for content in FILES.values())
    missing = total - 3 * MIB
    name, reason = state(agent)
    assert name == "blocked"
    told = int(reason.split(" more bytes must be free")[0].rsplit(" ", 1)[1])
    assert missing <= told <= missing + MIB
    assert str(agent.mirror) in reason
    assert server.storage_requests() == []

    agent.start()
    asked = len(server.console_requests("/download"))
    ballast.unlink()
    eventually("the model", lambda: (agent.mirror / "chassis" / "v1").exists(), patience=40)
    assert agent.terminate() == 0
    assert faults_in(agent.mirror / "chassis" / "v1", FILES) == []
    assert len(server.console_requests("/download")) - asked <= 2
    assert agent.log().count("more bytes must be free") <= 1


def test_disk_that_fills_up_during_a_download(agent: AgentProcess, server: FaultyServer, mount: Mount) -> None:
    mount(agent.mirror, "size=8m")
    agent.configure({"drop": {"enabled": False}, "mirror": {"reserve": "0B"}, "transfer": {"connections": 2}})
    server.add_model("chassis", "v1", FILES)
    server.rate, server.longest_answer = 2 * MIB, 256 * 1024
    ballast = agent.mirror / "somebody else's"
    agent.start()
    eventually("a request for bytes", lambda: len(server.storage_requests()) > 2)
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(65536)):
                pass
        except OSError:
            pass
    eventually("a blocked model", lambda: state(agent)[0] == "blocked")
    assert str(agent.mirror) in state(agent)[1]
    ballast.unlink()
    eventually("the model", lambda: (agent.mirror / "chassis" / "v1").exists(), patience=40)
    assert agent.terminate() == 0
    assert faults_in(agent.mirror / "chassis" / "v1", FILES) == []


def test_space_is_not_reserved_twice(agent: AgentProcess, server: FaultyServer, mount: Mount) -> None:
    mount(agent.mirror, "size=8m")
    agent.configure({"drop": {"enabled": False}, "mirror": {"reserve": "0B"}})
    server.rate = 4 * MIB
    for version in ("v1", "v2"):
        server.add_model("chassis", version, {"a.bin": Content(6 * MIB, 1)})
    agent.sync(expect=1)
    states = {model["version"]: model["state"] for model in agent.models()}
    assert sorted(states.values()) == ["blocked", "published"]
    assert "more bytes must be free" in next(m["reason"] for m in agent.models() if m["state"] == "blocked")
    assert len({r.key for r in server.storage_requests()}) == 1, "not a byte of the one that does not fit"


def test_the_reserve_stays_free(agent: AgentProcess, server: FaultyServer, mount: Mount) -> None:
    mount(agent.mirror, "size=8m")
    agent.configure({"drop": {"enabled": False}, "mirror": {"reserve": "4MiB"}})
    server.add_model("chassis", "v1", FILES)
    agent.sync(expect=1)
    assert "for this model and the [mirror] reserve" in state(agent)[1]
    assert server.storage_requests() == []


def test_mirror_folder_that_is_missing(agent: AgentProcess, server: FaultyServer) -> None:
    server.add_model("chassis", "v1", FILES)
    agent.mirror.rmdir()
    done = agent.sync(expect=1)
    assert f"{agent.mirror}: it does not exist; create it or correct the configuration" in done.stderr
    assert not agent.mirror.exists(), "a folder that is not mounted must not be made"
    agent.start()
    eventually("the problem", lambda: any(str(agent.mirror) in p["reason"] for p in agent.status()["problems"]))
    agent.mirror.mkdir()
    eventually("the model", lambda: (agent.mirror / "chassis" / "v1").exists())
    eventually("no problem", lambda: agent.status()["problems"] == [])
    assert agent.terminate() == 0


def test_mirror_folder_that_is_read_only(agent: AgentProcess, server: FaultyServer, mount: Mount) -> None:
    mount(agent.mirror, "size=8m")
    run("mount", "-o", "remount,ro", str(agent.mirror))
    agent.configure({"drop": {"enabled": False}, "mirror": {"reserve": "0B"}})
    server.add_model("chassis", "v1", FILES)
    done = agent.sync(expect=1)
    assert str(agent.mirror) in done.stderr
    assert "the filesystem is read-only; remount it read-write" in done.stderr
    run("mount", "-o", "remount,rw", str(agent.mirror))
    agent.sync()
    assert faults_in(agent.mirror / "chassis" / "v1", FILES) == []


def test_mirror_folder_whose_filesystem_is_not_mounted(agent: AgentProcess, server: FaultyServer, mount: Mount) -> None:
    """An empty mount point must not make the agent fetch everything onto the disk below."""
    mount(agent.mirror, "size=16m")
    server.add_model("chassis", "v1", FILES)
    agent.sync()
    run("umount", str(agent.mirror))
    server.requests.clear()
    done = agent.sync(expect=1)
    assert f"{agent.mirror}: none of the 1 published models is there any more; mount its filesystem" in done.stderr
    assert server.storage_requests() == []
    assert list(agent.mirror.iterdir()) == []
    (agent.mirror / ".axomsync").mkdir()
    agent.sync()
    assert faults_in(agent.mirror / "chassis" / "v1", FILES) == []


def test_staging_that_was_deleted(agent: AgentProcess, server: FaultyServer) -> None:
    """Staging may be deleted while the agent is stopped."""
    server.add_model("chassis", "v1", FILES)
    server.rate = 2 * MIB
    agent.start()
    eventually("some bytes", lambda: server.sent() > MIB)
    assert agent.terminate() == 0
    run("rm", "-r", str(agent.mirror / ".axomsync"))
    server.rate = None
    agent.sync()
    assert faults_in(agent.mirror / "chassis" / "v1", FILES) == []
