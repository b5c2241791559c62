"""Two instances with two keys on one booted machine, installed beside a service without a name."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.rig.agent import eventually
from tests.rig.container import Container
from tests.rig.inside import SandboxInside, sandbox_inside
from tests.rig.installation import PROGRAM
from tests.systemd.conftest import UNIT, install

NAMES = ("eu", "us")


@pytest.fixture
def sandboxes(machine: Container) -> Iterator[dict[str, SandboxInside]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(sandbox_inside(machine)) for name in NAMES}


def status(machine: Container, name: str) -> Any:
    return json.loads(machine.run(PROGRAM, "status", "--instance", name, "--json").stdout)


def held(machine: Container, pid: str) -> set[str]:
    """The files, pipes and sockets of a service."""
    listed = machine.run("find", f"/proc/{pid}/fd", "-type", "l", "-printf", "%l\n").stdout.splitlines()
    return {target for target in listed if target.startswith(("/var", "/srv", "/run", "/etc"))}


def files_of(machine: Container, *folders: str) -> set[str]:
    return set(machine.run("find", *folders, "-type", "f").stdout.splitlines())


def test_two_instances_with_two_keys(machine: Container, sandboxes: dict[str, SandboxInside]) -> None:
    for name, sandbox in sandboxes.items():
        said = machine.run(PROGRAM, "service", "install", "--instance", name).stdout
        assert f"/etc/axomsync/{name}.toml: written" in said
        assert f"systemctl enable --now axomsync@{name}\n" in said
        assert ": written" not in machine.run(PROGRAM, "service", "install", "--instance", name).stdout
        settings = f's,^url = .*,url = "{sandbox.url}",; s,^poll = .*,poll = "1s",; s,^settle = .*,settle = "500ms",'
        machine.run("sed", "-i", settings, f"/etc/axomsync/{name}.toml")
        machine.write(f"/etc/axomsync/{name}.key", f"{sandbox.key}\n", mode=0o600)
        machine.write(f"/var/tmp/{name}/config.json", "{}")
        sandbox.steer("models", name=f"bot-of-{name}", version="v1", folder=f"/var/tmp/{name}")
    units = {name: f"axomsync@{name}.service" for name in NAMES}
    machine.systemctl("enable", "--now", *units.values())
    try:
        for name in NAMES:
            machine.run(PROGRAM, "wait", f"bot-of-{name}", "--instance", name, "--timeout", "30s")
            machine.write(f"/srv/axom/{name}/drop/{name}.jsonl", f'{{"text": "{name}"}}\n')
            machine.run("chown", "axomsync:", f"/srv/axom/{name}/drop/{name}.jsonl")
            eventually("the upload", lambda name=name: status(machine, name)["drop"]["counts"]["uploaded"] == 1)

        pids = [machine.show(unit, "MainPID") for unit in units.values()]
        first, second = (held(machine, pid) for pid in pids)
        assert {"/var/lib/axomsync/eu/state.db", "/var/lib/axomsync/eu/agent.lock"} <= first
        assert first & second == set()
        everyone = {row["instance"]: row for row in json.loads(_all(machine))}
        pages = {name: everyone[name]["agent"]["page"] for name in NAMES}
        assert list(everyone) == [None, *NAMES]
        assert len(set(pages.values())) == 2
        listening = machine.run("ss", "-Hltnp").stdout if machine.run("which", "ss", check=False).returncode == 0 else ""
        assert not listening or all(f"pid={pid}," in listening for pid in pids)
        for name, other in (NAMES, NAMES[::-1]):
            assert [p["state"] for p in _models(machine, name)] == ["published"]
            assert [upload["filename"] for upload in sandboxes[name].steer("uploads")] == [f"{name}.jsonl"]
            assert not any(f"bot-of-{other}" in file for file in files_of(machine, f"/srv/axom/{name}"))
            credential = f"/run/credentials/{units[name]}/axom_key"
            assert machine.run("cat", credential).stdout.strip() == sandboxes[name].key != sandboxes[other].key
        doctor = machine.run(PROGRAM, "doctor", "--no-write", "--instance", "eu", "--json", check=False).stdout
        found = {(row["subject"], row["verdict"]): row["found"] for row in json.loads(doctor)}
        assert found["unit", "ok"] == "axomsync@eu.service lets its service write to every folder"
        assert found["instances", "ok"].startswith("2 more")

        assert "/etc/axomsync/us.toml is in use" in machine.run(PROGRAM, "reload", "--instance", "us").stdout
        logged = machine.run(PROGRAM, "logs", "--instance", "us").stdout
        assert "works with /etc/axomsync/us.toml" in logged
        assert "eu.toml" not in logged

        _a_key_is_rotated_by_a_reload(machine, sandboxes["eu"], pids[0])
        kept = {
            path for path in files_of(machine, "/etc/axomsync", "/var/lib/axomsync") if not path.endswith(("-wal", "-shm"))
        }
        machine.run(PROGRAM, "service", "uninstall", "--instance", "eu")
        assert [machine.show(unit, "ActiveState") for unit in units.values()] == ["inactive", "active"]
        assert machine.show(units["us"], "MainPID") == pids[1]
        assert "axomsync@us.service: stopped and disabled" in machine.run(PROGRAM, "service", "uninstall").stdout
        assert machine.show(units["us"], "ActiveState") == "inactive"
        assert machine.run("find", "/etc/systemd/system", "/usr/local/lib", "-name", "axomsync*").stdout == ""
        assert kept <= files_of(machine, "/etc/axomsync", "/var/lib/axomsync")
        assert {f"/srv/axom/{name}/models/bot-of-{name}/v1/config.json" for name in NAMES} <= files_of(machine, "/srv/axom")
    finally:
        machine.systemctl("disable", "--now", *units.values(), check=False)
        machine.run("rm", "-rf", *(f"/etc/axomsync/{name}.{kind}" for name in NAMES for kind in ("toml", "key")))
        install(machine)
    assert machine.show(UNIT, "LoadState") == "loaded"


def _a_key_is_rotated_by_a_reload(machine: Container, sandbox: SandboxInside, pid: str) -> None:
    key = sandbox.steer("keys", scopes=["read", "models", "datasets"])["key"]
    sandbox.steer("keys/revoke", key=sandbox.key)
    eventually("the refusal", lambda: status(machine, "eu")["console"]["ok"] is False)
    machine.write("/etc/axomsync/eu.key", f"{key}\n", mode=0o600)
    machine.systemctl("reload", "axomsync@eu.service")
    eventually("the new key", lambda: status(machine, "eu")["console"]["ok"])
    assert machine.show("axomsync@eu.service", "MainPID") == pid


def _all(machine: Container) -> str:
    return machine.run(PROGRAM, "status", "--all", "--json").stdout


def _models(machine: Container, name: str) -> Any:
    return json.loads(machine.run(PROGRAM, "models", "--instance", name, "--json", check=False).stdout)
