"""What `doctor` finds between a service and its folders: the unit's sandbox, and the rights of its user."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from axomsync.ops import access
from tests.rig.installation import CHECKOUT

CONFIG = Path("/etc/axomsync/config.toml")
NOBODY = pwd.getpwnam("nobody")


def unit(name: str = access.SERVICE, **properties: str) -> access.Unit:
    """As systemd tells of the unit that is shipped, once it is enabled."""
    shown = dict(
        line.split("=", 1)
        for line in (CHECKOUT / "systemd" / name).read_text().splitlines()
        if "=" in line and not line.startswith("#")
    )
    shown["ExecStart"] = f"{{ path=/usr/bin/axomsync ; argv[]={shown['ExecStart']} ; ignore_errors=no }}"
    return {**shown, "Id": name, "LoadState": "loaded", "UnitFileState": "enabled", **properties}


@pytest.mark.parametrize(
    ("folder", "changes", "line"),
    [
        ("/srv/axom/drop", {}, None),
        ("/srv/elsewhere", {}, "ReadWritePaths=/srv/elsewhere"),
        ("/srv/elsewhere", {"ReadWritePaths": "-/srv/axom /srv/elsewhere"}, None),
        ("/srv/elsewhere", {"ProtectSystem": "full"}, None),
        ("/home/ann/drop", {}, "ProtectHome=no, and ReadWritePaths=/home/ann/drop"),
        ("/home/ann/drop", {"ReadWritePaths": "/home/ann"}, "ProtectHome=no"),
        ("/home/ann/drop", {"ProtectHome": "read-only", "ProtectSystem": "no"}, "ReadWritePaths=/home/ann/drop"),
        ("/home/ann/drop", {"ProtectHome": "no", "ProtectSystem": "yes"}, None),
        ("/home/ann/drop", {"ProtectHome": "tmpfs", "BindPaths": "/home/ann"}, None),
        ("/data", {"ProtectSystem": "no", "InaccessiblePaths": "-/data"}, "InaccessiblePaths= (nothing)"),
        ("/var/lib/axomsync", {}, None),
    ],
)
def test_what_a_unit_hides(folder: str, changes: dict[str, str], line: str | None) -> None:
    found = access.hidden_by(unit(**changes), {"drop": Path(folder)})
    assert [obstacle.fix for obstacle in found] == [
        f"systemctl edit axomsync, add below [Service]: {line}; then systemctl restart axomsync"
    ] * (line is not None)


def test_units_count_that_are_in_use_and_have_this_configuration() -> None:
    def names(config: Path, **of: dict[str, str]) -> list[str]:
        known = {access.SERVICE: of.get("service"), access.ONE_PASS: of.get("once"), access.TIMER: of.get("timer")}
        return [u["Id"] for u in access.units(config, lambda name: {"Id": name, "ExecStart": "", **(known[name] or {})})]

    service, once = dict(unit()), dict(unit(access.ONE_PASS, UnitFileState="static"))
    off = {**service, "UnitFileState": "disabled"}
    assert names(CONFIG, service=service, once=once) == [access.SERVICE]
    assert names(CONFIG, service=off, once=once) == [access.SERVICE], "it will be started"
    assert names(CONFIG, service=off, once=once, timer={"UnitFileState": "enabled"}) == [access.ONE_PASS]
    assert names(Path("/home/ann/config.toml"), service=service) == []
    assert names(CONFIG) == []


@pytest.fixture
def drop(place: Path) -> Path:
    """A drop folder in which everybody may make files."""
    place.chmod(0o777)
    return place


def test_folders_that_people_made_are_looked_at_as_the_services_user(drop: Path) -> None:
    for name, mode in (("open", 0o777), ("closed", 0o755), ("locked", 0o700), ("uploaded", 0o755)):
        (drop / name).mkdir()
        (drop / name).chmod(mode)
    found = access.denied({"drop": drop}, drop, NOBODY)
    assert {Path(obstacle.found.partition(": ")[0]).name for obstacle in found} == {"closed", "locked"}
    assert all(str(drop) in obstacle.fix for obstacle in found)
    above = drop / "open"
    above.chmod(0o755)
    (above / "drop").mkdir()
    (above / "drop").chmod(0o777)
    assert access.denied({"drop": above / "drop"}, above / "drop", NOBODY) == [], "who owns the folder above is no matter"
    drop.chmod(0o755)
    (obstacle,) = access.denied({"drop": drop}, drop, NOBODY)
    assert obstacle.found.startswith(f"{drop}: "), "the first thing first"


AS_FAR_AS_MAY_BE = """
import sys
from pathlib import Path
from axomsync import config
from axomsync.ops.doctor.installation import Installation
from axomsync.ops.doctor.service import rights
text = f'[drop]\\nfolder = "{sys.argv[1]}"\\n[mirror]\\nenabled = false'
settings = config.parse(text, Path("/x/config.toml"), {}).settings
for finding in rights(Installation(settings, {}, [{"User": "nobody"}], False)):
    print(finding.verdict, finding.found)
"""


@pytest.mark.parametrize(
    ("rights", "told"),
    [
        ((), "fail {drop}: nobody may not look into it"),
        (
            ("--bounding-set=-setuid,-setgid", "--inh-caps=-setuid,-setgid"),
            "warn the rights of the service's user nobody could not be tried: this process may not become that user",
        ),
    ],
)
def test_root_that_may_not_become_the_services_user_does_not_call_all_well(
    rights: tuple[str, ...], told: str, place: Path
) -> None:
    closed = place / "drop"
    closed.mkdir(mode=0o700)
    command = ["setpriv", *rights, sys.executable, "-c", AS_FAR_AS_MAY_BE, str(closed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert told.format(drop=closed) in done.stdout.replace("the service's user nobody may not", "nobody may not")
    assert "ok" not in [line.partition(" ")[0] for line in done.stdout.splitlines()]


def test_a_shared_drop_folder_without_a_default_acl_is_a_trap(drop: Path) -> None:
    drop.chmod(0o755)
    assert access.umask_trap(drop, NOBODY) is None, "nobody shares it"
    drop.chmod(0o2770)
    os.chown(drop, NOBODY.pw_uid, NOBODY.pw_gid)
    trap = access.umask_trap(drop, NOBODY)
    assert trap is not None
    assert not trap.grave
    assert "umask 022" in trap.found
