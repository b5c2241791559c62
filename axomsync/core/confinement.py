"""Folders that the sandbox of a systemd unit hides from this process, and the line in the unit that opens them.

systemd hides folders by mounts that only the service sees: read-only mounts over a writable disk, and an empty folder over
home folders. So the kernel's table of mounts shows whether the unit hides a folder, or whether it has another fault.

Failures handled: no systemd or another sandbox (None: other checks find the cause), a table that can't be read (None).
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

HOMES = ("/home", "/root", "/run/user")  # hidden by ProtectHome=
_HIDDEN = "/systemd/inaccessible/"  # the source of a mount that hides a folder


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo. `read_only` belongs to this mount, `disk_read_only` to the filesystem below it."""

    root: str
    point: str
    read_only: bool
    kind: str
    disk_read_only: bool


def mount_of(path: str, table: str) -> Mount | None:
    """Find the mount that holds `path`, in the text of /proc/self/mountinfo; source: proc(5)."""
    best: Mount | None = None
    for line in table.splitlines():
        before, _, after = line.partition(" - ")
        fields, tail = before.split(" "), after.split(" ")
        point = _plain(fields[4])
        # of several mounts on one point, the last one is visible
        below = path == point or path.startswith(point.rstrip("/") + "/")
        if below and (best is None or len(point) >= len(best.point)):
            options, super_options = fields[5].split(","), tail[2].split(",")
            best = Mount(_plain(fields[3]), point, "ro" in options, tail[0], "ro" in super_options)
    return best


def way_in(folder: str, unit: str, table: str, *, written: bool) -> str | None:
    """Tell what to change in `unit` to make the folder visible, or `written` to; None when the unit is not the cause."""
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
    """Tell why the unit of this process hides `path` or forbids to write there, and the remedy; None when it does not."""
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
    """The name of the service in the text of /proc/self/cgroup; None when there is none."""
    services = [part for part in re.split(r"[/\n]", cgroup) if part.endswith(".service")]
    return services[-1] if services else None


def _edit(unit: str) -> str:
    return f"run: systemctl edit {unit.removesuffix('.service')}, add below [Service]:"


def _nearest_folder(path: str) -> str:
    """The first existing folder on the way up: a unit can only be given folders that exist."""
    folder = os.path.abspath(path)
    while not os.path.isdir(folder) and folder != "/":
        folder = os.path.dirname(folder)
    return folder


def _plain(field: str) -> str:
    """Undo the octal escapes of blanks and backslashes."""
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), field)
