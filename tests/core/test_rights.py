"""Missing rights and the command that grants them, tested with the kernel by processes of other users."""

import errno
import grp
import json
import os
import re
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from axomsync.config import Settings, load_key
from axomsync.core import rights
from axomsync.core.confinement import unit_of, way_in
from axomsync.core.errors import AxomsyncError
from axomsync.core.oserrors import local_fault

PERSON, SERVICE, STAFF = 54321, 654, grp.getgrnam("staff")


def told_to(uid: int, work: Callable[[], Any], groups: tuple[int, ...] = ()) -> Any:
    """Run `work` in a process of another user; returns its result or the failure that it raises."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setgroups(groups)
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            try:
                answer = work()
            except AxomsyncError as failure:
                answer = str(failure)
            os.write(writing, json.dumps(answer).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as stream:
        answer = json.load(stream)
    os.waitpid(child, 0)
    return answer


def denied(path: Path, uid: int, groups: tuple[int, ...] = ()) -> str:
    error = PermissionError(errno.EACCES, "Permission denied")
    return str(told_to(uid, lambda: str(local_fault(error, str(path))), groups))


def test_a_user_without_a_name_on_a_volume_of_roots_has_no_sudo(place: Path) -> None:
    volume = place / "data"
    volume.mkdir(mode=0o755)
    said = denied(volume / "state", PERSON)
    assert said.startswith(
        f"{volume}/state: the user {PERSON} may not make files in {volume} or remove files from it; have root"
    )
    assert re.search(
        rf"root run: (setfacl -m u:{PERSON}:rwX {volume}|chgrp {PERSON} {volume} && chmod g\+rwX {volume})$", said
    )


def test_denial_names_the_group_to_join(place: Path) -> None:
    state = place / "state"
    state.mkdir()
    os.chown(state, 0, STAFF.gr_gid)
    state.chmod(0o750)
    said = denied(state / "state.db", PERSON)
    assert said == (
        f"{state}/state.db: the user {PERSON} may not look into {state}; use sudo, or join group staff: "
        f"sudo usermod -aG staff {PERSON}, then log in again"
    )


def test_denial_names_the_group_or_sudo_for_an_unreadable_file(place: Path) -> None:
    ledger, key = place / "state.db", place / "key"
    for file, mode in ((ledger, 0o640), (key, 0o600)):
        file.touch()
        os.chown(file, 0, STAFF.gr_gid)
        file.chmod(mode)
    assert "may not read it; use sudo, or join group staff: " in denied(ledger, PERSON)
    assert denied(key, PERSON).endswith("may not read it; use sudo")


def test_denial_names_chown_for_roots_file_in_the_users_folder(place: Path) -> None:
    mine = place / "mine"
    (mine / "sub").mkdir(parents=True)
    (mine / "a.jsonl").touch(mode=0o600)
    os.chown(mine, PERSON, PERSON)
    (mine / "sub").chmod(0o700)
    assert denied(mine / "a.jsonl", PERSON).endswith(f"may not read it; run: sudo chown {PERSON} {mine}/a.jsonl")
    assert denied(mine / "sub" / "b.jsonl", PERSON).endswith(f"; run: sudo chown -R {PERSON} {mine}/sub")


def test_denial_names_the_owners_command_for_the_service(place: Path) -> None:
    sub, file = place / "sub", place / "secret.jsonl"
    sub.mkdir(mode=0o755)
    (sub / "a.jsonl").touch()
    file.touch(mode=0o600)
    for each in (sub, file, sub / "a.jsonl"):
        os.chown(each, PERSON, PERSON)
    said = denied(sub / "a.jsonl", SERVICE)
    assert f"may not make files in {sub} or remove files from it; run: " in said
    assert "may not read it; run: " in denied(file, SERVICE)
    for path, kind, how in ((sub / "a.jsonl", sub, os.R_OK | os.W_OK), (file, file, os.R_OK)):
        command = denied(path, SERVICE).partition("run: ")[2]
        assert re.fullmatch(r"(setfacl|chgrp|chmod) .*", command)
        assert str(kind) in command
        if "chgrp" in command:
            subprocess.run(["sh", "-c", command], check=True)
            assert told_to(SERVICE, partial(os.access, kind, how))


def test_grant_on_a_folder_of_root_covers_the_folder_alone(place: Path) -> None:
    """The folder may be the system's own."""
    place.chmod(0o755)
    (place / "b").mkdir()
    said = denied(place / "b" / "c", SERVICE)
    assert f"may not make or remove files in {place / 'b'}" in said or f"may not make files in {place / 'b'}" in said
    assert "run: sudo " in said
    assert all(command.startswith("sudo ") for command in said.partition("run: ")[2].split(" && "))
    assert "-R" not in said


def test_denial_of_an_own_file_needs_no_other_user(place: Path) -> None:
    file = place / "mine"
    file.touch()
    os.chown(file, PERSON, PERSON)
    file.chmod(0)
    assert denied(file, PERSON).endswith(f"run: chmod u+rwX {file}")


def test_local_fault_without_a_denial_keeps_its_general_advice(place: Path) -> None:
    assert rights.denial_of(str(place)) is None
    assert "permission denied" in str(local_fault(PermissionError(errno.EACCES, ""), str(place)))


def test_key_file_that_may_not_be_read_names_the_remedy(place: Path) -> None:
    key = place / "key"
    key.write_text("axom_live_x")
    key.chmod(0o600)
    settings = Settings.model_validate({"console": {"key_file": str(key)}})
    said = told_to(PERSON, lambda: load_key(settings, {}))
    assert said == f"the API key can't be read: {key}: the user {PERSON} may not read it; use sudo"


# The unit's sandbox


TABLE = """\
30 1 8:1 / / ro,relatime shared:1 - ext4 /dev/sda1 rw
31 30 8:2 / /data ro,relatime - ext4 /dev/sdb1 rw
32 30 8:2 / /srv/axom rw,relatime - ext4 /dev/sda1 rw
33 30 0:9 /systemd/inaccessible/dir /home ro,nosuid - tmpfs tmpfs rw,mode=755
34 30 8:3 / /broken ro,relatime - ext4 /dev/sdc1 ro
35 30 0:9 /systemd/inaccessible/dir /opt/my\\040data ro,nosuid - tmpfs tmpfs rw,mode=755
"""
EDIT = "run: systemctl edit axomsync, add below [Service]: "


@pytest.mark.parametrize(
    ("folder", "written", "change"),
    [
        ("/data/drop", True, EDIT + "ReadWritePaths=/data/drop"),
        ("/srv/axom/drop", True, None),
        ("/broken/drop", True, None),
        ("/home/ann/drop", False, EDIT + "ProtectHome=no"),
        ("/opt/my data", False, EDIT + "InaccessiblePaths= (nothing)"),
        ("/data/drop", False, None),
    ],
)
def test_sandbox_of_the_unit_is_told_from_other_faults(folder: str, written: bool, change: str | None) -> None:
    assert way_in(folder, "axomsync.service", TABLE, written=written) == change


def test_unit_of_returns_the_innermost_service() -> None:
    assert unit_of("0::/system.slice/axomsync.service\n") == "axomsync.service"
    assert unit_of("0::/user.slice/user@1000.service/app.slice/mine.service\n") == "mine.service"
    assert unit_of("0::/user.slice/session-3.scope\n") is None
