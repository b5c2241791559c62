"""What every case works with: folders in memory and on disk, fresh installations, interleaved rounds; and what it yields."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from benchmarks.agent import Agent, Sections
from benchmarks.console import KEY, Console
from benchmarks.measure import Failed, Run, Spread, interleave, run
from benchmarks.origin import Origin
from benchmarks.peers import Command

MIB = 1024 * 1024
GIB = 1024 * MIB
QUICK_SHARE = 16
SAMPLES = 256
MEMORY = 10 * GIB  # the most that a case may put into memory: an object, a second form of it, a copy that is written
SPARE = 2 * GIB
IDLE_SECONDS = 1.0  # after the first poll


@dataclass(frozen=True, slots=True)
class Row:
    """One contender: figures of all its rounds; `size` is the bytes that one run moves, 0 when none are meant."""

    name: str
    wall: list[float]
    cpu: list[float]
    rss: list[int]
    size: int = 0
    extra: dict[str, list[float]] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """The median wall time."""
        return Spread.of(self.wall).median

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self.size / self.seconds

    @property
    def cpu_seconds(self) -> float:
        """The median of the CPU-seconds."""
        return Spread.of(self.cpu).median

    @property
    def cpu_per_gb(self) -> float:
        """CPU-seconds for 1e9 bytes."""
        return self.cpu_seconds / (self.size / 1e9)


@dataclass(frozen=True, slots=True)
class Goal:
    """One thing that the issue asks of a case, and what was measured."""

    claim: str
    value: float
    limit: float
    unit: str = "x"
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Reached, to the two decimals that are shown."""
        value = round(self.value, 2)
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True, slots=True)
class Curve:
    """How something grows; one line of points for each name."""

    name: str
    title: str
    x: str
    y: str
    lines: dict[str, list[tuple[float, float]]]


@dataclass(frozen=True, slots=True)
class Result:
    """What a case found."""

    rows: list[Row]
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the issue's table."""

    name: str
    title: str
    goal: str
    function: Callable[["Bench"], Result]


CASES: dict[str, Case] = {}


def case(name: str, title: str, goal: str) -> Callable[[Callable[["Bench"], Result]], Callable[["Bench"], Result]]:
    """Registers a case, with its goal beside it."""

    def register(function: Callable[["Bench"], Result]) -> Callable[["Bench"], Result]:
        CASES[name] = Case(name, title, goal, function)
        return function

    return register


