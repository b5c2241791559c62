"""What people throw at the drop folder: fifty thousand files at once, one of eight GiB, lines short and long."""

import hashlib
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import BinaryIO

import orjson

from axomsync.drop.jsonl import check
from axomsync.drop.shapes import Shapes
from benchmarks.bench import GIB, MIB, Bench, Goal, Result, case, row
from benchmarks.console import Console
from benchmarks.measure import Failed, Run, run
from benchmarks.sink import Arrival, Sink
from benchmarks.uploads import WORDS, dataset, uploader

BURST = 50_000
BURST_SIZE = 2_000
FAR_BURST = 5_000
AWAY_SECONDS = 0.1
SHARD = 512 * MIB
LINE_LENGTHS = (91, 600)
CHECKED_SIZE = 256 * MIB
CHECKED_ON_ALL_CORES = GIB


@case("burst", "50,000 files of 2 KB dropped at once", "≥ 500 a second, flat within 10 %, RSS ≤ 200 MiB")
def many_files_at_once(bench: Bench) -> Result:
    number = bench.size(BURST)
    cost, arrivals = _burst(bench, number)
    made = row("axomsync", [cost], number * BURST_SIZE, **{"files a second": [number / cost.wall]})
    fifth = len(arrivals) // 5
    begun, half_way, ended = arrivals[fifth].at, arrivals[2 * fifth].at, arrivals[-fifth].at
    return Result([made], [
        Goal("files a second", number / cost.wall, 500, "/s", at_least=True),
        Goal("time of the last fifth, against the second", (arrivals[-1].at - ended) / (half_way - begun), 1.1),
        Goal("peak RSS", cost.rss / MIB, 200, "MiB"),
    ], [
        "One round. Storage hashes and discards; each file arrived once, with its bytes, and has its receipt. The disk's "
        "fsyncs are in the time."
    ])  # fmt: skip


@case(
    "far-burst",
    "5,000 files of 2 KB dropped at once, console and storage 100 ms away",
    "≥ 160 a second: four times what 8 at once can give",
)
def many_files_to_far_away(bench: Bench) -> Result:
    number = bench.size(FAR_BURST)
    cost, _ = _burst(bench, number, AWAY_SECONDS)
    made = row("axomsync", [cost], number * BURST_SIZE, **{"files a second": [number / cost.wall]})
    return Result([made], [
        Goal("files a second", number / cost.wall, 160, "/s", at_least=True),
        Goal("peak RSS", cost.rss / MIB, 200, "MiB"),
    ], [
        "One round, as above, but each answer takes 100 ms; a file needs two, one after the other."
    ])  # fmt: skip


def _burst(bench: Bench, number: int, away: float = 0.0) -> tuple[Run, list[Arrival]]:
    """One pass over many small files, to a far side whose answers take `away` seconds."""
    with bench.folder(bench.disk) as folder, Sink(away) as sink, Console(sink.grant, away) as console:
        drop = folder / "drop"
        drop.mkdir()
        digests = Counter(_drop_small(drop / f"{index:05}.jsonl") for index in range(number))
        os.sync()
        agent = uploader(bench, console, None, drop, {"after": "archive"})
        try:
            cost = agent.sync(patience=1800)
        finally:
            agent.remove()
        if Counter(arrival.sha256 for arrival in sink.arrivals) != digests:
            raise Failed(f"{len(sink.arrivals)} objects arrived, and they are not the {number} files")
        receipts = sum(1 for _ in (drop / "uploaded").glob("*.receipt.json"))
        if receipts != number:
            raise Failed(f"{receipts} receipts for {number} files")
    return cost, sink.arrivals


@case(
    "sharded",
    'one 8 GiB JSONL with shard = "512MiB", into storage that hashes and discards',
    "≥ 600 MB/s; each shard ends on a line end, joined they are the file; ≤ 200 MiB in all processes, flat",
)
def one_huge_file(bench: Bench) -> Result:
    rows = []
    for share in (1, 4, 8):
        with bench.folder(bench.disk) as folder, Sink() as sink, Console(sink.grant) as console:
            source = dataset(folder / "drop" / "train.jsonl", bench.size(share * GIB))
            agent = uploader(bench, console, None, source.parent, {"after": "keep", "shard": f"{bench.size(SHARD)}B"})
            try:
                cost = agent.sync()
            finally:
                agent.remove()
            _demand_joined(source, sink.arrivals)
            bench.tell(f"{share} GiB: {cost.wall:.1f} s, {cost.cpu:.1f} CPU-s, {cost.rss >> 20} MiB")
            shards = [float(len(sink.arrivals))]
            rows.append(row(f"{share} GiB", [cost], source.stat().st_size, shards=shards))
    peak, small = rows[-1].rss[0], rows[1].rss[0]
    return Result(rows, [
        Goal("MB/s of the largest", rows[-1].rate / 1e6, 600, "MB/s", at_least=True),
        Goal("peak RSS of the largest", peak / MIB, 200, "MiB"),
        Goal("peak RSS of 8 GiB in 16 shards, against 4 GiB in 8", peak / small, 1.1),
    ], [
        "One round of each, http, from the disk. Each shard ended on a line end, and has the SHA-256 of its range of the "
        "file; up to 8 shards go up at once, each with its hashing thread, so fewer need less memory."
    ])  # fmt: skip


