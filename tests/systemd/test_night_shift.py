"""Night shift: everything that a night on call brings, one after the other, to the shipped package on a booted machine.

Nothing runs from the checkout but the far side. At each step `axomsync status --json` must tell the truth.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

import axomsync
from tests.rig.agent import PATIENCE, eventually
from tests.rig.container import Container
from tests.rig.documents import DOCUMENTS, examples
from tests.rig.inside import SandboxInside, sandbox_inside
from tests.rig.installation import CHECKOUT, PROGRAM, SOURCES, machine_with_program

UNIT = "axomsync.service"
CONFIG = "/etc/axomsync/config.toml"
KEY = "/etc/axomsync/key"
INSTANCE = "/etc/axomsync/eu.toml"
PACKAGES = "/opt/packages"
NEXT_VERSION = "99.0.0"
NEXT_MIGRATION = "m990_of_the_next_version"
MB = 1_000_000
DISK_MB = 64


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Debian package of this checkout, in a folder of its own."""
    return build(CHECKOUT, tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="module")
def next_package(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Beside it, that of a newer version with one more migration."""
    source = tmp_path_factory.mktemp("next") / "source"
    shutil.copytree(CHECKOUT, source, ignore=shutil.ignore_patterns(".*", "tests", "benchmarks", "img", "__pycache__"))
    version = source / "axomsync/__init__.py"
    version.write_text(version.read_text().replace(axomsync.__version__, NEXT_VERSION))
    schema = source / "axomsync/ledger/schema.py"
    migration = (
        f'@migrations()\ndef {NEXT_MIGRATION}(db: Database) -> None:\n    db.execute("CREATE TABLE next (n INTEGER)")\n'
    )
    schema.write_text(schema.read_text().replace("\ndef _execute_all", f"\n{migration}\n\ndef _execute_all", 1))
    return build(source, package.parent)


def build(source: Path, folder: Path) -> Path:
    # Unpacked again at once, so not compressed.
    environ = {**os.environ, "DPKG_DEB_COMPRESSOR_TYPE": "none"}
    done = subprocess.run(
        [source / "debian/build.sh", sys.executable, folder], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


class Night:
    """The box on its night: what whoever is on call does there, and what is told then."""

    def __init__(self, machine: Container, sandbox: SandboxInside, package: Path) -> None:
        self.machine, self.sandbox = machine, sandbox
        self.package = f"{PACKAGES}/{package.name}"
        self.next_package = self.package.replace(axomsync.__version__, NEXT_VERSION)
        self.dropped: dict[str, str] = {}  # name to SHA-256
        self.models: list[str] = []

    def status(self) -> Any:
        return json.loads(self.machine.run("axomsync", "status", "--json").stdout)

    def told(self, what: str, is_so: Callable[[Any], bool], *, patience: float = PATIENCE) -> Any:
        """The status that tells `what`, as soon as it does."""
        seen: list[Any] = []

        def probe() -> bool:
            seen[:] = [self.status()]
            return is_so(seen[0])

        try:
            eventually(what, probe, patience=patience)
        except AssertionError as missing:
            raise AssertionError(f"{missing}; the last status: {json.dumps(seen[0], indent=1)}\n{self.log()}") from None
        return seen[0]

    def told_all_is_through(self) -> Any:
        """The status that tells of everything so far that it is where it belongs."""
        goal = (len(self.dropped), len(self.models))
        return self.told(
            "everything through", lambda status: is_well(status) and (uploaded(status), published(status)) == goal
        )

    def log(self) -> str:
        return self.machine.journal(UNIT)

    @property
    def pid(self) -> int:
        return int(self.machine.show(UNIT, "MainPID"))

    def upload(self, name: str) -> Any:
        rows = json.loads(self.machine.run("axomsync", "uploads", "--json").stdout)
        return next((row for row in rows if row["filename"] == name), None)

    def model(self, name: str) -> Any:
        # Without the service's credential it says so, and lists what the ledger knows.
        rows = json.loads(self.machine.run("axomsync", "models", "--json", check=False).stdout)
        return next((row for row in rows if row["name"] == name), None)

    def install(self, package: str, *, check: bool = True) -> str:
        done = self.machine.run("dpkg", "--install", package, check=check)
        assert check or done.returncode != 0
        return done.stdout + done.stderr

    def configure(self, more: str = "") -> None:
        text = (
            f"""[console]\nurl = "{self.sandbox.url}"\n[drop]\nsettle = "500ms"\n[mirror]\npoll = "1s"\nreserve = "4MiB"\n"""
        )
        self.machine.write(CONFIG, text + more)

    def give_key(self, key: str) -> None:
        self.machine.write(KEY, f"{key}\n", mode=0o600)

    def drop(self, name: str) -> None:
        text = "".join(f'{{"text": "{name}, line {number}"}}\n' for number in range(2000))
        self.dropped[name] = hashlib.sha256(text.encode()).hexdigest()
        self.machine.run("tee", f"/srv/axom/drop/{name}", stdin=text)

    def train(self, name: str, size_mb: int) -> None:
        folder = f"/var/tmp/{name}"
        self.machine.run("sh", "-c", f"mkdir {folder} && head -c {size_mb}MB /dev/urandom > {folder}/weights.bin")
        self.machine.write(f"{folder}/config.json", "{}")
        self.sandbox.steer("models", name=name, version="v1", folder=folder)
        self.models.append(name)

    def storage_rate(self, rate: float | None) -> None:
        self.sandbox.steer("settings", rate=rate)


def is_well(status: Any) -> bool:
    return status["agent"]["running"] and status["console"]["ok"] and not status["problems"]


def counts(status: Any, side: str) -> dict[str, int]:
    return {state: count for state, count in status[side]["counts"].items() if count}


def uploaded(status: Any) -> int:
    return counts(status, "drop").get("uploaded", 0)


def published(status: Any) -> int:
    return counts(status, "mirror").get("published", 0)


def the_package_is_installed_and_waits_for_its_key(night: Night) -> None:
    said = night.install(night.package)
    assert "not started, as it has no API key" in said
    machine = night.machine
    assert machine.systemctl("is-active", UNIT, check=False).stdout == "inactive\n"
    assert machine.systemctl("is-enabled", UNIT, check=False).stdout == "disabled\n"
    verdict = machine.run("systemd-analyze", "verify", "--man=no", UNIT)
    assert verdict.stdout + verdict.stderr == ""
    assert machine.run("stat", "-c", "%U %a", "/srv/axom/drop").stdout == "axomsync 2770\n"
    for shipped in (
        "man/man1/axomsync-status.1.gz",
        "bash-completion/completions/axomsync",
        "doc/axomsync/docs/operating.md",
    ):
        machine.run("test", "-s", f"/usr/share/{shipped}")
    status = night.status()
    assert status["version"] == axomsync.__version__
    assert status["agent"]["running"] is False


def it_starts_with_a_key_by_credential(night: Night) -> None:
    night.configure()
    night.give_key(night.sandbox.key)
    night.machine.systemctl("enable", "--now", UNIT)
    status = night.told("an agent that is well", is_well)
    assert status["agent"]["pid"] == night.pid
    assert night.machine.run("ps", "-o", "user=", str(night.pid)).stdout.strip() == "axomsync"


def a_file_goes_up_while_a_model_comes_down(night: Night) -> None:
    night.storage_rate(0.5 * MB)
    night.train("first", 24)
    night.drop("first.jsonl")
    status = night.told("the transfer", lambda status: "down" in [row["direction"] for row in status["transfers"]])
    assert [row["bytes_total"] for row in status["transfers"] if row["direction"] == "down"] == [24 * MB + 2]
    assert counts(status, "mirror") == {"downloading": 1}
    night.told("the upload", lambda status: uploaded(status) == len(night.dropped))


def kill_9_costs_nothing(night: Night) -> None:
    eventually("durable bytes", lambda: night.model("first")["bytes_done"] > 0)
    durable, killed = night.model("first")["bytes_done"], night.pid
    night.machine.systemctl("kill", "--signal=KILL", UNIT)
    status = night.told("nobody running", lambda status: not status["agent"]["running"])
    assert status["agent"]["pid"] is None
    assert status["transfers"] == []
    night.storage_rate(None)
    status = night.told_all_is_through()
    assert status["agent"]["pid"] == night.pid != killed
    (resumed,) = re.findall(rf"first/v1: resuming at (\d+) of {24 * MB + 2} bytes", night.log())
    assert int(resumed) >= durable, "more may have become durable before the kill came"


def without_a_network_it_says_so_and_waits(night: Night) -> None:
    night.machine.run("ip", "link", "set", "lo", "down")
    night.drop("cut-off.jsonl")
    # Nothing is refused, packets just vanish: that an answer is overdue is all there is to know.
    status = night.told("no console", lambda status: status["console"]["ok"] is False)
    assert status["agent"]["running"]
    assert "console" in [problem["subject"] for problem in status["problems"]]
    eventually("the file waiting", lambda: (night.upload("cut-off.jsonl") or {}).get("state") == "queued")
    night.machine.run("ip", "link", "set", "lo", "up")
    night.told_all_is_through()


def killed_while_the_network_is_cut_it_says_so_and_goes_on(night: Night) -> None:
    """Both at once, for who is short of time; and without an address, as after a lost lease, a new call fails at once."""
    night.machine.run("ip", "address", "del", "127.0.0.1/8", "dev", "lo")
    night.drop("cut-off.jsonl")
    killed = night.pid
    night.machine.systemctl("kill", "--signal=KILL", UNIT)
    night.told("nobody running", lambda status: not status["agent"]["running"])
    status = night.told("no console", lambda status: status["agent"]["running"] and status["console"]["ok"] is False)
    assert status["agent"]["pid"] == night.pid != killed
    eventually("the file waiting", lambda: (night.upload("cut-off.jsonl") or {}).get("state") == "queued")
    night.machine.run("ip", "address", "add", "127.0.0.1/8", "dev", "lo")
    night.storage_rate(None)
    night.machine.run("axomsync", "retry")
    night.told_all_is_through()


def on_a_full_disk_a_model_waits_for_room(night: Night) -> None:
    free = night.status()["mirror"]["free_bytes"]
    night.machine.run("fallocate", "-l", str(free - 10 * MB), "/srv/axom/core.dump")
    night.train("second", 20)
    status = night.told("no room", lambda status: counts(status, "mirror").get("blocked") == 1)
    (problem,) = status["problems"]
    assert "second" in problem["subject"]
    assert "free" in problem["reason"]
    assert status["mirror"]["free_bytes"] <= 10 * MB
    assert problem["reason"] in night.machine.run("axomsync", "explain", "second", "--json").stdout
    night.machine.run("rm", "/srv/axom/core.dump")
    night.machine.run("axomsync", "retry", "second")
    night.told_all_is_through()


def a_revoked_key_is_told_and_replaced(night: Night) -> None:
    night.sandbox.steer("keys/revoke", key=night.sandbox.key)
    status = night.told("the refusal", lambda status: status["console"]["ok"] is False)
    assert "key" in status["console"]["error"]
    assert "console" in [problem["subject"] for problem in status["problems"]]
    night.drop("keyless.jsonl")
    eventually("the file waiting", lambda: (night.upload("keyless.jsonl") or {}).get("state") == "queued")
    night.give_key(night.sandbox.steer("keys", scopes=["read", "models", "datasets"])["key"])
    before = night.pid
    night.machine.systemctl("reload", UNIT)
    status = night.told_all_is_through()
    assert status["agent"]["pid"] == night.pid == before


def a_reload_takes_the_new_configuration_over(night: Night) -> None:
    before = night.pid
    night.configure('exclude = ["scratch-*"]\n')
    reloads = night.log().count("reloaded")
    night.machine.systemctl("reload", UNIT)
    eventually("the reload", lambda: night.log().count("reloaded") > reloads)
    night.train("scratch-third", 1)
    night.models.remove("scratch-third")
    status = night.told("what is excluded", lambda status: counts(status, "mirror").get("ignored") == 1)
    assert published(status) == len(night.models)
    assert is_well(status)
    assert status["agent"]["pid"] == night.pid == before


def an_upgrade_brings_the_ledger_along(night: Night) -> None:
    before = night.status()
    night.install(night.next_package)
    status = night.told("the next version", is_well)
    assert status["version"] == NEXT_VERSION
    assert status["agent"]["pid"] == night.pid != before["agent"]["pid"]
    assert [counts(status, side) for side in ("drop", "mirror")] == [counts(before, side) for side in ("drop", "mirror")]
    script = "import sqlite3; print(*sqlite3.connect('file:/var/lib/axomsync/state.db?mode=ro', uri=True).execute("
    applied = night.machine.run("python3", "-c", f"{script}'SELECT name FROM _sqlite_migrations'))").stdout
    assert NEXT_MIGRATION in applied
    night.drop("after-the-upgrade.jsonl")
    night.told_all_is_through()


def a_downgrade_is_refused(night: Night) -> None:
    said = night.install(night.package, check=False)
    assert f"written by version {NEXT_VERSION}, and version {axomsync.__version__} does not know {NEXT_MIGRATION}" in said
    assert night.told("the agent as before", is_well)["version"] == NEXT_VERSION
    # Who has the older program by other means is refused by the ledger itself.
    older = night.machine.run(PROGRAM, "status", check=False)
    assert older.returncode == 78
    assert "written by a newer axomsync" in older.stderr


def an_instance_comes_through_an_upgrade(night: Night) -> None:
    """The same version again goes the way of any other one. What runs without being enabled runs again, too."""
    machine, unit = night.machine, "axomsync@eu.service"
    said = machine.run("axomsync", "service", "install", "--instance", "eu").stdout
    assert "/etc/axomsync/eu.toml: written" in said
    machine.run("sed", "-i", f's,^url = .*,url = "{night.sandbox.url}",; s,^include = .*,include = ["none"],', INSTANCE)
    key = night.sandbox.steer("keys", scopes=["read", "models"])["key"]
    machine.write("/etc/axomsync/eu.key", f"{key}\n", mode=0o600)
    machine.systemctl("enable", "--now", unit)
    machine.systemctl("disable", UNIT)
    before = [night.pid, int(machine.show(unit, "MainPID"))]
    night.install(night.package)
    after = [night.pid, int(machine.show(unit, "MainPID"))]
    assert 0 not in after
    assert not set(before) & set(after)
    assert machine.systemctl("is-enabled", UNIT, check=False).stdout == "disabled\n"
    rows = json.loads(machine.run("axomsync", "status", "--all", "--json").stdout)
    assert [(row["instance"], row["agent"]["running"]) for row in rows] == [(None, True), ("eu", True)]
    night.told("an agent that is well", is_well)


def all_bytes_are_right(night: Night) -> None:
    for name, sha256 in night.dropped.items():
        upload = night.upload(name)
        assert (upload["state"], upload["sha256"]) == ("uploaded", sha256)
        assert night.sandbox.sha256(upload["key"]) == sha256
        receipt = json.loads(night.machine.run("cat", f"/srv/axom/drop/uploaded/{name}.receipt.json").stdout)
        assert (receipt["upload_id"], receipt["sha256"]) == (upload["upload_id"], sha256)
    granted = [upload["filename"] for upload in night.sandbox.steer("uploads") if upload["stored"]]
    assert sorted(granted) == sorted(night.dropped), "each file once"
    for name in night.models:
        current = f"/srv/axom/models/{name}/current/"
        night.machine.run(
            "runuser", "-u", "nobody", "--", "diff", "-r", "--exclude=.axomsync.json", f"/var/tmp/{name}", current
        )
    assert night.machine.run("axomsync", "verify").returncode == 0
    assert is_well(night.status())
    assert night.sandbox.key not in night.log()
    assert "X-Amz-Signature" not in night.log()


def removing_keeps_and_purging_takes_what_is_ours(night: Night) -> None:
    machine = night.machine
    machine.run("dpkg", "--remove", "axomsync")
    assert machine.show(UNIT, "LoadState") == "not-found"
    machine.run(
        "test", "-s", CONFIG, "-a", "-s", KEY, "-a", "-s", "/var/lib/axomsync/state.db", "-a", "!", "-e", "/usr/lib/axomsync"
    )
    machine.run("dpkg", "--purge", "axomsync")
    machine.run(
        "test", "!", "-e", "/etc/axomsync", "-a", "!", "-e", "/var/lib/axomsync", "-a", "-d", "/srv/axom/models/first/v1"
    )


def an_upgrade_starts_the_timer_again(night: Night) -> None:
    night.machine.systemctl("disable", "--now", UNIT)
    night.machine.systemctl("start", "axomsync-sync.timer")
    night.install(night.next_package)
    assert night.machine.show("axomsync-sync.timer", "ActiveState") == "active"
    assert night.machine.show(UNIT, "ActiveState") == "inactive"
    night.machine.systemctl("stop", "axomsync-sync.timer")


def removing_ends_the_timer_too(night: Night) -> None:
    """Who had it in place of the agent must not find it failing for want of a program, nor enabled one day by surprise."""
    machine, timer = night.machine, "axomsync-sync.timer"
    machine.systemctl("enable", "--now", timer)
    machine.run("dpkg", "--remove", "axomsync")
    assert machine.show(timer, "ActiveState") == "inactive"
    assert machine.show("axomsync@eu.service", "ActiveState") == "inactive"
    assert machine.run("find", "/etc/systemd/system", "-name", "axomsync*").stdout == ""
    machine.run("test", "-s", INSTANCE, "-a", "-s", "/etc/axomsync/eu.key", "-a", "-s", "/var/lib/axomsync/eu/state.db")


def the_manual_does_what_it_says(night: Night) -> None:
    """Every example for root in README and docs, line by line, from the installation on."""
    machine, home = night.machine, "/root/manual"
    machine.run("mkdir", "-p", f"{home}/dist", "/etc/polkit-1/rules.d")
    machine.run("cp", night.package, f"{home}/dist/")
    machine.run("ln", "-s", f"{SOURCES}/systemd", home)
    machine.write(f"{home}/bin/make", '#!/bin/sh\n[ "$*" = deb ]\n', mode=0o755)
    machine.write(f"{home}/bin/sudo", '#!/bin/sh\nexec "$@"\n', mode=0o755)
    edit = f"""#!/bin/sh\nexec sed -i 's,^url = .*,url = "{night.sandbox.url}",' "$1"\n"""
    machine.write(f"{home}/bin/sudoedit", edit, mode=0o755)
    key = night.sandbox.steer("keys", scopes=["read", "models", "datasets"])["key"]
    for document in DOCUMENTS:
        for example in examples(document, "sh root"):
            for command in example.commands:
                script = f"cd {home} && PATH={home}/bin:$PATH && {command}"
                done = machine.run("sh", "-c", script, stdin=f"{key}\n", check=False)
                assert done.returncode == 0, f"{example.place}: {command}\n{done.stdout}{done.stderr}"
    night.told("an agent that is well", is_well)
    eventually("the model in its new place", lambda: night.model("first")["path"] == "/srv/models/first/v1")
    assert night.model("first")["state"] == "published"


NIGHT = (
    the_package_is_installed_and_waits_for_its_key,
    it_starts_with_a_key_by_credential,
    a_file_goes_up_while_a_model_comes_down,
    kill_9_costs_nothing,
    without_a_network_it_says_so_and_waits,
    on_a_full_disk_a_model_waits_for_room,
    a_revoked_key_is_told_and_replaced,
    a_reload_takes_the_new_configuration_over,
    an_upgrade_brings_the_ledger_along,
    a_downgrade_is_refused,
    all_bytes_are_right,
    an_upgrade_starts_the_timer_again,
    removing_keeps_and_purging_takes_what_is_ours,
    the_manual_does_what_it_says,
)
SHORT_NIGHT = (
    the_package_is_installed_and_waits_for_its_key,
    it_starts_with_a_key_by_credential,
    a_file_goes_up_while_a_model_comes_down,
    killed_while_the_network_is_cut_it_says_so_and_goes_on,
    on_a_full_disk_a_model_waits_for_room,
    a_revoked_key_is_told_and_replaced,
    an_instance_comes_through_an_upgrade,
    all_bytes_are_right,
    removing_ends_the_timer_too,
)


def work(steps: Iterable[Callable[[Night], None]], package: Path, folder: Path) -> None:
    with machine_with_program(folder, {package.parent: PACKAGES}) as machine, sandbox_inside(machine) as sandbox:
        machine.run("mkdir", "-p", "/srv/axom")
        machine.run("mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=755", "disk", "/srv/axom")
        night = Night(machine, sandbox, package)
        for step in steps:
            begun = time.monotonic()
            step(night)
            print(f"{time.monotonic() - begun:5.1f} s  {step.__name__.replace('_', ' ')}")


def test_short_night_shift(tmp_path: Path, package: Path) -> None:
    work(SHORT_NIGHT, package, tmp_path / "program")


@pytest.mark.stress
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("next_package")
def test_night_shift(tmp_path: Path, package: Path) -> None:
    work(NIGHT, package, tmp_path / "program")
