"""What gets in the way of a download: a SIGKILL at half-time, links that expire, lanes that hang or crawl."""

import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from axomsync.sandbox.relay import Direction, Link, Relay
from benchmarks import peers
from benchmarks.bench import GIB, MIB, Bench, Goal, Result, case, check_copy, row
from benchmarks.console import KEY, Console
from benchmarks.downloads import CAP, FILE, one_file
from benchmarks.measure import Program, Run, run
from benchmarks.origin import Origin
from benchmarks.peers import Command

LINK_SECONDS = 3
SLOW_CAP = 2_000_000
HEALTHY_BYTES = 8 * MIB  # what the ill connection brings before it falls ill


@dataclass(frozen=True, slots=True)
class Attempt:
    """One download that can be begun and taken up again: both commands, and where the file is in the end."""

    first: Command
    again: Command
    copy: Path
    environ: Mapping[str, str]
    clean: Callable[[], None]


@case(
    "kill",
    "SIGKILL at 50 % of 4 GiB",
    "refetched ≤ 256 MiB; first new byte ≤ 1 s after the restart; peers beside it",
)
def killed_half_way(bench: Bench) -> Result:
    size = bench.size(4 * GIB)
    refetched: dict[str, list[float]] = {}
    waited: dict[str, list[float]] = {}
    with one_file(bench, size) as (origin, console, source):

        def agent() -> Attempt:
            installed = bench.installation(console, origin, bench.disk)
            command = installed.command("sync")
            copy = installed.published("big", FILE)
            return Attempt(command, command, copy, {"AXOM_KEY": KEY}, installed.remove)

        def peer(first: Callable[[Path], Command], again: Callable[[Path], Command]) -> Callable[[], Attempt]:
            def begin() -> Attempt:
                folder = bench.fresh(bench.disk)
                folder.mkdir()
                copy = folder / FILE
                return Attempt(first(copy), again(copy), copy, {}, lambda: shutil.rmtree(folder))

            return begin

        def curl(to: Path) -> Command:
            return peers.curl(origin.sign(FILE), to, origin.ca)

        def curl_again(to: Path) -> Command:
            return peers.curl(origin.sign(FILE), to, origin.ca, "-C", "-")

        def aria2c(to: Path) -> Command:
            return peers.aria2c(origin.sign(FILE), to, origin.ca, "--continue=true")

        def rclone(to: Path) -> Command:
            return peers.rclone_file(origin.open_url(), to, origin.ca)

        attempts = {
            "axomsync": agent,
            "aria2c -x16 --continue": peer(aria2c, aria2c),
            "rclone": peer(rclone, rclone),
            "curl, then curl -C -": peer(curl, curl_again),
        }
        contenders = {
            name: _killed(bench, origin, source, begin, refetched.setdefault(name, []), waited.setdefault(name, []))
            for name, begin in attempts.items()
        }
        rows = bench.race(contenders, size)
    shown = [
        row(r.name, [Run(*figures) for figures in zip(r.wall, r.cpu, r.rss, strict=True)], size, **{
            "fetched twice, MiB": refetched[r.name][-bench.rounds :],
            "first new byte, s": waited[r.name][-bench.rounds :],
        })
        for r in rows
    ]  # fmt: skip
    ours = shown[0].extra
    return Result(shown, [
        Goal("fetched twice, at most in any round", max(ours["fetched twice, MiB"]), 256, "MiB"),
        Goal("first new byte after the restart, at most in any round", max(ours["first new byte, s"]), 1.0, "s"),
    ], [
        "Onto the disk. Wall time is that of both runs together. Fetched twice is what the second run got from the origin "
        "beyond what the first had not yet written.",
    ])  # fmt: skip


def _killed(
    bench: Bench, origin: Origin, source: Path, begin: Callable[[], Attempt], refetched: list[float], waited: list[float]
) -> Callable[[], Run]:
    size = source.stat().st_size

    def once() -> Run:
        attempt = begin()
        try:
            with Program(attempt.first, bench.log, attempt.environ) as program:
                while program.running and program.written() < size // 2:
                    time.sleep(0.01)
                program.signal(signal.SIGKILL)
                had = program.written()
                before = program.wait()
            restarted = time.time()
            after = run(attempt.again, bench.log, attempt.environ)
            check_copy(source, attempt.copy)
        finally:
            attempt.clean()
        fetches = [r for r in origin.requests(restarted - 0.001) if r.method == "GET" and FILE in r.path]
        refetched.append((had + sum(r.sent for r in fetches) - size) / MIB)
        waited.append(min(r.began for r in fetches) - restarted)
        return Run(before.wall + after.wall, before.cpu + after.cpu, max(before.rss, after.rss))

    return once


