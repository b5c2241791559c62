"""Warming: reads the version that `current` leads to into the page cache, so that a server which starts finds it there.

It stays out of the way: only what fits into half of the available memory is read, at idle priority, in the order of the
files, and no further once programs wait for memory or `current` leads elsewhere. The kernel counts the pages for the control
group of the process that read them.

Failures handled: a model that does not fit, pressure on memory, `current` that moves meanwhile (each ends the reading, with
the reason), files that are gone or can't be read (`LocalFault`), kernels and sandboxes that give no priorities or figures.
"""

import ctypes
import logging
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from axomsync.core.errors import LocalFault, Stopping
from axomsync.core.oserrors import local_fault
from axomsync.core.paths import CURRENT
from axomsync.core.text import printable
from axomsync.mirror.context import MirrorContext
from axomsync.mirror.publish import current
from axomsync.mirror.publish.record import Record, read_record
from axomsync.mirror.warmth import Group, available, fits, group_of, is_pressed
from axomsync.runtime.heartbeat import Beat

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
PIECE = 1024 * 1024
LOOK_BYTES = 64 * 1024 * 1024  # between two looks at memory and `current`
CONTROL_GROUPS = Path("/sys/fs/cgroup")
_LIMITS = {"": ("memory.max", "memory.high"), "memory": ("memory.limit_in_bytes",)}  # version 2, version 1
_USED = {"": "memory.current", "memory": "memory.usage_in_bytes"}
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}  # numbers of the system call, which libc does not wrap
_IDLE = 3 << 13  # IOPRIO_CLASS_IDLE, ioprio_set(2)


@dataclass(frozen=True)
class Machine:
    """Where the kernel tells about memory; `proc` and `groups` lead elsewhere in tests."""

    proc: Path = Path("/proc")
    groups: Path = CONTROL_GROUPS

    def available(self) -> int:
        """Bytes of memory that may be used now."""
        return available(_text(self.proc / "meminfo"), self._limited())

    def is_pressed(self) -> bool:
        """Check whether programs wait for memory."""
        own = [_text(folder / "memory.pressure") for _, folder in self._folders()]
        return is_pressed([_text(self.proc / "pressure/memory"), *own])

    def _limited(self) -> Iterator[Group]:
        for version, folder in self._folders():
            limits = [_text(folder / name) for name in _LIMITS[version]]
            group = group_of(limits, _text(folder / _USED[version]), _text(folder / "memory.stat"))
            if group is not None:
                yield group

    def _folders(self) -> Iterator[tuple[str, Path]]:
        """The control groups of this process, from its own up to the topmost, each with its version's key."""
        for line in _text(self.proc / "self/cgroup").splitlines():
            _, controllers, path = (*line.split(":", 2), "", "")[:3]
            if controllers not in _LIMITS:
                continue
            top = self.groups / controllers
            folder = top / path.lstrip("/")
            yield from ((controllers, each) for each in (folder, *folder.parents) if each == top or top in each.parents)


@dataclass(frozen=True)
class Warmed:
    """What was read. `reason`: why not all of it, None if it was all."""

    folder: Path
    size: int
    read: int
    reason: str | None
    for_now: bool = False  # the reason may go away


def warm(parent: Path, machine: Machine, step: Callable[[], None], held: int = 0) -> Warmed:
    """Read what `current` below `parent` leads to; `step` is called meanwhile, and may raise. `held` bytes are warm already.

    Raises `LocalFault`.
    """
    target = current.leads_to(parent)
    record = None if target is None else read_record(parent / target)
    if target is None or record is None:
        raise LocalFault(f"{parent / CURRENT}: it leads to no published version")
    folder, size = parent / target, sum(file.size for file in record.files)
    free = machine.available()
    if not fits(size, held, free):
        words = f"its {size} bytes do not fit into half of the available memory ({free} bytes)"
        return Warmed(folder, size, 0, words + (f", with {held} of other models" if held else ""))
    read = _Reading(parent, target, machine, step)
    return read.run(folder, record, size)


