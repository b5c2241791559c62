"""Names with published versions on a real disk, and lives of the part of the agent that moves `current`, in forks.

A life is a fork of one process that has imported the program. It may be killed from outside, or kill itself before the n-th
change of a name.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from axomsync.config import HookSettings
from axomsync.core.records import ModelFile, ModelState, Proof, RemoteModel
from axomsync.ledger import Ledger, Reader
from axomsync.mirror.moves import Promotion
from axomsync.mirror.publish import current
from axomsync.mirror.publish.folder import MirrorFolder
from axomsync.mirror.publish.record import record_of, write_record
from axomsync.ops.hooks import Hooks
from tests.rig.contexts import worker_context

ORDERS = "from tests.rig.promoter import serve; serve()"
CHECK = 'case "$AXOMSYNC_VERSION" in *bad) echo "answers nonsense"; exit 1;; esac'  # a version called so is ill


class Names:
    """One installation below `home`: a mirror folder, a ledger, and in this process what moves `current`."""

    def __init__(
        self, home: Path, now: Callable[[], float] = time.time, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.root, self.state, self.told_file = home / "models", home / "state", home / "told"
        self.root.mkdir(parents=True, exist_ok=True)
        self.now, self.clock = now, clock
        self.settings: dict[str, Any] = {}
        self.hooks: dict[str, Any] = {}
        self.promotes: Any = "now"

    def begin(self) -> Self:
        """A new life: only the disk is there from the last one."""
        self.ledger = Ledger(self.state, self.now)
        self.ledger.recover()
        self.stop = threading.Event()
        context = worker_context(self.ledger, stop=self.stop, now=self.now, clock=self.clock)
        self.folder = MirrorFolder(self.root, "here", self.promotes, now=self.now)
        told = ["sh", "-c", f'echo "$AXOMSYNC_NAME/$AXOMSYNC_VERSION" >>{self.told_file}']
        settings = HookSettings(**{"current_moved": told, **self.hooks})
        self.promotion = Promotion(context, self.folder, checked=bool(settings.health))
        self.hooks_run = Hooks(settings, context, os.environ)
        return self

    def end(self) -> None:
        self.ledger.close()

    def publish(self, name: str, *versions: str) -> None:
        """Publish versions, each newer than those before, as a publication does: folder, `current`, ledger."""
        for version in versions:
            count = len(self.ledger.read.models())
            created = datetime.fromtimestamp(1e9 + count, UTC).isoformat()
            remote = RemoteModel(f"id-{count:04}", name, version, None, None, "ready", created)
            self.ledger.record_catalog([(remote, ModelState.QUEUED, None)])
            for state in (ModelState.DOWNLOADING, ModelState.VERIFYING):
                self.ledger.move_model(remote.id, state)
            folder, files = self.root / name / version, (ModelFile("w", 3, None, ()),)
            folder.mkdir(parents=True)
            (folder / "w").write_bytes(b"abc")
            write_record(folder, record_of(self.ledger.read.model(remote.id), files, {"w": Proof.SIZE}, (), 1e9, ()))
            self.folder.point_current(folder.parent)
            self.ledger.record_published(remote.id, str(folder), files, (), None)

    def turn(self) -> None:
        """One turn of the agent: notice moves, run hooks and checks, act upon them."""
        self.promotion.look()
        self.hooks_run.run_due()
        self.promotion.look()

    def told(self) -> list[str]:
        """The moves that the hook was told."""
        return self.told_file.read_text().split() if self.told_file.exists() else []

    def leads(self, name: str) -> tuple[str | None, str | None]:
        """Where `current` leads, and the pin."""
        return current.leads_to(self.root / name), current.pinned(self.root / name)

    def problems(self) -> dict[str, str]:
        reader = Reader(self.state / "state.db")
        try:
            return {problem.subject: problem.reason for problem in reader.problems()}
        finally:
            reader.close()

    def incomplete(self) -> list[Path]:
        """Names whose `current` leads nowhere, or to a folder that is not a whole version."""
        links = self.root.glob("*/current")
        return [link for link in links if not ((link / ".axomsync.json").is_file() and (link / "w").read_bytes() == b"abc")]


class Lives:
    """Runs lives in forks; a context manager."""

    def __enter__(self) -> Self:
        self._forks = subprocess.Popen(
            [sys.executable, "-c", ORDERS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._forks.stdin is not None
        assert self._forks.stdout is not None
        self._forks.stdin.close()
        self._forks.wait()
        self._forks.stdout.close()

    def live(self, home: Path, kind: str, *, kill_before: int = 0, kill_after: float | None = None, seed: int = 0) -> int:
        """One life; returns its exit code, -9 of one that was killed."""
        assert self._forks.stdin is not None
        assert self._forks.stdout is not None
        self._forks.stdin.write(json.dumps([str(home), kind, kill_before, seed]) + "\n")
        child = int(self._forks.stdout.readline())
        if kill_after is not None:
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self._forks.stdin.write("wait\n")
        return int(self._forks.stdout.readline())


def serve() -> None:
    """Fork a life for each order on standard input."""
    while line := sys.stdin.readline():
        home, kind, kill_before, seed = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                LIVES[kind](Path(home), kill_before, seed)
                code = 0
            finally:
                os._exit(code)
        print(child, flush=True)
        sys.stdin.readline()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _one_turn(home: Path, kill_before: int, _: int) -> None:
    """Notice a move and its failure, and take the way back; die before the n-th change of a name."""
    names = Names(home)
    names.hooks = {"health": ["sh", "-c", CHECK], "health_for": "1h"}
    names.begin()
    if kill_before:
        _die_before(kill_before, str(names.root))
    names.turn()
    names.end()


def _busy(home: Path, _: int, seed: int) -> None:
    """Promote one version after the other, as a person does who unpins what went back, until the last one leads."""
    names, dice = Names(home), random.Random(seed)
    names.hooks, names.promotes = {"health": ["sh", "-c", CHECK], "health_for": "1ms"}, "manual"
    names.begin()
    parents = sorted(names.root.iterdir())
    while True:
        names.turn()
        busy = {trial.folder for trial in names.ledger.read.trials() if trial.verdict in (None, "failed")}
        left = [parent for parent in parents if parent.name[0] != "." and (str(parent) in busy or _rest(parent))]
        if not left:
            break
        for parent in left:
            if str(parent) not in busy:
                current.unpin(parent, names.folder.staging.scratch(), names.folder.choose)
                current.promote(parent, dice.choice(_rest(parent)[-2:]), names.folder.staging.scratch())
    names.end()


def _rest(parent: Path) -> tuple[str, ...]:
    """Versions that are newer than the one that leads, and than the one that failed last."""
    place = current.place(parent)
    bounds = [place.versions.index(bound) for bound in (place.current, place.failed) if bound in place.versions]
    return place.versions[: min(bounds, default=len(place.versions))]


def _die_before(count: int, root: str) -> None:
    left = [count]

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        syncs = event == "open" and str(arguments[0]).startswith(f"{root}/") and arguments[1] is None
        if syncs or event in ("os.symlink", "os.rename", "os.remove"):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


LIVES: dict[str, Callable[[Path, int, int], None]] = {"one turn": _one_turn, "busy": _busy}
