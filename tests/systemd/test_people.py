"""Who may do what on a machine with the service: members of its group with any umask, the admin, and everybody else."""

import json
import re
from collections.abc import Iterator

import pytest

from tests.rig.agent import eventually
from tests.rig.container import Container
from tests.rig.inside import SandboxInside
from tests.rig.installation import PROGRAM
from tests.systemd.conftest import CONFIG, KEY, UNIT

DROP = "/srv/axom/drop"


class Person:
    """Somebody on the machine, with a umask of their own."""

    def __init__(self, machine: Container, name: str, umask: str) -> None:
        self.machine, self.name, self.umask = machine, name, umask

    def does(self, script: str, *, check: bool = True) -> str:
        shell = f"umask {self.umask}; set -e; cd ~; {script}"
        words = ("runuser", "-u", self.name, "--", "env", f"HOME=/home/{self.name}", "sh", "-c", shell)
        done = self.machine.run(*words, check=check)
        return done.stdout + done.stderr


@pytest.fixture(scope="session")
def people(installed: Container) -> dict[str, Person]:
    """Two who may drop and one who may not."""
    for name in ("ann", "bea", "carl"):
        installed.run("useradd", "--create-home", name)
    for name in ("ann", "bea"):
        installed.run("usermod", "-aG", "axomsync", name)
    umasks = {"ann": "022", "bea": "077", "carl": "022"}
    return {name: Person(installed, name, umask) for name, umask in umasks.items()}


@pytest.fixture
def running(machine: Container, sandbox: SandboxInside) -> Iterator[Container]:
    machine.run("sh", "-c", f"rm -rf {DROP}/* {DROP}/.axomsync /var/lib/axomsync/*")
    machine.write(CONFIG, f'[console]\nurl = "{sandbox.url}"\n[drop]\nsettle = "300ms"\nrescan = "1s"\n[web]\nlisten = ""\n')
    machine.write(KEY, sandbox.key + "\n", mode=0o600)
    machine.systemctl("start", UNIT)
    yield machine
    machine.systemctl("stop", UNIT)


def there(machine: Container, path: str) -> None:
    eventually(path, lambda: machine.run("test", "-e", path, check=False).returncode == 0, patience=30)


def told(machine: Container, subject: str) -> str:
    """The reason why a file is not further."""
    reasons: list[str] = []

    def probe() -> bool:
        problems = json.loads(machine.run(PROGRAM, "status", "--json").stdout)["problems"]
        reasons[:] = [p["reason"] for p in problems if p["subject"] == subject or subject in p["reason"]]
        return bool(reasons)

    eventually(f"a problem of {subject}", probe)
    return reasons[0]


def the_command(reason: str) -> str:
    return reason.partition("; run: ")[2]


def uploads_of(machine: Container, path: str) -> list[tuple[str, str]]:
    """State and id of each upload from a path."""
    rows = json.loads(machine.run(PROGRAM, "uploads", "--json").stdout)
    return [(row["state"], row["upload_id"]) for row in rows if row["path"] == path]


def forget_and_drop_again(person: Person, path: str) -> None:
    """What was uploaded is not sent again, until it is forgotten."""
    machine = person.machine
    ((_, first),) = uploads_of(machine, path)
    again = f"cat '{DROP}/uploaded/{path}' > '{DROP}/{path}'"
    person.does(again)
    eventually("a duplicate", lambda: ("duplicate", first) in uploads_of(machine, path))
    eventually("put away", lambda: machine.run("test", "-e", f"{DROP}/{path}", check=False).returncode == 1)
    assert "this user may not steer the agent; use sudo" in person.does(f"{PROGRAM} forget '{path}'", check=False)
    machine.run(PROGRAM, "forget", path)
    person.does(again)
    eventually("another upload", lambda: [state for state, _ in uploads_of(machine, path)] == ["uploaded"])
    assert uploads_of(machine, path)[0][1] != first
    eventually("put away", lambda: machine.run("test", "-e", f"{DROP}/{path}", check=False).returncode == 1)


def drop_on_another_filesystem(person: Person, folder: str) -> None:
    """A disk that root mounted in the drop folder, for the group: nothing there inherits rights from above."""
    machine = person.machine
    person.does(f"mkdir '{DROP}/{folder}'")
    machine.run("mount", "-t", "tmpfs", "-o", "size=8m,mode=2775,gid=axomsync", "tmpfs", f"{DROP}/{folder}")
    try:
        person.does(f"echo '{{\"text\": \"of a disk of {person.name}\"}}' > '{DROP}/{folder}/t.jsonl'")
        if person.umask == "077":
            reason = told(machine, f"{folder}/t.jsonl")
            assert "the service's user axomsync may not read it; run: " in reason
            person.does(the_command(reason))
        there(machine, f"{DROP}/uploaded/{folder}/t.jsonl.receipt.json")
        eventually("put away", lambda: machine.run("ls", f"{DROP}/{folder}").stdout == "")
    finally:
        machine.run("umount", "--lazy", f"{DROP}/{folder}")


