"""Lives of the agent: a process that has loaded it forks a child for each, which saves the time of loading.

`Forge` starts that process, with calls.c preloaded, and orders lives from it. A life is `axomsync …` in a process of its
own, with its arguments, environment, limits and knobs; what it wrote is in a file.

Left to chance: threads of one life run in any order, so call number 300 is not the same call each time. All threads share
one counter, and the call that was struck is told.
"""

import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PATIENCE_SECONDS = 120.0  # of a life; one that takes longer hangs
PR_SET_PDEATHSIG = 1  # prctl(2)
REPORT_BYTES = 416  # of the struct `report` in calls.c
HANGS = -1000  # in place of an exit code
UNCAUGHT = 70  # the exit code of a life that ends by an exception
CHANGES, LOOKS = 0, 1  # kinds of calls
KILL_BEFORE, KILL_AFTER, SHORT = -1, -2, -3  # in place of an errno


@dataclass(frozen=True)
class Strike:
    """What happens at call number `at` of its kind, and at the next `lasts - 1`. `how` is an errno or one of those above."""

    at: int = 0  # 0: nothing happens, calls are only counted
    how: int = KILL_BEFORE
    kind: int = CHANGES
    lasts: int = 1


@dataclass(frozen=True)
class Order:
    """One life. `knobs` are constants of the agent's modules, by name."""

    arguments: list[str]
    environ: dict[str, str]
    folders: list[str]  # whose calls count
    output: str
    strike: Strike = field(default_factory=Strike)
    knobs: Mapping[str, Any] = field(default_factory=dict)
    descriptors: int = 0  # limit of open files; 0 leaves it
    memory: int = 0  # limit of address space, in bytes; 0 leaves it
    group: str = ""  # file that takes the process into a control group


@dataclass(frozen=True)
class End:
    """How a life ended: its exit code, or minus the signal; its counted calls; the call that was struck, "" if none was."""

    code: int
    changes: int
    looks: int
    struck: str


class Forge:
    """Orders lives from a process that has loaded the agent at `program` (a folder with the package `axomsync`)."""

    def __init__(self, library: Path, report: Path, program: Path) -> None:
        self._report = report
        report.write_bytes(bytes(REPORT_BYTES))
        environ = {name: value for name, value in os.environ.items() if not name.startswith("AXOM")}
        environ |= {"LD_PRELOAD": str(library), "PYTHONPATH": f"{program}:{HERE.parent.parent}"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.torture.forge", str(report)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environ,
            cwd=program,
            text=True,
        )

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def live(self, order: Order) -> End:
        """One life, to its end."""
        self._report.write_bytes(bytes(REPORT_BYTES))
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(asdict(order)), file=self._process.stdin, flush=True)
        code = int(self._process.stdout.readline())
        told = self._report.read_bytes()
        changes, looks = (int.from_bytes(told[place : place + 8], "little") for place in (0, 8))
        return End(code, changes, looks, told[16:].split(b"\0")[0].decode(errors="replace"))


def place_for_runs() -> Path:
    """A new folder, in memory where that is possible: runs sync thousands of times, and a mounted image is one anyhow."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="axomsync-torture-", dir=memory if os.access(memory, os.W_OK) else None))


@contextmanager
def forged(folder: Path, program: Path) -> Iterator[Forge]:
    """A forge whose files are in `folder`."""
    library = folder / "calls.so"
    if not library.exists():
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, HERE / "calls.c", "-ldl"], check=True)
    forge = Forge(library, folder / f"report-{os.getpid()}", program)
    try:
        yield forge
    finally:
        forge.close()


def main() -> None:
    """Serve orders until standard input ends."""
    import importlib
    import pkgutil

    import axomsync
    import axomsync.cli

    for found in pkgutil.walk_packages(axomsync.__path__, "axomsync."):
        if not found.name.startswith(("axomsync.sandbox", "axomsync.__main__")):
            importlib.import_module(found.name)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            _live(order)
        print(_end_of(child), flush=True)


def _end_of(child: int) -> int:
    descriptor = os.pidfd_open(child)
    try:
        hangs = not select.select([descriptor], [], [], PATIENCE_SECONDS)[0]
        if hangs:
            os.kill(child, 9)
        _, status = os.waitpid(child, 0)
        return HANGS if hangs else os.waitstatus_to_exitcode(status)
    finally:
        os.close(descriptor)


def _live(order: dict[str, Any]) -> None:
    from axomsync.cli import main as command_line

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a campaign that is stopped leaves no life behind
    output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, of in ((0, nothing), (1, output), (2, output)):
        os.dup2(of, target)
    os.environ.update(order["environ"])
    for name, module in list(sys.modules.items()):
        if name.startswith("axomsync."):
            for knob in order["knobs"].keys() & vars(module).keys():
                setattr(module, knob, order["knobs"][knob])
    if order["descriptors"]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (order["descriptors"],) * 2)
    if order["memory"]:
        resource.setrlimit(resource.RLIMIT_AS, (order["memory"],) * 2)
    if order["group"]:
        Path(order["group"]).write_text(str(os.getpid()))
    strike, folders = order["strike"], "".join(f"{folder}/\n" for folder in order["folders"])
    sys.argv = ["axomsync", *order["arguments"]]
    code = UNCAUGHT
    ctypes.CDLL(None).torture_begin(
        os.fsencode(folders), os.fsencode(sys.orig_argv[-1]), strike["kind"],
        ctypes.c_long(strike["at"]), strike["how"], ctypes.c_long(strike["lasts"]),
    )  # fmt: skip
    try:
        command_line()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        if code == UNCAUGHT:
            sys.excepthook(*sys.exc_info())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
