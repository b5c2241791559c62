"""Missing rights: the folder or file that the system denied, and the command that grants access.

A denied call names the path that was asked for, not the part of it that was denied. So the path is checked step by step:
a folder without the right to enter, a file without the right to read, a folder without the right to make or remove files.
The remedy depends on the user: a person may join the group or use sudo; the service gets the right from the owner.

Failures handled: users and groups without a name, paths that have gone meanwhile, a denial that the rights don't explain
(None: it has another cause).
"""

import grp
import os
import pwd
import shlex
import shutil
from dataclasses import dataclass

PERSONS = range(1000, 60_001)  # user ids of people; all others are system users, login.defs(5)


@dataclass(frozen=True)
class Denial:
    """`path` was denied; `deed` is the forbidden action."""

    path: str
    deed: str
    bits: int  # missing mode bits: 4 read, 2 write, 1 enter

    def words(self, asked: str) -> str:
        """The user, the forbidden action and the remedy, in one line; `asked` is the path of the failed call."""
        place = "it" if self.path == asked else self.path
        return f"{who(os.geteuid())} may not {self.deed.format(place)}; {_remedy(self)}"


def denial_of(path: str) -> Denial | None:
    """Find the denial that keeps this process from reading, writing or replacing `path`."""
    whole = os.path.abspath(path)
    folder = os.path.dirname(whole)
    if (denial := denial_in(path)) is not None:
        return denial
    if not os.path.isdir(whole) and os.path.exists(whole) and not _may(whole, os.R_OK):
        return Denial(whole, "read {}", 4)
    if not _may(folder, os.W_OK):
        return Denial(folder, "make files in {} or remove files from it", 7)
    if os.path.exists(whole) and not _may(whole, os.W_OK):
        return Denial(whole, "write to {}", 6)
    return None


def denial_in(folder: str) -> Denial | None:
    """Find the denial that keeps this process from reaching or using an existing folder."""
    whole = os.path.abspath(folder)
    for closed in _way_to(os.path.dirname(whole)):
        if not _may(closed, os.X_OK):
            return Denial(closed, "look into {}", 1)
    if os.path.isdir(whole):
        if not _may(whole, os.R_OK | os.X_OK):
            return Denial(whole, "look into {}", 5)
        if not _may(whole, os.W_OK):
            return Denial(whole, "make or remove files in {}", 7)
    return None


def is_service(uid: int) -> bool:
    """Check that a user is neither root nor a person."""
    return uid != 0 and uid not in PERSONS


def who(uid: int) -> str:
    """Name of a user for messages."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"the user {uid}"
    return f"the service's user {name}" if is_service(uid) else name


def grant(path: str, uid: int, bits: int) -> str:
    """The command that grants a user these rights to `path` and, for a folder, to its content.

    For a folder of root it grants them to the folder alone: it may be the system's, such as /var/lib.
    """
    place, name = shlex.quote(path), _name(uid)
    status = _status(path)
    sudo = "sudo " * (status is not None and status.st_uid == 0)
    letters = "".join(letter for bit, letter in ((4, "r"), (2, "w"), (1, "X")) if bits & bit)
    is_folder = os.path.isdir(path) and bits != 1 and status is not None and status.st_uid != 0
    if shutil.which("setfacl") is not None:
        later = f",d:u:{name}:{letters}" if is_folder else ""
        return f"{sudo}setfacl {'-R ' * is_folder}-m u:{name}:{letters}{later} {place}"
    all_of_it = "-R " * is_folder
    is_theirs = status is not None and status.st_gid in _groups(uid)
    hand_over = "" if is_theirs else f"{sudo}chgrp {all_of_it}{_group_name(_groups(uid)[0])} {place} && "
    return f"{hand_over}{sudo}chmod {all_of_it}g+{letters} {place}"


def _remedy(denial: Denial) -> str:
    uid, status = os.geteuid(), _status(denial.path)
    if status is None:
        return "give it access"
    if status.st_uid == uid:
        return f"run: chmod u+rwX {shlex.quote(denial.path)}"
    if is_service(uid):
        bits = 7 if denial.bits == 5 else denial.bits  # a reader of the drop folder also archives its files
        return f"run: {grant(denial.path, uid, bits)}"
    group = _group_name(status.st_gid) if status.st_gid and status.st_mode >> 3 & denial.bits == denial.bits else None
    if group is not None and status.st_gid in _groups(uid):
        return f"use sudo, or log in again: you are in group {group}, but this session began before you were"
    if group is not None:
        return f"use sudo, or join group {group}: sudo usermod -aG {group} {_name(uid)}, then log in again"
    above = _status(os.path.dirname(denial.path))
    if status.st_uid == 0 and above is not None and above.st_uid == uid:  # root made something in the user's own folder
        whole = "-R " * os.path.isdir(denial.path)
        return f"run: sudo chown {whole}{_name(uid)} {shlex.quote(denial.path)}"
    if status.st_uid == 0 and denial.bits == 7 and _name(uid) == str(uid):  # as in a container, on a volume of root's
        return f"have root run: {grant(denial.path, uid, denial.bits).replace('sudo ', '')}"
    if status.st_uid == 0:
        return "use sudo"
    return f"use sudo, or have {_name(status.st_uid)} run: {grant(denial.path, uid, denial.bits)}"


def _way_to(folder: str) -> list[str]:
    """A folder and its parents, the highest first."""
    way = [folder]
    while os.path.dirname(way[-1]) != way[-1]:
        way.append(os.path.dirname(way[-1]))
    return way[::-1]


def _may(path: str, how: int) -> bool:
    """Check the rights alone: also true for a missing path and for writing to a read-only mount."""
    try:
        if os.access(path, how, effective_ids=True) or not os.path.lexists(path):
            return True
        return bool(how & os.W_OK and os.statvfs(path).f_flag & os.ST_RDONLY and _may(path, how & ~os.W_OK))
    except OSError:
        return True


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _groups(uid: int) -> list[int]:
    """A user's groups by the user database, the primary one first; an unknown user has this process's groups."""
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return [os.getegid(), *os.getgroups()]
    return os.getgrouplist(user.pw_name, user.pw_gid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