@dataclass
class _Reading:
    """One reading."""

    parent: Path
    target: str
    machine: Machine
    step: Callable[[], None]
    read: int = 0
    buffer: bytearray = field(default_factory=lambda: bytearray(PIECE))

    def run(self, folder: Path, record: Record, size: int) -> Warmed:
        since_look = LOOK_BYTES
        for file in record.files:
            for count in self._pieces(folder / file.rel):
                self.read += count
                since_look += count
                self.step()
                if since_look >= LOOK_BYTES:
                    since_look = 0
                    log.debug("%s: %d of %d bytes are warm", folder, self.read, size)
                    if self.machine.is_pressed():
                        return Warmed(folder, size, self.read, "programs wait for memory", for_now=True)
                    if current.leads_to(self.parent) != self.target:
                        return Warmed(folder, size, self.read, "current leads elsewhere by now", for_now=True)
        return Warmed(folder, size, self.read, None)

    def _pieces(self, path: Path) -> Iterator[int]:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                while count := os.readv(descriptor, [self.buffer]):
                    yield count
            finally:
                os.close(descriptor)
        except OSError as error:
            raise local_fault(error, str(path)) from None


def be_idle() -> None:
    """Give this thread the lowest priority for CPU and disk, as far as it may."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 19)  # of the thread that calls, on Linux
    if (number := _IOPRIO_SET.get(platform.machine())) is not None:
        ctypes.CDLL(None).syscall(number, 1, 0, _IDLE)  # a refusal leaves the priority that the process has


class Warmer:
    """Keeps what `current` leads to warm, for all names. `run` is its thread."""

    name, subject = "warm", "mirror folder"

    def __init__(self, context: MirrorContext, machine: Machine | None = None) -> None:
        self._context, self._root = context, context.settings.folder
        self._machine = machine or Machine()
        self._known: dict[str, tuple[str, int]] = {}  # by name: the version that was met last, and its bytes that are warm

    def run(self) -> None:
        """Work until the agent stops."""
        be_idle()
        with self._context.liveness.worker(self.name) as beat:
            while not self._context.stop.wait(LOOK_SECONDS):
                beat()
                if not self._context.paused():
                    with suppress(Stopping):
                        self.look(beat)

    def look(self, beat: Beat) -> None:
        """Warm each version to which `current` was moved since the last look. Raises `Stopping`."""
        there = self._leads()
        self._known = {name: known for name, known in self._known.items() if there.get(name) == known[0]}
        for name in there.keys() - self._known.keys():
            self._warm(name, there[name], beat)

    def _warm(self, name: str, target: str, beat: Beat) -> None:
        def step() -> None:
            beat()
            if self._context.stop.is_set():
                raise Stopping("the agent is stopping")

        held = sum(size for _, size in self._known.values())
        self._known[name] = (target, 0)
        try:
            warmed = warm(self._root / name, self._machine, step, held)
        except LocalFault as fault:
            log.debug("%s: not warmed: %s", printable(name), fault)
            return
        self._known[name] = (target, warmed.read)
        if warmed.reason is None:
            log.info("%s: its %d bytes are in the page cache", warmed.folder, warmed.size)
        else:
            log.info("%s: %d of %d bytes are warm: %s", warmed.folder, warmed.read, warmed.size, warmed.reason)

    def _leads(self) -> dict[str, str]:
        """The version that `current` leads to, by name. A folder that can't be read now has none."""
        found: dict[str, str] = {}
        with suppress(LocalFault):
            for parent in current.parents(self._root):
                with suppress(LocalFault):
                    if (target := current.leads_to(parent)) is not None:
                        found[parent.name] = target
        return found


def _text(path: Path) -> str:
    """A file of the kernel; "" if it has none."""
    with suppress(OSError, UnicodeError):
        return path.read_text()
    return ""
