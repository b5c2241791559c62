"""`axomsync service install` without a service manager, and what the shipped units have in common."""

import os
import subprocess
from pathlib import Path

import pytest

from axomsync import config
from axomsync.core.errors import LocalFault
from axomsync.ops import service
from tests.rig.installation import CHECKOUT

UNITS = CHECKOUT / "systemd"
# What makes a pass of `sync` another kind of unit than the agent.
OF_THE_AGENT_ALONE = {
    "Type", "NotifyAccess", "ExecStart", "ExecReload", "Restart", "RestartSec", "RestartPreventExitStatus", "WatchdogSec",
    "TimeoutStopSec", "RuntimeDirectory", "RuntimeDirectoryMode",
}  # fmt: skip


def service_lines(unit: str) -> list[str]:
    section = (UNITS / unit).read_text().split("[Service]\n")[1].split("\n[")[0]
    lines = [line for line in section.splitlines() if line and not line.startswith("#")]
    return [line for line in lines if line.partition("=")[0] not in OF_THE_AGENT_ALONE]


def install(home: Path, program: str = "/opt/axomsync/bin/axomsync") -> list[str]:
    said: list[str] = []
    service.install_for_user([program], {"HOME": str(home), "XDG_RUNTIME_DIR": str(home)}, said.append)
    return said


def test_the_timers_pass_is_locked_in_as_the_agent_is() -> None:
    assert service_lines("axomsync-sync.service") == service_lines("axomsync.service")
    assert service_lines("user/axomsync-sync.service") == service_lines("user/axomsync.service")
    assert len(service_lines("axomsync.service")) > 40


@pytest.mark.parametrize("kind", ["", "user/"])
def test_an_instance_is_locked_in_as_the_agent_is_and_apart(kind: str) -> None:
    plain, template = ((UNITS / f"{kind}{unit}").read_text() for unit in ("axomsync.service", "axomsync@.service"))
    known = {
        "sync agent %i:": "sync agent:",
        "axomsync/%i.toml": "axomsync/config.toml",
        "axomsync/%i.key": "axomsync/key",
        "StateDirectory=axomsync/%i": "StateDirectory=axomsync",
        "axomsync@%i": "axomsync",
        "axomsync@NAME": "axomsync",
        "/srv/axom/%i": "/srv/axom",
    }
    for own, shared in known.items():
        template = template.replace(own, shared)
    assert template == plain


def test_an_instance_of_a_user_is_beside_the_agent_without_a_name(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    install(tmp_path)
    said: list[str] = []
    for name in ("eu", "us", "eu"):
        service.install_for_user(["/opt/axomsync/bin/axomsync"], environ, said.append, name)
    folder = tmp_path / ".config/axomsync"
    eu, us = (config.load(folder / f"{name}.toml", environ).settings for name in ("eu", "us"))
    assert said.count(f"{folder / 'eu.toml'}: written") == said.count(f"{folder / 'eu.toml'}: kept") == 1
    assert (eu.web.listen, us.web.listen) == ("127.0.0.1:9465", "127.0.0.1:9466")
    assert (eu.console.key_file, us.console.key_file) == (folder / "eu.key", folder / "us.key")
    assert (tmp_path / "axom/eu/drop").is_dir()
    assert (tmp_path / "axom/us/models").is_dir()
    service.uninstall_for_user(environ, said.append, "eu")
    assert (folder.parent / "systemd/user/axomsync@.service").exists()
    service.uninstall_for_user(environ, said.append)
    assert sorted(path.name for path in folder.iterdir()) == ["config.toml", "eu.toml", "us.toml"]
    assert list((folder.parent / "systemd/user").iterdir()) == []


def test_folders_of_an_instance() -> None:
    shipped = (UNITS / "axomsync.tmpfiles.conf").read_text()
    assert service._folders_of(shipped, None) == shipped
    paths = [line.split()[1] for line in service._folders_of(shipped, "eu").splitlines() if line.startswith("d ")]
    assert paths == ["/srv/axom", "/srv/axom/eu", "/srv/axom/eu/drop", "/srv/axom/eu/models"]


def test_a_users_service_has_of_the_machines_what_it_can() -> None:
    assert set(service_lines("user/axomsync.service")) <= set(service_lines("axomsync.service"))


def test_a_second_time_nothing_is_done(tmp_path: Path) -> None:
    first, second = install(tmp_path), install(tmp_path)
    config = tmp_path / ".config/axomsync/config.toml"
    assert f"{config}: written" in first
    assert (tmp_path / "axom/drop").is_dir()
    files = [line for line in second if line.startswith("/")]
    assert f"{config}: kept" in files
    assert [line for line in files if not line.endswith((": unchanged", ": kept"))] == []


def test_an_edited_configuration_is_kept_and_an_edited_unit_is_not(tmp_path: Path) -> None:
    install(tmp_path)
    config, unit = tmp_path / ".config/axomsync/config.toml", tmp_path / ".config/systemd/user/axomsync.service"
    shipped = unit.read_text()
    config.write_text("# mine\n")
    unit.write_text("[Service]\n")
    assert f"{unit}: written" in install(tmp_path)
    assert (config.read_text(), unit.read_text()) == ("# mine\n", shipped)


def test_a_program_with_an_odd_name_is_what_systemd_starts(tmp_path: Path) -> None:
    file = tmp_path / "a b/50%h/$HOME/axomsync"
    file.parent.mkdir(parents=True)
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    install(tmp_path, str(file))
    unit = tmp_path / ".config/systemd/user/axomsync.service"
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    verdict = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--user", unit], env=environ, capture_output=True, text=True, check=False
    )
    assert verdict.stderr == ""


def test_only_root_installs_for_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(LocalFault, match="use sudo; or --user"):
        service.install_for_machine(["/usr/bin/axomsync"], print)
