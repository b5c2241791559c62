"""What the agent costs besides transfers: memory, idling, looking without finding, start-up; and how all that grows."""

import time
from pathlib import Path

from benchmarks.agent import Agent, Sections
from benchmarks.bench import GIB, MIB, Bench, Curve, Goal, Result, Row, case, eventually, row, solid, sparse
from benchmarks.console import Console, File
from benchmarks.downloads import CAP, CONNECTIONS, FILE, one_file, publish_folder
from benchmarks.measure import Failed, Program, Run, Spread, run
from benchmarks.origin import free_port

POLL_SECONDS = 2
RESCAN_SECONDS = 10
MIRRORED = 100


@case(
    "memory",
    "memory, 16 GiB (sparse at the origin) model, 16 lanes",
    "peak RSS ≤ 200 MiB, not growing with size",
)
def memory(bench: Bench) -> Result:
    sizes = [bench.size(size) for size in (GIB, 4 * GIB, 16 * GIB)]
    rows = []
    for size in sizes:
        with bench.folder(bench.memory) as files:
            source = sparse(files / FILE, size)
            with bench.origin(files) as origin, Console() as console:
                console.publish("big", [(FILE, size, lambda: origin.sign(FILE))])
                name = f"{size / GIB:g} GiB"
                sections: Sections = {"transfer": {"connections": CONNECTIONS}}
                rows += bench.race({name: bench.agent(console, origin, bench.disk, source, "big", sections)}, size)
    peaks = [Spread.of(r.rss).median / MIB for r in rows]
    curve = Curve("growth-memory", "Peak memory by size of the model", "GiB", "MiB", {
        "axomsync": [(size / GIB, peak) for size, peak in zip(sizes, peaks, strict=True)]
    })  # fmt: skip
    return Result(rows, [
        Goal("peak RSS of the largest, at most in any round", max(rows[-1].rss) / MIB, 200, "MiB"),
        Goal("peak RSS of the largest, against the smallest", peaks[-1] / peaks[0], 1.1),
    ], ["Onto the disk."], [curve])  # fmt: skip


@case("idle", "idle for 60 s, status page on", "≤ 0.3 % of a core, RSS ≤ 100 MiB")
def idle(bench: Bench) -> Result:
    seconds = 10.0 if bench.quick else 60.0
    with Console() as console:
        for number in range(3):
            console.publish(f"model-{number}", [], status="training")
        sections: Sections = {"web": {"listen": f"127.0.0.1:{free_port()}"}, "drop": {"enabled": True}}
        agent = bench.installation(console, None, bench.disk, sections)
        with _running(agent) as program:
            eventually("a first poll", lambda: console.calls["models"] > 0)
            time.sleep(5)
            cpu = _cpu_over(program, seconds)
            resident = program.rss()
        agent.remove()
    share = 100 * cpu / seconds
    return Result([row("axomsync run", [Run(seconds, cpu, resident)])], [
        Goal("of a core", share, 0.3, "%"),
        Goal("RSS", resident / MIB, 100, "MiB"),
    ], ["Drop folder watched, the console polled every minute."])  # fmt: skip


@case(
    "listing",
    "10,000 models listed, nothing new; 100,000 files in the drop folder",
    "one console call, ≤ 0.5 CPU-s a poll; rescan ≤ 2 CPU-s",
)
def listing(bench: Bench) -> Result:
    counts = [100, 1000, 1000 if bench.quick else 10_000]
    polls = {count: _cost_of_poll(bench, count) for count in counts}
    files = 5_000 if bench.quick else 100_000
    rescan = _cost_of_rescan(bench, files)
    cpu, calls = polls[counts[-1]]
    curve = Curve("growth-models", "CPU of a poll that finds nothing new", "models listed", "CPU-s a poll", {
        "axomsync": [(count, cost) for count, (cost, _) in polls.items()]
    })  # fmt: skip
    rows = [row(f"a poll, {count:,} models", [Run(POLL_SECONDS, cost, 0)]) for count, (cost, _) in polls.items()]
    rows.append(row(f"a rescan, {files:,} files", [Run(RESCAN_SECONDS, rescan, 0)]))
    return Result(rows, [
        Goal("console calls a poll", calls, 1.0, ""),
        Goal("CPU-s a poll", cpu, 0.5, "CPU-s"),
        Goal("CPU-s a rescan", rescan, 2.0, "CPU-s"),
    ], [f"{MIRRORED} of the models are mirrored, the others are not ready. The files wait to settle."], [curve])  # fmt: skip


@case("start", "`axomsync --help`, `status`", "≤ 0.25 s, ≤ 0.5 s")
def start(bench: Bench) -> Result:
    with Console() as console:
        console.publish("waiting", [], status="training")
        agent = bench.installation(console, None, bench.disk)
        agent.sync()
        program = agent.command("status")[0]
        contenders = {
            "axomsync --help": lambda: run([program, "--help"], bench.log),
            "axomsync status": lambda: run(agent.command("status"), bench.log),
            "axomsync sync, nothing to do": agent.sync,
        }
        rows = bench.race(contenders, 0)
        agent.remove()
    return Result(rows, [
        Goal("--help", rows[0].seconds, 0.25, "s"),
        Goal("status", rows[1].seconds, 0.5, "s"),
    ])  # fmt: skip


