"""Who may not do what, after the system has said no: which folder or file is in the way, and what gives the right.

A denied call names the path that was asked for, and not what about it was denied. So the way to it is walked again: a
folder that may not be entered, a file that may not be read, a folder in which nothing may be made or removed. What helps
hangs on who asks: a person may join the group or use sudo, the service is given the right by whoever owns the thing.

Failures handled: users and groups without a name, things that have gone meanwhile, a denial that the rights don't explain
(None: it has another cause).
"""

import grp
import os
import pwd
import shlex
import shutil
from dataclasses import dataclass

PERSONS = range(1000, 60_001)  # other users are the system's own, login.defs(5)


@dataclass(frozen=True)
class Denial:
    """`path` is what is in the way, `deed` what may not be done there."""

    path: str
    deed: str
    bits: int  # of the mode of `path`, as for others: 4 read, 2 write, 1 enter

    def words(self, asked: str) -> str:
        """Who may not do it, and what helps; `asked` is the path that was wanted."""
        place = "it" if self.path == asked else self.path
        return f"{who(os.geteuid())} may not {self.deed.format(place)}; {_remedy(self)}"


def denial_of(path: str) -> Denial | None:
    """What about `path` is denied to this process, to read, write or replace it."""
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
    """What keeps this process from working in a folder that is there, or from getting to it."""
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
    """Whether that is neither root nor a person."""
    return uid != 0 and uid not in PERSONS


def who(uid: int) -> str:
    """A user, as people call one."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"the user {uid}"
    return f"the service's user {name}" if is_service(uid) else name


def grant(path: str, uid: int, bits: int) -> str:
    """The command by which the owner of a thing gives a user these rights to it, and to all that a folder holds.

    Of a folder of root's to it alone: it may be the system's own, such as /var/lib.
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
        bits = 7 if denial.bits == 5 else denial.bits  # whose files it is to read it is to put away
        return f"run: {grant(denial.path, uid, bits)}"
    group = _group_name(status.st_gid) if status.st_gid and status.st_mode >> 3 & denial.bits == denial.bits else None
    if group is not None and status.st_gid in _groups(uid):
        return f"use sudo, or log in again: you are in group {group}, but this session began before you were"
    if group is not None:
        return f"use sudo, or join group {group}: sudo usermod -aG {group} {_name(uid)}, then log in again"
    above = _status(os.path.dirname(denial.path))
    if status.st_uid == 0 and above is not None and above.st_uid == uid:  # root has put something into a folder of theirs
        whole = "-R " * os.path.isdir(denial.path)
        return f"run: sudo chown {whole}{_name(uid)} {shlex.quote(denial.path)}"
    if status.st_uid == 0 and denial.bits == 7 and _name(uid) == str(uid):  # as in a container, on a volume of root's
        return f"have root run: {grant(denial.path, uid, denial.bits).replace('sudo ', '')}"
    if status.st_uid == 0:
        return "use sudo"
    return f"use sudo, or have {_name(status.st_uid)} run: {grant(denial.path, uid, denial.bits)}"


def _way_to(folder: str) -> list[str]:
    """A folder and those above it, the highest first."""
    way = [folder]
    while os.path.dirname(way[-1]) != way[-1]:
        way.append(os.path.dirname(way[-1]))
    return way[::-1]


def _may(path: str, how: int) -> bool:
    """Whether the rights allow it; true of what is not there, which nobody forbids, as of writing to a read-only mount."""
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
    """A user's groups as they are written down, the first one first; this process's own where that is nowhere."""
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
