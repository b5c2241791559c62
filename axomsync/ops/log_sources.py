"""Where the log of an agent is, and its lines: the journal of the unit, or the file that standard error leads to.

Failures handled: a journal that this user may not read, or that is not there, journalctl missing, no unit and no agent, a
log that goes to a terminal or a pipe, a file that is cut off while it is followed, lines without a time (they belong to
the line before).
"""

import os
import stat
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Protocol

import click
import orjson

from axomsync.config import Loaded
from axomsync.core.errors import LocalFault
from axomsync.core.oserrors import local_fault
from axomsync.ledger import holder
from axomsync.ops.managed import ManagedUnit, managed_units

JOURNALS = (Path("/var/log/journal"), Path("/run/log/journal"))
LOOK_SECONDS = 0.25


@dataclass(frozen=True)
class Wanted:
    """Which lines: `since` (seconds since the epoch), the last `most` of them, and whether to go on with new ones."""

    since: float | None = None
    most: int | None = None
    follow: bool = False


class Source(Protocol):
    """A log that can be shown."""

    def show(self, wanted: Wanted) -> int:
        """Print the lines; returns an exit code. Raises `LocalFault`."""


def source_of(loaded: Loaded) -> Source:
    """Find the log of the agent of this configuration. Raises `LocalFault` when there is none, or none to be read."""
    state = loaded.settings.state.folder
    units = managed_units(loaded.path)
    try:
        pid = holder(state)
    except LocalFault:
        if not units:
            raise
        pid = None
    target = _standard_error(pid) if pid else None
    if target is not None and target.is_absolute() and _is_file(target):
        return LogFile(target)
    if units:
        return Journal(units)
    if pid is None:
        raise LocalFault(
            f"no unit of systemd uses {loaded.path}, and no agent holds {state}; its log is where its standard error went"
        )
    if target is None:
        raise LocalFault(f"the agent (pid {pid}) belongs to another user; call this as that user, or as root")
    raise LocalFault(f"the agent (pid {pid}) logs to {target}; look there, or start it with its errors in a file: 2>> FILE")


def _standard_error(pid: int) -> Path | None:
    """Return where the standard error of a process leads to; None when this user may not see that."""
    with suppress(OSError):
        return Path(os.readlink(f"/proc/{pid}/fd/2"))
    return None


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


# The journal


@dataclass(frozen=True)
class Journal:
    """What units have logged."""

    units: list[ManagedUnit]

    def show(self, wanted: Wanted) -> int:
        """Have journalctl print the lines."""
        self._demand_readable()
        option = "--user-unit" if self.units[0].of_user else "--unit"
        words = ["journalctl", "--no-pager", "--quiet", "--output=short-iso"]
        words += [f"{option}={unit.name}" for unit in self.units]
        words += [] if wanted.since is None else [f"--since=@{wanted.since:.0f}"]
        words += [f"--lines={'all' if wanted.most is None else wanted.most}"]
        words += ["--follow"] if wanted.follow else []
        sys.stdout.flush()
        try:
            return subprocess.run(words, check=False).returncode
        except OSError as error:
            raise LocalFault(f"journalctl: {error.strerror}; it comes with systemd") from None

    def _demand_readable(self) -> None:
        """Raise `LocalFault` when this user may read nothing: journalctl would print no line, and no reason."""
        files = [file for folder in JOURNALS for file in _files_of(folder)]
        if not files:
            raise LocalFault("no journal is kept here; is systemd-journald running?")
        if not any(os.access(file, os.R_OK) for file in files):
            raise LocalFault(
                f"the journal of {self.units[0].name}: only root and the groups adm and systemd-journal may read it; "
                f"run: sudo journalctl --unit={self.units[0].name}"
            )


def _files_of(folder: Path) -> Iterator[Path]:
    """Files of the journal that hold lines of this user or of services."""
    ours = ("system", f"user-{os.getuid()}")
    with suppress(OSError):
        for machine in list(folder.iterdir()):
            yield from (file for file in machine.glob("*.journal") if file.name.startswith(ours))


# A file


@dataclass(frozen=True)
class LogFile:
    """A file that an agent's standard error goes to."""

    path: Path

    def show(self, wanted: Wanted) -> int:
        """Print the lines of the file."""
        try:
            with self.path.open(encoding="utf-8", errors="backslashreplace") as stream:
                _print(_chosen(stream, wanted))
                while wanted.follow:
                    _print(stream.readlines())
                    time.sleep(LOOK_SECONDS)
                    if os.fstat(stream.fileno()).st_size < stream.tell():  # it was cut off
                        stream.seek(0)
        except OSError as error:
            raise local_fault(error, str(self.path)) from None
        return 0


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line, nl=False)


def _chosen(stream: IO[str], wanted: Wanted) -> "deque[str]":
    chosen: deque[str] = deque(maxlen=wanted.most)
    is_wanted = wanted.since is None
    for line in stream:
        if wanted.since is not None and (at := time_in(line)) is not None:
            is_wanted = at >= wanted.since
        if is_wanted:
            chosen.append(line)
    return chosen


def time_in(line: str) -> float | None:
    """Return the time at the beginning of a line of the log, in any of its formats; None for a line without one."""
    with suppress(ValueError, OverflowError, KeyError):
        if line.startswith("{"):
            told = orjson.loads(line)["time"] if '"time"' in line else ""
            return datetime.fromisoformat(str(told)).timestamp()
        return datetime.fromisoformat(line.partition(" ")[0]).timestamp()
    return None