@case(
    "links",
    "links live 3 s, transfer takes 30 s",
    "finishes, < 1 % fetched twice; the peers' outcome is printed beside it",
)
def short_lived_links(bench: Bench) -> Result:
    size = bench.size(960 * MIB)
    with one_file(bench, size, rate=SLOW_CAP, lifetime=LINK_SECONDS) as (origin, console, source):
        began = time.time()
        ours = bench.agent(console, origin, bench.memory, source, "big")()
        served = sum(request.sent for request in origin.requests(began) if request.status == 206)
        rows = [row("axomsync", [ours], size)]
        notes = []
        commands: dict[str, Callable[[Path], Command]] = {
            "aria2c -x16": lambda to: peers.aria2c(origin.sign(FILE), to, origin.ca),
            "rclone copyurl": lambda to: peers.rclone_url(origin.sign(FILE), to, origin.ca),
            "hf_transfer": lambda to: peers.hf_transfer(origin.sign(FILE), to),
        }
        for name, command in commands.items():
            cost, outcome = _outcome(bench, command, source, origin)
            rows.append(row(name, [cost], size))
            notes.append(f"{name}: {outcome}.")
    twice = 100 * (served - size) / size
    return Result(rows, [Goal("fetched twice", twice, 1.0, "%")], notes)


def _outcome(bench: Bench, command: Callable[[Path], Command], source: Path, origin: Origin) -> tuple[Run, str]:
    with bench.folder(bench.memory) as folder:
        words = ["timeout", "90", *command(folder / FILE)]
        cost = run(words, bench.log, {"SSL_CERT_FILE": str(origin.ca)}, code=None)
        if cost.code == 124:
            return cost, "given up after 90 s"
        if cost.code:
            return cost, f"fails after {cost.wall:.1f} s with exit code {cost.code}"
        check_copy(source, folder / FILE)
        return cost, f"finishes after {cost.wall:.1f} s"


class IllRelay(Relay):
    """A relay at a rate, whose third connection that carries a body falls ill: it hangs, or crawls at `share` of the rate.

    The connection stays ill, whatever is asked over it; others are well.
    """

    def __init__(self, target: tuple[str, int], *, rate: float, share: float | None) -> None:
        super().__init__(target, rate=rate)
        self._share = share
        self._carriers: list[Link] = []

    def passing(self, link: Link, direction: Direction, data: memoryview) -> int:
        if direction is Direction.DOWN and self._share is not None and link.sent[direction] > HEALTHY_BYTES:
            if link not in self._carriers:
                self._carriers.append(link)
            if self._carriers.index(link) == 2:
                self._suffer(link, len(data))
        return len(data)

    def _suffer(self, link: Link, size: int) -> None:
        assert self.rate is not None
        until = time.monotonic() + size / (self.rate * self._share) if self._share else float("inf")
        while time.monotonic() < until and not link.is_cut:
            time.sleep(0.02)


@case("ill-lane", "a lane that hangs, a lane at 1 % speed", "total time ≤ 1.15x without")
def ill_lane(bench: Bench) -> Result:
    size = bench.size(4 * GIB)
    with one_file(bench, size) as (origin, _, source):

        def contender(share: float | None) -> Callable[[], Run]:
            def once() -> Run:
                with _through(origin, share) as port, Console() as console:
                    console.publish("big", [(FILE, size, lambda: origin.sign(FILE, port=port))])
                    return bench.agent(console, origin, bench.memory, source, "big")()

            return once

        contenders = {"all lanes well": contender(None), "one hangs": contender(0.0), "one at 1 %": contender(0.01)}
        rows = bench.race(contenders, size, warm_up=False)
    well, hangs, crawls = (r.seconds for r in rows)
    return Result(rows, [
        Goal("one lane hangs, against none", hangs / well, 1.15),
        Goal("one lane at 1 %, against none", crawls / well, 1.15),
    ], [f"Each connection runs at {CAP / 1e6:.0f} MB/s, through a relay."])  # fmt: skip


@contextmanager
def _through(origin: Origin, share: float | None) -> Iterator[int]:
    """The port of a relay to the origin."""
    with IllRelay(("127.0.0.1", origin.port), rate=CAP, share=share) as relay:
        yield int(relay.endpoint.rpartition(":")[2])
