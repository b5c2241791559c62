"""Obstacles between a service and its folders: rights of its user, and the sandbox of its unit. For `doctor`.

The kernel is asked for rights, by a process that has become the service's user: modes, groups and ACLs together can't be
worked out. systemd is asked for the properties of a unit, drop-ins included.

Failures handled: no systemd, no such unit or user (nothing is said of it), a folder tree that is endless (looked at up to
`MOST_FOLDERS`), a user that one may not become (told, and the rights of the caller are looked at).
"""

import errno
import json
import os
import pwd
import shlex
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from axomsync.config import instance_of
from axomsync.core.confinement import HOMES
from axomsync.core.paths import ARCHIVE, CLAIMS, REJECTS
from axomsync.core.rights import denial_in, who
from axomsync.core.text import printable

MOST_FOLDERS = 10_000
MOST_TOLD = 5
SERVICE, ONE_PASS, TIMER = "axomsync.service", "axomsync-sync.service", "axomsync-sync.timer"
TEMPLATE = "axomsync@.service"  # of instances
SERVICE_USER = "axomsync"
_PROPERTIES = (
    "LoadState", "UnitFileState", "ActiveState", "User", "ExecStart", "ProtectHome", "ProtectSystem", "ReadWritePaths",
    "ReadOnlyPaths", "InaccessiblePaths", "TemporaryFileSystem", "BindPaths", "StateDirectory",
)  # fmt: skip
_SYSTEM = {"strict": ("/",), "full": ("/usr", "/boot", "/efi", "/etc"), "yes": ("/usr", "/boot", "/efi")}

Unit = Mapping[str, str]


@dataclass(frozen=True)
class Obstacle:
    """A fault that was `found`, and its `fix`; a `grave` one keeps the agent from its work."""

    found: str
    fix: str
    grave: bool = True


# The unit


def units(config: Path, ask: Callable[[str], Unit] | None = None) -> list[Unit]:
    """Return the properties of the units of this machine that use this configuration and are in use."""
    asked, instance = ask or _asked, instance_of(config, os.environ)
    if instance is not None:
        service = asked(unit_of_instance(instance))
        return [service] if _is_for(service, config) else []
    service, once, timer = asked(SERVICE), asked(ONE_PASS), asked(TIMER)
    chosen = [service] if _in_use(service) or not _in_use(timer) else []
    chosen += [once] if _in_use(timer) else []
    return [unit for unit in chosen if _is_for(unit, config)]


def unit_of_instance(name: str) -> str:
    """Name of the unit of an instance."""
    return TEMPLATE.replace("@", f"@{name}")


def _is_for(unit: Unit, config: Path) -> bool:
    return unit.get("LoadState") == "loaded" and f"--config {config} " in unit["ExecStart"]


def hidden_by(unit: Unit, folders: Mapping[str, Path]) -> list[Obstacle]:
    """Return the folders that this unit's sandbox hides from its service, or makes read-only."""
    name = unit["Id"].removesuffix(".service")
    found = []
    for section, folder in folders.items():
        line = _way_in(unit, os.path.realpath(folder))
        if line is not None:
            fault = f"[{section}] folder {folder}: {unit['Id']} {'hides it' if 'Home' in line else 'makes it read-only'}"
            found.append(
                Obstacle(fault, f"systemctl edit {name}, add below [Service]: {line}; then systemctl restart {name}")
            )
    return found


def _way_in(unit: Unit, folder: str) -> str | None:
    home = next((home for home in HOMES if _below(folder, home)), None)
    opened = [*_paths(unit, "ReadWritePaths"), *_paths(unit, "BindPaths")]
    opened += [f"/var/lib/{name}" for name in unit.get("StateDirectory", "").split()]
    is_open = any(_below(folder, path) for path in opened)
    protects = unit.get("ProtectHome", "no")
    if home is not None and protects in ("yes", "tmpfs") and not any(_below(folder, p) for p in _paths(unit, "BindPaths")):
        return "ProtectHome=no" + f", and ReadWritePaths={folder}" * (not is_open)
    if any(_below(folder, path) for path in _paths(unit, "InaccessiblePaths")):
        return "InaccessiblePaths= (nothing)"
    closed = [*_SYSTEM.get(unit.get("ProtectSystem", "no"), ()), *_paths(unit, "ReadOnlyPaths")]
    closed += [home] if home is not None and protects == "read-only" else []
    return f"ReadWritePaths={folder}" if any(_below(folder, path) for path in closed) and not is_open else None


def _paths(unit: Unit, name: str) -> list[str]:
    """Return the paths of a list; with `-` before it one may be missing, and `:` separates a source from its mount."""
    return [
        word.lstrip("-+").rpartition(":")[2] if name == "BindPaths" else word.lstrip("-+")
        for word in unit.get(name, "").split()
    ]


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _in_use(unit: Unit) -> bool:
    return unit.get("UnitFileState") == "enabled" or unit.get("ActiveState") in ("active", "reloading", "activating")


