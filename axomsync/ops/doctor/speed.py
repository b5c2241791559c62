"""`axomsync doctor --speed`: how fast storage gives bytes to this machine, with how many connections, and what limits that.

The newest ready models say where storage is: their links are fetched from the console, and the largest file is read, first
by one connection, then by twice as many as long as that brings a tenth more. The bytes are dropped; disks are not measured.

Failures handled: a console that refuses, no model to read from, files that are too small to measure with, links that storage
refuses, a storage that asks for fewer requests, connections that break (they are made again).
"""

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

from axomsync.config import load_key
from axomsync.console.client import Console
from axomsync.core.errors import AxomsyncError, Transient
from axomsync.core.policy import made_at
from axomsync.core.records import ManifestFile
from axomsync.ops.doctor.findings import Finding, Verdict
from axomsync.ops.doctor.installation import Installation
from axomsync.storage.client import RangeIgnored, Storage
from axomsync.transport.http import host_of
from axomsync.transport.links import MOST, fastest_link

STEP_SECONDS = 2.0
WARM_UP = 0.3  # share of a step in which connections are made and get up to speed
PAYS = 1.10  # twice the connections must bring this much more
ENOUGH = 0.9  # of the best rate
MODELS_ASKED = 5
SMALLEST_FILE = 1024 * 1024
BLOCK = 64 * 1024 * 1024
SUBJECT = "speed"

Read = Callable[[int, int, Callable[[int], bool]], None]  # start, end, and what gets each count of bytes; False ends it


@dataclass(frozen=True)
class Step:
    """What `connections` brought: bytes a second, and the share of this machine's cores that they took."""

    connections: int
    rate: float
    cpu: float = 0.0


@dataclass
class Circumstances:
    """What else is known: the link in Mbit/s (0 when it tells none), and whether storage asked for fewer requests."""

    link: int = 0
    told_off: bool = False
    failures: list[str] = field(default_factory=list)


def speed(installation: Installation, seconds: float = STEP_SECONDS) -> Iterator[Finding]:
    """Measure downloads; each step takes so many `seconds`."""
    settings = installation.settings
    try:
        storage = Storage.of(settings)
        with closing(storage):
            yield _measured_finding(installation, storage, seconds)
    except AxomsyncError as failure:
        yield Finding(SUBJECT, Verdict.FAIL, str(failure), "the checks above say more; nothing could be measured")


def _measured_finding(installation: Installation, storage: Storage, seconds: float) -> Finding:
    """Measure with the largest file that there is. Raises `AxomsyncError`."""
    settings = installation.settings
    console = Console(settings.console.url, lambda: load_key(settings, installation.environ), ca_file=installation.ca_file)
    with closing(console):
        file = largest_file(console)
    if file is None:
        found = f"no ready model has a file of {SMALLEST_FILE // 1024} KiB or more to measure with"
        return Finding(SUBJECT, Verdict.WARN, found, "try again when a model is ready")
    around = Circumstances(fastest_link())
    steps = measured(_reader(storage, file, around), file.size, seconds, settings.transfer.connections or MOST)
    return judged(host_of(file.url), steps, around, settings.transfer.connections)


def largest_file(console: Console) -> ManifestFile | None:
    """Return the largest file of the newest ready models, with a fresh link; None when all are too small."""
    ready = [model for model in console.models() if model.status == "ready"]
    ready.sort(key=lambda model: made_at(model.created_at), reverse=True)
    files = [file for model in ready[:MODELS_ASKED] for file in console.manifest(model.id).files]
    largest = max(files, key=lambda file: file.size, default=None)
    return largest if largest is not None and largest.size >= SMALLEST_FILE else None


def measured(read: Read, size: int, seconds: float, most: int) -> list[Step]:
    """Read a file of `size` bytes with 1, 2, 4, … connections, as long as more bring more; at most `most`."""
    steps: list[Step] = []
    connections: int | None = 1
    while connections is not None:
        steps.append(_step(read, size, connections, seconds))
        connections = more(steps, most)
    return steps


