"""`axomsync service install` without a service manager, and what the shipped units have in common."""

import os
import subprocess
from pathlib import Path

import pytest

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