@case("growth", "growth with size, files and lanes", "each at three sizes, with the curve in a picture")
def growth(bench: Bench) -> Result:
    by_size = [_of_size(bench, bench.size(size)) for size in (GIB, 2 * GIB, 4 * GIB)]
    by_files = [_of_files(bench, count) for count in ((20, 40, 80) if bench.quick else (250, 1000, 4000))]
    by_lanes = [_of_lanes(bench, lanes) for lanes in (4, 8, 16)]
    return Result([r for _, r in (*by_size, *by_files, *by_lanes)], curves=[
        Curve("growth-size", "One file into memory, TLS", "GiB", "s", {"axomsync": _line(by_size)}),
        Curve("growth-files", "Files of 64 KiB onto the disk, durable", "files", "s", {"axomsync": _line(by_files)}),
        Curve("growth-lanes", "1 GiB at 20 MB/s a connection", "connections", "MB/s", {
            "axomsync": [(lanes, r.rate / 1e6) for lanes, r in by_lanes],
            "the cap": [(lanes, lanes * CAP / 1e6) for lanes, _ in by_lanes],
        }),
    ])  # fmt: skip


def _line(points: list[tuple[float, Row]]) -> list[tuple[float, float]]:
    return [(x, r.seconds) for x, r in points]


def _of_size(bench: Bench, size: int) -> tuple[float, Row]:
    with one_file(bench, size) as (origin, console, source):
        name = f"{size / GIB:g} GiB"
        return size / GIB, bench.race({name: bench.agent(console, origin, bench.memory, source, "big")}, size)[0]


def _of_files(bench: Bench, count: int) -> tuple[float, Row]:
    with bench.folder(bench.memory) as files:
        source = files / "many"
        for number in range(count):
            solid(source / f"{number:05}", 64 * 1024)
        with bench.origin(files) as origin, Console() as console:
            publish_folder(console, origin, source)
            agent = bench.agent(console, origin, bench.disk, source, "many")
            return count, bench.race({f"{count} files": agent}, count * 64 * 1024)[0]


def _of_lanes(bench: Bench, lanes: int) -> tuple[float, Row]:
    size = bench.size(GIB)
    sections: Sections = {"transfer": {"connections": lanes}}
    with one_file(bench, size, rate=CAP) as (origin, console, source):
        agent = bench.agent(console, origin, bench.memory, source, "big", sections)
        return lanes, bench.race({f"{lanes} connections": agent}, size, warm_up=False)[0]


def _cost_of_poll(bench: Bench, count: int) -> tuple[float, float]:
    """CPU-seconds and console calls of one poll that finds nothing new."""
    with bench.folder(bench.memory) as files:
        tiny = solid(files / "tiny.bin", 1000)
        with bench.origin(files) as origin, Console() as console:
            link: File = (tiny.name, 1000, lambda: origin.sign(tiny.name))
            for number in range(count):
                mirrored = number < MIRRORED
                console.publish(f"model-{number:05}", [link], status="ready" if mirrored else "training")
            agent = bench.installation(console, origin, bench.disk, {"mirror": {"poll": f"{POLL_SECONDS}s"}})
            with _running(agent) as program:
                last = agent.published("model-00000", tiny.name)
                eventually("mirrored models", lambda: _count(agent.mirror) >= min(count, MIRRORED) and last.exists())
                time.sleep(2 * POLL_SECONDS)
                before = console.calls.total()
                polls = 3 if bench.quick else 10
                cpu = _cpu_over(program, polls * POLL_SECONDS)
                calls = console.calls.total() - before
            agent.remove()
    return cpu / polls, round(calls / polls, 1)


def _count(mirror: Path) -> int:
    return sum(1 for _ in mirror.glob("model-*/v1/.axomsync.json"))


def _cost_of_rescan(bench: Bench, count: int) -> float:
    """CPU-seconds of one scan of a drop folder in which nothing happened."""
    with Console(lambda name: (name, "")) as console:
        sections: Sections = {
            "drop": {"enabled": True, "settle": "1h", "rescan": f"{RESCAN_SECONDS}s"},
            "mirror": {"enabled": False},
        }
        agent = bench.installation(console, None, bench.disk, sections)
        for number in range(count):
            folder = agent.home / "drop" / f"{number // 1000:03}"
            folder.mkdir(exist_ok=True)
            (folder / f"{number:06}.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
        with _running(agent) as program:
            time.sleep(2 * RESCAN_SECONDS)
            scans = 1 if bench.quick else 4
            cpu = _cpu_over(program, scans * RESCAN_SECONDS)
        agent.remove()
    return cpu / scans


def _running(agent: Agent) -> Program:
    program = agent.program("run")
    eventually("a running agent", lambda: b" works with " in agent.log.read_bytes() or _dead(program))
    return program


def _dead(program: Program) -> bool:
    if program.running:
        return False
    raise Failed(f"the agent ended:\n{program.words()}")


def _cpu_over(program: Program, seconds: float) -> float:
    before = program.cpu()
    time.sleep(seconds)
    _dead(program)
    return program.cpu() - before