def more(steps: Sequence[Step], most: int) -> int | None:
    """Decide how many connections to try next; None when no more are worth it."""
    last, before = steps[-1], steps[-2] if len(steps) > 1 else Step(0, 0.0)
    pays = last.rate > before.rate * PAYS
    return min(most, 2 * last.connections) if pays and last.connections < most else None


def judged(host: str, steps: Sequence[Step], around: Circumstances, configured: int | None) -> Finding:
    """Say the rate, the number of connections that is enough, and what limits; `configured` is None for "auto"."""
    best = max(steps, key=lambda step: step.rate)
    if not best.rate:
        reason = around.failures[0] if around.failures else "no byte came"
        return Finding(SUBJECT, Verdict.FAIL, f"storage at {host}: {reason}", "nothing could be measured")
    enough = next(step.connections for step in steps if step.rate >= best.rate * ENOUGH)
    each = ", ".join(f"{step.connections}: {_megabits(step.rate)}" for step in steps)
    found = (
        f"storage at {host} gives {_megabits(best.rate)} Mbit/s; enough connections: {enough} ({each}); "
        f"the limit is {_limit(steps, best, around)}"
    )
    if configured is not None and best.connections == configured == steps[-1].connections and enough == configured > 1:
        fix = '[transfer] connections = "auto" lets the agent try more'
        return Finding(SUBJECT, Verdict.WARN, found, fix)
    return Finding(SUBJECT, Verdict.OK, found)


def _limit(steps: Sequence[Step], best: Step, around: Circumstances) -> str:
    if around.told_off:
        return "storage, which asked for fewer requests"
    if around.link and best.rate * 8 / 1e6 >= 0.8 * around.link:
        return f"this machine's link of {around.link} Mbit/s"
    if best.cpu >= 0.85:
        return "this machine's CPU"
    if best is steps[-1] and len(steps) > 1 and best.rate > steps[-2].rate * PAYS:
        return "the number of connections: each gets the same, and more were not tried"
    return "the way to storage, or storage itself: more connections bring nothing"


def _megabits(rate: float) -> str:
    return f"{rate * 8 / 1e6:.3g}" if rate * 8 < 1e9 else f"{rate * 8 / 1e6:.0f}"


def _step(read: Read, size: int, connections: int, seconds: float) -> Step:
    """Read with so many connections at once, and measure after the warm-up."""
    counted, ends = [0] * connections, time.monotonic() + seconds
    block = min(size, BLOCK)
    turns = itertools.count()  # its `next` is one step of the interpreter, so threads can share it

    def work(lane: int) -> None:
        def got(count: int) -> bool:
            counted[lane] += count
            return time.monotonic() < ends

        while time.monotonic() < ends:
            start = next(turns) % (size // block) * block
            read(start, start + block, got)

    with ThreadPoolExecutor(connections, thread_name_prefix="speed") as pool:
        lanes = [pool.submit(work, lane) for lane in range(connections)]
        threading.Event().wait(seconds * WARM_UP)
        began, bytes_before, cpu_before = time.monotonic(), sum(counted), time.process_time()
        threading.Event().wait(max(0.0, ends - time.monotonic()))
        passed, bytes_after, cpu_after = time.monotonic() - began, sum(counted), time.process_time()
    for lane in lanes:
        lane.result()  # else a bug would only look like a slow storage
    cores = len(os.sched_getaffinity(0))
    return Step(connections, (bytes_after - bytes_before) / passed, (cpu_after - cpu_before) / passed / cores)


def _reader(storage: Storage, file: ManifestFile, around: Circumstances) -> Read:
    """Return what reads a part of the file. A failure costs a short pause: storage must not be hammered."""

    def read(start: int, end: int, got: Callable[[int], bool]) -> None:
        try:
            with storage.get(file.url, start, end, file.size, None) as reply:
                for chunk in reply.chunks:
                    if not got(len(chunk)):
                        return
        except RangeIgnored:
            around.failures.append("it ignores ranges, so only one connection can be measured")
            time.sleep(0.2)
        except AxomsyncError as failure:
            around.failures.append(str(failure))
            around.told_off |= isinstance(failure, Transient) and failure.congestion
            time.sleep(0.2)

    return read