def _asked(name: str) -> Unit:
    return properties_of(name)


def properties_of(name: str, *, of_user: bool = False) -> Unit:
    """Return what systemd knows about a unit; `of_user` asks the manager of the calling user. Empty without systemd."""
    argv = ["systemctl", *(["--user"] if of_user else []), "show", "--no-pager", f"--property={','.join(_PROPERTIES)}", name]
    try:
        said = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        said = ""
    return {"Id": name, "ExecStart": "", **dict(line.split("=", 1) for line in said.splitlines() if "=" in line)}


# The rights of its user


def service_user(of_units: list[Unit], default: str) -> pwd.struct_passwd | None:
    """Return the user of the service, None when there is no such user."""
    name = next((unit["User"] for unit in of_units if unit.get("User")), default)
    with suppress(KeyError):
        return pwd.getpwnam(name)
    return None


def caller() -> pwd.struct_passwd | None:
    """Return the calling user, None when the number has no name."""
    with suppress(KeyError):
        return pwd.getpwuid(os.geteuid())
    return None


def denied(folders: Mapping[str, Path], drop: Path | None, user: pwd.struct_passwd | None) -> list[Obstacle]:
    """Return what the service's user may not do in its folders, and in those that people have made below the drop folder.

    A caller that is not root looks at the latter alone, with its own rights: the former are tried.
    """
    if os.geteuid() != 0:
        return [Obstacle(*pair) for pair in _closed(_made_by_people(drop))]
    if user is None or user.pw_uid == 0:
        return []
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        code = 1
        try:
            os.initgroups(user.pw_name, user.pw_gid)
            os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
            os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
            with open(writing, "w", encoding="utf-8") as stream:
                json.dump(_closed(map(str, folders.values())) or _closed(_made_by_people(drop)), stream)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with open(reading, encoding="utf-8") as stream:
        text = stream.read()
    _, status = os.waitpid(child, 0)
    if status != 0:
        return [_untried(user), *(Obstacle(*pair) for pair in _closed(_made_by_people(drop)))]
    return [Obstacle(*pair) for pair in json.loads(text)]


def _untried(user: pwd.struct_passwd) -> Obstacle:
    found = f"the rights of {who(user.pw_uid)} could not be tried: this process may not become that user, as in a container"
    return Obstacle(found, f"run doctor as {user.pw_name}", grave=False)


def _closed(folders: Iterable[str]) -> list[tuple[str, str]]:
    """Return folders that this process may not read or write, at most `MOST_TOLD`, as pairs of fault and fix."""
    closed = []
    for folder in folders:
        denial = denial_in(folder)
        if denial is not None:
            what, _, fix = denial.words(folder).partition("; ")
            closed.append((f"{printable(folder)}: {what}", fix.removeprefix("run: ")))
        if len(closed) == MOST_TOLD:
            break
    return closed


def _made_by_people(drop: Path | None) -> Iterator[str]:
    if drop is None:
        return
    ours = {os.fsdecode(area) for area in (ARCHIVE, REJECTS, CLAIMS)}
    unlisted: list[str] = []
    for seen, (place, names, _) in enumerate(os.walk(drop, onerror=lambda error: unlisted.append(str(error.filename)))):
        yield from unlisted
        unlisted.clear()
        if place == str(drop):
            names[:] = [name for name in names if name not in ours]
        else:
            yield place
        if seen >= MOST_FOLDERS:
            return
    yield from unlisted


def umask_trap(drop: Path, user: pwd.struct_passwd | None) -> Obstacle | None:
    """Find a drop folder that a group shares without a default ACL: there the umask of its members decides."""
    try:
        status = os.stat(drop)
    except OSError:
        return None
    if user is None or not status.st_mode & stat.S_IWGRP or status.st_uid == 0 == status.st_gid:
        return None
    try:
        os.getxattr(drop, "system.posix_acl_default")
    except OSError as error:
        if error.errno != errno.ENODATA:
            return Obstacle(
                f"{drop}: its filesystem knows no ACLs, so what people make there with umask 022 can't be put away",
                "have them use umask 002, or name a folder on another filesystem",
                grave=False,
            )
    else:
        return None
    place = shlex.quote(str(drop))
    fix = f"setfacl -m d:u:{user.pw_name}:rwx,d:g::rwx {place}"
    return Obstacle(
        f"{drop}: it has no default ACL, so what people make there with umask 022 can't be put away by {who(user.pw_uid)}",
        fix if shutil.which("setfacl") else f"apt install acl, then {fix}",
        grave=False,
    )