class Bench:
    """Rounds, sizes and folders; a context manager that removes the folders."""

    def __init__(self, rounds: int, *, quick: bool, memory: Path, disk: Path) -> None:
        self.rounds, self.quick = rounds, quick
        self._check_memory()
        self.memory = Path(tempfile.mkdtemp(prefix="axomsync-bench-", dir=memory))
        self.disk = Path(tempfile.mkdtemp(prefix="axomsync-bench-", dir=disk))
        self._numbers = count(1)

    def __enter__(self) -> "Bench":
        # A filesystem of its own: what goes wrong in here may fill it, but not the machine's memory.
        options = f"size={MEMORY},mode=700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "axomsync-bench", self.memory], check=True)
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", self.memory], check=True)
        for folder in (self.memory, self.disk):
            shutil.rmtree(folder, ignore_errors=True)

    def _check_memory(self) -> None:
        needed = MEMORY // QUICK_SHARE if self.quick else MEMORY + SPARE
        with open("/proc/meminfo", encoding="ascii") as file:
            free = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
        if free < needed:
            raise Failed(f"{needed >> 30} GiB of memory must be free, and {free >> 30} GiB are; --quick needs less")

    def size(self, full: int) -> int:
        """A size, or a small share of it in a quick run."""
        return full // QUICK_SHARE if self.quick else full

    def tell(self, text: str) -> None:
        """Progress, for whoever waits."""
        print(f"  {text}", file=sys.stderr, flush=True)

    def fresh(self, place: Path) -> Path:
        """A name below `place` that was never used."""
        return place / str(next(self._numbers))

    @contextlib.contextmanager
    def folder(self, place: Path) -> Iterator[Path]:
        """A new folder below `place`, until the context is left."""
        folder = self.fresh(place)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    def origin(self, files: Path, *, rate: int = 0, lifetime: int = 3600, etag: str = "none") -> Origin:
        """Storage that serves the folder `files`."""
        return Origin(self.fresh(self.memory), files, rate=rate, lifetime=lifetime, etag=etag)

    def race(self, contenders: Mapping[str, Callable[[], Run]], size: int, *, warm_up: bool = True) -> list[Row]:
        """The contenders' rows, in their order."""
        runs = interleave(contenders, self.rounds, self.tell, warm_up=warm_up and not self.quick)
        return [row(name, of_one, size) for name, of_one in runs.items()]

    def peer(
        self, command: Callable[[Path], Command], place: Path, source: Path, environ: Mapping[str, str] | None = None
    ) -> Callable[[], Run]:
        """A client that writes a copy of `source` (a file or a folder) to the new path that it is given."""

        def once() -> Run:
            self._touch(place, size_of(source))
            folder = self._settled(place)
            try:
                cost = run(command(folder / source.name), self.log, environ)
                check_copy(source, folder / source.name)
            finally:
                shutil.rmtree(folder)
            return cost

        return once

    def agent(
        self, console: Console, origin: Origin, place: Path, source: Path, model: str, sections: Sections | None = None
    ) -> Callable[[], Run]:
        """axomsync, which mirrors `model` with the copy of `source` in it (or being it, when it is a folder)."""

        def once() -> Run:
            self._touch(place, size_of(source))
            agent = self.installation(console, origin, place, sections)
            try:
                cost = agent.sync()
                check_copy(source, agent.published(model, source.name if source.is_file() else ""))
            finally:
                agent.remove()
            return cost

        return once

    def running_agent(
        self, publish: Callable[[Console], None], origin: Origin, place: Path, source: Path, model: str
    ) -> Callable[[], Run]:
        """axomsync that runs and is idle; timed from `axomsync poll` until the model that `publish` lists is published."""

        def once() -> Run:
            self._touch(place, size_of(source))
            with Console() as console:
                agent = self.installation(console, origin, place)
                try:
                    with agent.program("run") as program:
                        eventually("the first poll", lambda: console.calls["models"] > 0)
                        time.sleep(IDLE_SECONDS)
                        publish(console)
                        before, began = program.cpu(), time.monotonic()
                        run(agent.command("poll"), self.log, {"AXOM_KEY": KEY})
                        eventually("the model", (agent.mirror / model / "current").exists)
                        wall, cpu = time.monotonic() - began, program.cpu() - before
                        program.signal(signal.SIGTERM)
                        cost = program.wait()
                    check_copy(source, agent.published(model, ""))
                finally:
                    agent.remove()
            return Run(wall, cpu, cost.rss)

        return once

    def installation(self, console: Console, origin: Origin | None, place: Path, sections: Sections | None = None) -> Agent:
        """A new installation with its state on disk and its mirror at `place`."""
        mirror = self._settled(place)
        return Agent(self.fresh(self.disk), console.url, mirror, origin.ca if origin else None, sections)

    @property
    def log(self) -> Path:
        """Where clients write to."""
        return self.disk / "clients.log"

    def _touch(self, place: Path, size: int) -> None:
        """Have memory for a copy at hand.

        The host of a virtual machine takes back what lies idle for a while, and who is the first to touch it again pays for
        that, with several CPU-seconds a GB: in each round the same contender.
        """
        if place is self.memory:
            with tempfile.TemporaryFile(dir=place) as file:
                for _ in range(0, size, MIB):
                    file.write(bytes(MIB))

    def _settled(self, place: Path) -> Path:
        """A new folder, after what earlier runs left to be written is on disk."""
        os.sync()
        folder = self.fresh(place)
        folder.mkdir(parents=True)
        return folder


def row(name: str, runs: list[Run], size: int = 0, **extra: list[float]) -> Row:
    """The row of one contender."""
    return Row(name, [r.wall for r in runs], [r.cpu for r in runs], [r.rss for r in runs], size, extra)


def size_of(source: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    return sum(file.stat().st_size for file in ([source] if source.is_file() else source.rglob("*")) if file.is_file())


def solid(path: Path, size: int) -> Path:
    """A file in which no two MiB are alike, stored an hour ago.

    Of a file that was stored a minute ago, axomsync asks once more before it publishes the model.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    block = os.urandom(MIB)
    with path.open("wb") as file:
        for number in range(0, size, MIB):
            file.write((number.to_bytes(8, "big") + block[8:])[: size - number])
    os.utime(path, (time.time() - 3600,) * 2)
    return path


def sparse(path: Path, size: int) -> Path:
    """A file of that size that takes no space."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


def check_copy(source: Path, copy: Path) -> None:
    """Raises `Failed` unless the copy has all files with the sizes and, where looked at, the bytes of the source."""
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    for file in files:
        twin = copy if file is source else copy / file.relative_to(source)
        size = file.stat().st_size
        if not twin.is_file() or twin.stat().st_size != size:
            raise Failed(f"{twin.name} is missing or has another size")
        with file.open("rb") as one, twin.open("rb") as other:
            for place in {0, max(0, size - 4096), *(random.randrange(size) for _ in range(SAMPLES // len(files)))}:
                one.seek(place)
                other.seek(place)
                if one.read(4096) != other.read(4096):
                    raise Failed(f"{twin.name} has other bytes at {place}")


def eventually(what: str, probe: Callable[[], bool], patience: float = 120.0) -> None:
    """Wait until `probe` is true. Raises `Failed`."""
    deadline = time.monotonic() + patience
    while not probe():
        if time.monotonic() > deadline:
            raise Failed(f"not within {patience:g} s: {what}")
        time.sleep(0.01)