@case("checker", "the line checker, with SHA-256, on one core", "≥ 500 MB/s for lines of 91 and of 600 bytes")
def lines_a_second(bench: Bench) -> Result:
    rows = []
    for length in LINE_LENGTHS:
        with bench.folder(bench.memory) as folder:
            source = lines_of(folder / "lines.jsonl", length, bench.size(CHECKED_SIZE))
            size = source.stat().st_size
            for words, shapes in (("", None), (", with their shape", Shapes)):
                runs = [_check(source, size, shapes) for _ in range(bench.rounds + 1)][1:]
                rows.append(row(f"lines of {length} bytes{words}", runs, size))
    return Result(rows, [Goal(f"MB/s, {each.name}", each.rate / 1e6, 500, "MB/s", at_least=True) for each in rows], [
        "In one thread, from memory. SHA-256, JSON and looking for repeated lines in one pass. For lines of 91 bytes "
        "SHA-256 and orjson alone, with nothing around them, come to about 500 MB/s."
    ])  # fmt: skip


@case(
    "cores", "the line checker, with SHA-256, on all cores", "≥ 1,200 MB/s on two cores, ≥ 500 MB/s with shapes, ≤ 200 MiB"
)
def lines_on_all_cores(bench: Bench) -> Result:
    rows = []
    for length in LINE_LENGTHS:
        with bench.folder(bench.memory) as folder:
            source = lines_of(folder / "lines.jsonl", length, bench.size(CHECKED_ON_ALL_CORES))
            size = source.stat().st_size
            for words, schema in (("", "off"), (", with their shape", "report")):
                command: list[str | Path] = [sys.executable, "-m", "benchmarks.check_file", source, schema]
                runs = [run(command, folder / "log") for _ in range(bench.rounds + 1)][1:]
                rows.append(row(f"lines of {length} bytes{words}", runs, size))
    goals = [
        Goal(f"MB/s, {each.name}", each.rate / 1e6, 500 if "shape" in each.name else 1200, "MB/s", at_least=True)
        for each in rows
    ]
    return Result(rows, [*goals, Goal("RSS of all processes", max(max(each.rss) for each in rows) / MIB, 200, "MiB")], [
        "One process reads and hashes, as many as there are cores parse. The start of all of them is in the time."
    ])  # fmt: skip


def lines_of(path: Path, length: int, size: int) -> Path:
    """A JSONL file of about `size` bytes, each of whose lines has `length` with its end, and no two are alike."""
    chance = random.Random(length)
    numbered = iter(range(10**11, 10**12))
    frame = len(orjson.dumps({"id": 10**11, "text": ""})) + 1
    with path.open("wb") as file:
        while file.tell() < size:
            words = (" ".join(chance.choices(WORDS, k=length // 4)) for _ in range(1000))
            texts = (text[: length - frame].ljust(length - frame) for text in words)
            file.write(b"".join(orjson.dumps({"id": next(numbered), "text": text}) + b"\n" for text in texts))
    return path


def _check(source: Path, size: int, shapes: type[Shapes] | None) -> Run:
    file = os.open(source, os.O_RDONLY)
    try:
        began, used = time.perf_counter(), time.thread_time()
        check(file, size, "full", lambda: None, shapes=None if shapes is None else shapes())
        return Run(time.perf_counter() - began, time.thread_time() - used, 0)
    finally:
        os.close(file)


def _drop_small(path: Path) -> str:
    """Writes a small dataset that is like no other; returns its SHA-256."""
    chance = random.Random(path.name)
    line = b'{"id": %d, "text": "%s"}\n'
    data = b"".join(line % (chance.getrandbits(62), " ".join(chance.choices(WORDS, k=70)).encode()) for _ in range(5))
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _digest(file: BinaryIO, length: int) -> str:
    digest = hashlib.sha256()
    while length and (piece := file.read(min(length, MIB))):
        digest.update(piece)
        length -= len(piece)
    return digest.hexdigest()


def _demand_joined(source: Path, arrivals: list[Arrival]) -> None:
    """Raises `Failed` unless the shards, by the numbers in their names, are the file, and each ends on a line end."""
    with source.open("rb") as file:
        for arrival in sorted(arrivals, key=lambda arrival: arrival.key.partition("/")[2]):
            if arrival.last != b"\n":
                raise Failed(f"{arrival.key} does not end on a line end")
            if _digest(file, arrival.size) != arrival.sha256:
                raise Failed(f"{arrival.key} is not its range of the file")
        if file.read(1):
            raise Failed("the shards are less than the file")
