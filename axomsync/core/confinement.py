"""What the sandbox of a systemd unit keeps from the process that runs in it, and the line that lets it in.

systemd hides folders by mounts that only the service sees: read-only ones over a disk that can be written, and an empty
folder over home folders. So the kernel's table of mounts tells a folder that the unit hides from one that has other trouble.

Failures handled: no systemd, another sandbox (None: it is for others to tell), a table that can't be read.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

HOMES = ("/home", "/root", "/run/user")  # that ProtectHome= hides
_HIDDEN = "/systemd/inaccessible/"  # what such a mount shows in place of the folder


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo: what is mounted where. `read_only` is of this mount, `disk_read_only` of what it shows."""

    root: str
    point: str
    read_only: bool
    kind: str
    disk_read_only: bool


def mount_of(path: str, table: str) -> Mount | None:
    """The mount that `path` lies on, by the text of /proc/self/mountinfo; proc(5)."""
    best: Mount | None = None
    for line in table.splitlines():
        before, _, after = line.partition(" - ")
        fields, tail = before.split(" "), after.split(" ")
        point = _plain(fields[4])
        # of mounts on the same point, the last one is what one sees
        below = path == point or path.startswith(point.rstrip("/") + "/")
        if below and (best is None or len(point) >= len(best.point)):
            options, super_options = fields[5].split(","), tail[2].split(",")
            best = Mount(_plain(fields[3]), point, "ro" in options, tail[0], "ro" in super_options)
    return best


def way_in(folder: str, unit: str, table: str, *, written: bool) -> str | None:
    """What to change in `unit` so that the folder is seen, or can be `written`; None when the unit is not in the way."""
    mount = mount_of(folder, table)
    if mount is None:
        return None
    is_home = mount.point in HOMES
    if written:
        if mount.disk_read_only or not mount.read_only:
            return None
        return f"{_edit(unit)} {'ProtectHome=no' if is_home else f'ReadWritePaths={folder}'}"
    if is_home and (_HIDDEN in mount.root or mount.kind == "tmpfs"):
        return f"{_edit(unit)} ProtectHome=no"
    return f"{_edit(unit)} InaccessiblePaths= (nothing)" if _HIDDEN in mount.root else None


def hidden(path: str, *, written: bool) -> str | None:
    """Why this process does not see `path`, or can't write there, if its unit is in the way, and what to do."""
    try:
        unit = unit_of(Path("/proc/self/cgroup").read_text(encoding="utf-8"))
        table = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    if unit is None or "INVOCATION_ID" not in os.environ:
        return None
    change = way_in(_nearest_folder(path), unit, table, written=written)
    return change and f"the service's sandbox {'lets nobody write there' if written else 'hides it'}; {change}"


def unit_of(cgroup: str) -> str | None:
    """The service that a process belongs to, by the text of /proc/self/cgroup."""
    services = [part for part in re.split(r"[/\n]", cgroup) if part.endswith(".service")]
    return services[-1] if services else None


def _edit(unit: str) -> str:
    return f"run: systemctl edit {unit.removesuffix('.service')}, add below [Service]:"


def _nearest_folder(path: str) -> str:
    """Units are given folders that are there."""
    folder = os.path.abspath(path)
    while not os.path.isdir(folder) and folder != "/":
        folder = os.path.dirname(folder)
    return folder


def _plain(field: str) -> str:
    """Blanks and backslashes are octal escapes there."""
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), field)