@pytest.mark.parametrize("name", ["ann", "bea"])
def test_the_walk(name: str, running: Container, people: dict[str, Person]) -> None:
    """Sub-folders, a broken file, its correction by the words of the reason file, what is moved in: nothing is stuck."""
    person, machine, sub = people[name], running, f"set of {name}"
    person.does(f"mkdir -p '{DROP}/{sub}/deep'; echo '{{\"text\": \"{name}\"}}' > '{DROP}/{sub}/deep/a.jsonl'")
    there(machine, f"{DROP}/uploaded/{sub}/deep/a.jsonl.receipt.json")

    person.does(f"echo 'no json' > '{DROP}/{sub}/broken.jsonl'")
    there(machine, f"{DROP}/rejected/{sub}/broken.jsonl.reason.txt")
    reason = person.does(f"cat '{DROP}/rejected/{sub}/broken.jsonl.reason.txt'")
    goal = re.search(r"correct the file and move it back to (.*)", reason)
    assert goal is not None
    person.does(f"cd '{DROP}/rejected/{sub}'; echo '{{\"text\": \"mended\"}}' > broken.jsonl; mv broken.jsonl '{goal[1]}'")
    there(machine, f"{DROP}/uploaded/{sub}/broken.jsonl.receipt.json")

    person.does(f'echo \'{{"text": "secret of {name}"}}\' > secret.jsonl; chmod 600 secret.jsonl; mv secret.jsonl {DROP}')
    reason = told(machine, "secret.jsonl")
    assert f"{DROP}/secret.jsonl: the service's user axomsync may not read it; run: " in reason
    person.does(the_command(reason))
    there(machine, f"{DROP}/uploaded/secret.jsonl.receipt.json")

    person.does(f'mkdir moved-{name}; echo \'{{"text": "moved by {name}"}}\' > moved-{name}/m.jsonl; mv moved-{name} {DROP}')
    reason = told(machine, f"moved-{name}")
    assert re.search(rf"{DROP}/moved-{name}.*the service's user axomsync may not .*; run: ", reason), reason
    person.does(the_command(reason))
    there(machine, f"{DROP}/uploaded/moved-{name}/m.jsonl.receipt.json")

    forget_and_drop_again(person, f"{sub}/deep/a.jsonl")
    drop_on_another_filesystem(person, f"{sub}/disk")

    left = machine.run("find", DROP, "-name", "*.jsonl", "-not", "-path", f"{DROP}/uploaded/*").stdout
    assert left == ""
    eventually("no problem", lambda: not json.loads(machine.run(PROGRAM, "status", "--json").stdout)["problems"])
    people["bea" if name == "ann" else "ann"].does(
        f"cp '{DROP}/uploaded/{sub}/broken.jsonl' mine; rmdir '{DROP}/{sub}/deep'"
    )


def test_who_looks_and_may_not_learns_what_to_do(running: Container, people: dict[str, Person]) -> None:
    join = "use sudo, or join group axomsync: sudo usermod -aG axomsync carl, then log in again"
    for verb in ("status", "uploads", "explain x", "models"):
        said = people["carl"].does(f"{PROGRAM} {verb}", check=False)
        assert f"carl may not look into /var/lib/axomsync; {join}" in said, verb
    assert "sudo" in people["carl"].does(f"{PROGRAM} pause", check=False)
    assert "running" in people["ann"].does(f"{PROGRAM} status"), "a member of the group may look"
    running.systemctl("stop", UNIT)
    assert "not running" in people["ann"].does(f"{PROGRAM} status"), "also when the agent is down"
    running.systemctl("start", UNIT)
    running.systemctl("kill", "--signal=KILL", UNIT)
    running.systemctl("stop", UNIT)
    said = people["ann"].does(f"{PROGRAM} status", check=False)
    assert "not running" in said or "use sudo, or start the agent" in said, "also when it came to a sudden end"
    assert "lend it to this command" in people["ann"].does(f"{PROGRAM} base-models", check=False)


def test_a_configuration_that_is_closed(running: Container, people: dict[str, Person]) -> None:
    running.run("chmod", "600", CONFIG)
    try:
        assert f"{CONFIG}: can't be read: carl may not read it; use sudo" in people["carl"].does(
            f"{PROGRAM} status", check=False
        )
        running.run("chmod", "700", "/etc/axomsync")
        assert "carl may not look into /etc/axomsync; use sudo" in people["carl"].does(f"{PROGRAM} status", check=False)
    finally:
        running.run("chmod", "755", "/etc/axomsync")
        running.run("chmod", "644", CONFIG)


def test_a_persons_own_configuration_does_not_win_over_the_machines(
    running: Container, people: dict[str, Person], sandbox: SandboxInside
) -> None:
    carl, file = people["carl"], "/home/carl/.config/axomsync/config.toml"
    key = f"AXOM_KEY={sandbox.key}"
    said = carl.does(f"{key} {PROGRAM} init --url {sandbox.url}")
    assert f"but {CONFIG} wins over it: give every command --config {file}, or set AXOMSYNC_CONFIG" in said
    assert "sudo axomsync init --force" in said
    (command,) = re.findall(r"next: `axomsync (run .*?)`", said)
    assert command == f"run --config {file}"
    assert f"{file}: good" in carl.does(f"{PROGRAM} config check --config {file}")
    running.run("rm", "-r", "/home/carl/.config")
    said = carl.does(f"{key} AXOMSYNC_CONFIG={file} {PROGRAM} init --url {sandbox.url}")
    assert "wins" not in said
    running.run("rm", "-r", "/home/carl/.config", "/home/carl/axom")
