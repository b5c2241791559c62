"""How fast models come down: one large file into memory and onto disk, capped connections, many small files."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import peers
from benchmarks.agent import Sections
from benchmarks.bench import GIB, MIB, Bench, Goal, Result, Row, case, solid
from benchmarks.console import Console
from benchmarks.measure import run
from benchmarks.origin import Origin

FILE = "model.safetensors.bin"  # no format that the agent would look into
PART = 8 * MIB  # what the AWS clients upload by
CAP = 20_000_000
CONNECTIONS = 16
MANY_CONNECTIONS = 64
MANY_FILES = 10_000


@contextmanager
def one_file(bench: Bench, size: int, *, rate: int = 0, lifetime: int = 3600) -> Iterator[tuple[Origin, Console, Path]]:
    """An origin with a file of that size, and a console that lists it as the model `big`."""
    with bench.folder(bench.memory) as files:
        source = solid(files / FILE, size)
        with bench.origin(files, rate=rate, lifetime=lifetime) as origin, Console() as console:
            console.publish("big", [(FILE, size, lambda: origin.sign(FILE))])
            yield origin, console, source


def best(rows: list[Row]) -> Row:
    """The fastest peer; the first row is ours."""
    return min(rows[1:], key=lambda row: row.seconds)


def named(rows: list[Row], name: str) -> Row:
    """The row of one contender."""
    return next(row for row in rows if row.name == name)


@case(
    "tmpfs",
    "one 4 GiB file, TLS, loopback, everyone writing to tmpfs",
    "wall ≤ the best peer, ≤ 0.67x aria2c -x16; CPU-seconds a GB ≤ 1.25x curl, with journal and BLAKE3 on",
)
def file_to_tmpfs(bench: Bench) -> Result:
    size = bench.size(4 * GIB)
    with one_file(bench, size) as (origin, console, source):
        url, ca = origin.sign(FILE), origin.ca
        streams = "--multi-thread-streams=16"
        contenders = {
            "axomsync": bench.agent(console, origin, bench.memory, source, "big"),
            "curl": bench.peer(lambda to: peers.curl(url, to, ca), bench.memory, source),
            "aria2c -x16": bench.peer(lambda to: peers.aria2c(url, to, ca), bench.memory, source),
            "rclone": bench.peer(lambda to: peers.rclone_file(origin.open_url(), to, ca), bench.memory, source),
            "rclone, 16 streams": bench.peer(
                lambda to: peers.rclone_file(origin.open_url(), to, ca, streams), bench.memory, source
            ),
            "hf_transfer": bench.peer(
                lambda to: peers.hf_transfer(url, to), bench.memory, source, {"SSL_CERT_FILE": str(ca)}
            ),
        }
        rows = bench.race(contenders, size)
    ours, fastest = rows[0], best(rows)
    return Result(rows, [
        Goal(f"wall, against the best peer ({fastest.name})", ours.seconds / fastest.seconds, 1.0),
        Goal("wall, against aria2c -x16", ours.seconds / named(rows, "aria2c -x16").seconds, 0.67),
        Goal("CPU-seconds a GB, against curl", ours.cpu_per_gb / named(rows, "curl").cpu_per_gb, 1.25),
    ])  # fmt: skip


@case(
    "disk",
    "the same onto the disk, until durable (the peers followed by `sync FILE`)",
    "wall ≤ the best peer",
)
def file_to_disk(bench: Bench) -> Result:
    size = bench.size(4 * GIB)
    with one_file(bench, size) as (origin, console, source):
        url, ca = origin.sign(FILE), origin.ca
        streams = "--multi-thread-streams=16"
        contenders = {
            "axomsync": bench.agent(console, origin, bench.disk, source, "big"),
            "curl": bench.peer(lambda to: peers.until_durable(peers.curl(url, to, ca), to), bench.disk, source),
            "aria2c -x16": bench.peer(lambda to: peers.until_durable(peers.aria2c(url, to, ca), to), bench.disk, source),
            "rclone": bench.peer(
                lambda to: peers.until_durable(peers.rclone_file(origin.open_url(), to, ca), to), bench.disk, source
            ),
            "rclone, 16 streams": bench.peer(
                lambda to: peers.until_durable(peers.rclone_file(origin.open_url(), to, ca, streams), to),
                bench.disk,
                source,
            ),
            "hf_transfer": bench.peer(
                lambda to: peers.until_durable(peers.hf_transfer(url, to), to),
                bench.disk,
                source,
                {"SSL_CERT_FILE": str(ca)},
            ),
        }
        rows = bench.race(contenders, size)
    fastest = best(rows)
    return Result(rows, [Goal(f"wall, against the best peer ({fastest.name})", rows[0].seconds / fastest.seconds, 1.0)])


@case("composite", 'the same with `verify = "etag"` and a composite ETag', "≤ 1.3x the line above")
def composite_etag(bench: Bench) -> Result:
    size = bench.size(4 * GIB)
    with bench.folder(bench.memory) as files:
        source = solid(files / FILE, size)
        with bench.origin(files, etag=_composite_etag(source)) as origin, Console() as hashed, Console() as plain:
            hashed.publish("big", [(FILE, size, lambda: origin.sign(FILE, "composite"))])
            plain.publish("big", [(FILE, size, lambda: origin.sign(FILE))])
            run(peers.curl(origin.sign(FILE, "composite"), Path("/dev/null"), origin.ca), bench.log)  # fills nginx's cache
            contenders = {
                "axomsync, composite ETag": bench.agent(hashed, origin, bench.disk, source, "big"),
                "axomsync, no usable ETag": bench.agent(plain, origin, bench.disk, source, "big"),
            }
            rows = bench.race(contenders, size)
    return Result(rows, [Goal("wall, against the same without checksums", rows[0].seconds / rows[1].seconds, 1.3)])


@case(
    "capped",
    "20 MB/s a connection, as object stores cap it",
    "≥ 0.9 x connections x cap; ≥ 3x rclone's defaults; ≥ aria2c -x16",
)
def capped_connections(bench: Bench) -> Result:
    size = bench.size(4 * GIB)
    with one_file(bench, size, rate=CAP) as (origin, console, source):
        url, ca = origin.sign(FILE), origin.ca
        contenders = {
            "axomsync": bench.agent(console, origin, bench.memory, source, "big"),
            "aria2c -x16": bench.peer(lambda to: peers.aria2c(url, to, ca), bench.memory, source),
            "rclone": bench.peer(lambda to: peers.rclone_file(origin.open_url(), to, ca), bench.memory, source),
            # nginx pauses a connection for what it has sent, and not for the time that the sending took.
            "16 connections of curl, nothing written": lambda: run(peers.curl_ranges(url, ca, size, CONNECTIONS), bench.log),
        }
        rows = bench.race(contenders, size, warm_up=False)
    ours, aria2c, rclone, capped = (row.rate for row in rows)
    return Result(rows, [
        Goal("rate, against what 16 capped connections give at most", ours / capped, 0.9, at_least=True),
        Goal("rate, against rclone's defaults", ours / rclone, 3.0, at_least=True),
        Goal("rate, against aria2c -x16", ours / aria2c, 1.0, at_least=True),
    ], [f"{ours / (CONNECTIONS * CAP):.2f}x of 16 times 20 MB/s, which nothing gets from this origin."])  # fmt: skip


@case("lanes", "64 connections at 20 MB/s each", "≥ 0.9 x 64 x 20 MB/s; RSS ≤ 200 MiB")
def many_connections(bench: Bench) -> Result:
    size = bench.size(6 * GIB)
    with one_file(bench, size, rate=CAP) as (origin, console, source):
        url, ca = origin.sign(FILE), origin.ca
        sections: Sections = {"transfer": {"connections": MANY_CONNECTIONS}}
        contenders = {
            "axomsync": bench.agent(console, origin, bench.disk, source, "big", sections),
            "64 connections of curl, nothing written": lambda: run(
                peers.curl_ranges(url, ca, size, MANY_CONNECTIONS), bench.log
            ),
        }
        rows = bench.race(contenders, size, warm_up=False)
    ours, capped = (row.rate for row in rows)
    return Result(rows, [
        Goal("rate, against 64 times 20 MB/s", ours / (MANY_CONNECTIONS * CAP), 0.9, at_least=True),
        Goal("rate, against what 64 capped connections give here", ours / capped, 0.9, at_least=True),
        Goal("peak RSS", max(rows[0].rss) / MIB, 200, "MiB"),
    ])  # fmt: skip


@case("many", "a model of 10,000 files of 1 MiB, onto the disk", "wall ≤ the best of rclone, s5cmd and aria2c")
def many_files(bench: Bench) -> Result:
    number = bench.size(MANY_FILES)
    with bench.folder(bench.memory) as files:
        source = files / "many"
        source.mkdir()
        block = solid(source / "00000", MIB)
        for index in range(1, number):
            os.link(block, source / f"{index:05}")  # one file in memory, served under ten thousand names
        with bench.origin(files) as origin, Console() as console:
            publish_folder(console, origin, source)
            url, ca = origin.open_url("many/"), origin.ca
            listed = files / "links"
            listed.write_text("".join(f"{url}{index:05}\n" for index in range(number)))
            contenders = {
                "axomsync": bench.agent(console, origin, bench.disk, source, "many"),
                "rclone --transfers 16, until durable": bench.peer(
                    lambda to: peers.until_durable(peers.rclone_folder(url, to, ca, "--transfers=16"), to),
                    bench.disk,
                    source,
                ),
                "aria2c -j16, until durable": bench.peer(
                    lambda to: peers.until_durable(peers.aria2c_list(listed, to, ca), to), bench.disk, source
                ),
            }
            rows = bench.race(contenders, number * MIB)
    fastest = best(rows)
    return Result(rows, [Goal(f"wall, against the best peer ({fastest.name})", rows[0].seconds / fastest.seconds, 1.0)], [
        "s5cmd reads only from S3 and is left out: the links are signed for a plain server."
    ])  # fmt: skip


@case(
    "mixed", "a model of 2 x 512 MiB and 500 x 64 KiB; the agent runs and `axomsync poll` begins", "≤ rclone --transfers 16"
)
def mixed_model(bench: Bench) -> Result:
    large, small = [bench.size(512 * MIB)] * 2, [64 * 1024] * (50 if bench.quick else 500)
    sizes = {f"large-{n}.bin": size for n, size in enumerate(large)} | {
        f"small-{n:03}": size for n, size in enumerate(small)
    }
    with bench.folder(bench.memory) as files:
        source = files / "mixed"
        for rel, size in sizes.items():
            solid(source / rel, size)
        with bench.origin(files) as origin, Console() as console:
            publish_folder(console, origin, source)
            url, ca = origin.open_url("mixed/"), origin.ca
            contenders = {
                "axomsync": bench.running_agent(
                    lambda fresh: publish_folder(fresh, origin, source), origin, bench.disk, source, "mixed"
                ),
                "rclone --transfers 16, until durable": bench.peer(
                    lambda to: peers.until_durable(peers.rclone_folder(url, to, ca, "--transfers=16"), to),
                    bench.disk,
                    source,
                ),
                "rclone --transfers 16": bench.peer(
                    lambda to: peers.rclone_folder(url, to, ca, "--transfers=16"), bench.disk, source
                ),
                "rclone": bench.peer(lambda to: peers.rclone_folder(url, to, ca), bench.disk, source),
                "axomsync sync, with its start": bench.agent(console, origin, bench.disk, source, "mixed"),
            }
            rows = bench.race(contenders, sum(sizes.values()))
    ours, durable, cached, *_ = (row.seconds for row in rows)
    return Result(rows, [
        Goal("wall, against rclone --transfers 16 followed by `sync` of all files", ours / durable, 1.0),
        Goal("wall, against rclone --transfers 16, whose files are still in the page cache", ours / cached, 1.0),
    ])  # fmt: skip


def publish_folder(console: Console, origin: Origin, folder: Path) -> None:
    """List a folder of the origin as a model of that name."""
    console.publish(folder.name, [
        (file.name, file.stat().st_size, lambda name=file.name: origin.sign(f"{folder.name}/{name}"))  # type: ignore[misc]
        for file in sorted(folder.iterdir())
    ])  # fmt: skip


def _composite_etag(file: Path) -> str:
    """As storage gives it for an object that came in parts."""
    parts = []
    with file.open("rb") as source:
        while part := source.read(PART):
            parts.append(hashlib.md5(part, usedforsecurity=False).digest())
    return f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"
