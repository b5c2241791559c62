"""Runs a program and tells what it cost: wall time, CPU-seconds of its process tree, peak resident memory.

The CPU time comes from the kernel's own account (wait4: the process and all descendants it waited for). The peak is the
largest VmHWM seen, or the largest sum of what a program and its children held at once; not ru_maxrss, which a child inherits
from whoever started it.
"""

import contextlib
import os
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

SAMPLE_SECONDS = 0.05
PATIENCE_SECONDS = 300.0
TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A program did not do what it was to do; the message has the end of what it wrote."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one run cost: seconds, CPU-seconds (user + system), bytes."""

    wall: float
    cpu: float
    rss: int
    code: int = 0


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several figures, with the extremes."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, figures: Iterable[float]) -> "Spread":
        """The spread of figures, of which there must be one."""
        known = sorted(figures)
        return cls(statistics.median(known), known[0], known[-1])


class Program:
    """A program under measurement; a context manager that leaves nothing of it running."""

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        environ: Mapping[str, str] | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._log = log
        self._patience = patience
        self._peak = 0
        self._ended = threading.Event()
        self._began = time.monotonic()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=clean_environ() | dict(environ or {}),
                process_group=0,  # its own, to be stopped with its children
            )
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self.signal(signal.SIGKILL)
            self.wait()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """It has not ended yet."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def signal(self, number: int) -> None:
        """Send a signal to the program and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def wait(self) -> Run:
        """What it cost, when it has ended."""
        _, status, usage = os.wait4(self.pid, 0)
        wall = time.monotonic() - self._began
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._ended.set()
        self._sampler.join()
        return Run(wall, usage.ru_utime + usage.ru_stime, self._peak, self._process.returncode)

    def written(self) -> int:
        """Bytes that it has handed to write calls so far; also after its death, until `wait`."""
        with open(f"/proc/{self.pid}/io", encoding="ascii") as file:
            return int(dict(line.split(":") for line in file)["wchar"])

    def cpu(self) -> float:
        """CPU-seconds (user + system) so far, all threads."""
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def rss(self) -> int:
        """Resident memory now, in bytes."""
        return _memory(self.pid, "VmRSS")

    def words(self) -> str:
        """The end of what it wrote."""
        return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            pids = (self.pid, *_children(self.pid))
            together = sum(_memory(pid, "VmRSS") for pid in pids)
            self._peak = max(self._peak, together, *(_memory(pid, "VmHWM") for pid in pids))
            if time.monotonic() - self._began > self._patience:
                self.signal(signal.SIGKILL)


def run(
    command: Sequence[str | Path],
    log: Path,
    environ: Mapping[str, str] | None = None,
    *,
    code: int | None = 0,
    patience: float = PATIENCE_SECONDS,
) -> Run:
    """Run a program to its end. Raises `Failed` unless it ends with `code`; None takes any."""
    with Program(command, log, environ, patience) as program:
        cost = program.wait()
        if code is not None and cost.code != code:
            raise Failed(f"{Path(str(command[0])).name} ended with {cost.code}:\n{program.words()}")
        return cost


def interleave(
    contenders: Mapping[str, Callable[[], Run]], rounds: int, tell: Callable[[str], None], *, warm_up: bool = True
) -> dict[str, list[Run]]:
    """A B A B …, so that a slow minute of the machine hits all alike. The first round may only warm up."""
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    for number in range(0 if warm_up else 1, rounds + 1):
        for name, contender in contenders.items():
            cost = contender()
            if number:
                runs[name].append(cost)
            label = f"round {number}" if number else "warm-up"
            tell(f"{label}: {name}: {cost.wall:.2f} s, {cost.cpu:.2f} CPU-s, {cost.rss >> 20} MiB")
    return runs


def clean_environ() -> dict[str, str]:
    """The environment without what would lead a client elsewhere, or a Python to compile its modules at every start."""
    foreign = ("AXOM", "AWS_", "RCLONE_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(foreign)}


def _memory(pid: int, field: str) -> int:
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith(field + ":")), 0)
    except OSError:  # it has just ended
        return 0


def _children(pid: int) -> list[int]:
    try:
        return [
            int(word) for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()
        ]
    except OSError:
        return []
