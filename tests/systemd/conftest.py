"""A booted machine on which `axomsync service install` has put the service in place, and the far side inside it."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.rig.container import Container
from tests.rig.inside import SandboxInside, sandbox_inside
from tests.rig.installation import CHECKOUT, PROGRAM, machine_with_program

UNIT = "axomsync.service"
CONFIG = "/etc/axomsync/config.toml"
KEY = "/etc/axomsync/key"
WHEELS = "/opt/wheels"
DROP_IN = f"/run/systemd/system/{UNIT}.d/test.conf"
# Nobody listens there: an agent must be able to start before its console is up.
GOOD_CONFIG = '[console]\nurl = "http://127.0.0.1:9/api"\n'


def install(machine: Container) -> str:
    return machine.run(PROGRAM, "service", "install").stdout


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """A booted machine with the service installed, and nothing running."""
    wheels = tmp_path_factory.mktemp("wheels")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
    subprocess.run(build, cwd=CHECKOUT, check=True, capture_output=True)
    with machine_with_program(tmp_path_factory.mktemp("program"), {wheels: WHEELS}) as machine:
        assert f"{CONFIG}: written" in install(machine)
        yield machine


@pytest.fixture
def machine(installed: Container) -> Container:
    """The installed machine, with a good configuration and key, and the service stopped and without a past."""
    installed.systemctl("stop", UNIT)
    installed.run("rm", "-f", DROP_IN)
    installed.systemctl("daemon-reload")
    installed.systemctl("reset-failed", UNIT, check=False)
    installed.write(CONFIG, GOOD_CONFIG)
    installed.write(KEY, "axom_live_of_the_service_tests\n", mode=0o600)
    return installed


@pytest.fixture
def sandbox(machine: Container) -> Iterator[SandboxInside]:
    with sandbox_inside(machine) as sandbox:
        yield sandbox
