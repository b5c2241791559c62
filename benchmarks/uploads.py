"""How fast datasets go up: one large file, its shards over capped connections, many small files into a real S3 server."""

import json
import os
import random
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import orjson

from axomsync.sandbox.objectstore import BUCKET, ObjectStore
from axomsync.sandbox.relay import Relay
from benchmarks import peers
from benchmarks.agent import Agent, Sections
from benchmarks.bench import GIB, MIB, Bench, Goal, Result, case
from benchmarks.console import Console
from benchmarks.measure import Failed, Run, run
from benchmarks.origin import Origin

SHARDS = 8
UP_CAP = 50_000_000
CONNECTION_CAP = 100_000_000
SMALL_FILES = 1000
SMALL_SIZE = 100_000
PART = "--------"  # stands for the number of the block in each of its lines
WORDS = ("the", "agent", "keeps", "what", "it", "was", "given", "until", "storage", "has", "confirmed", "every", "byte")


def dataset(path: Path, size: int) -> Path:
    """A JSONL file of about `size` bytes, with lines of text, no two of which are alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    chance = random.Random(path.name)  # one file of that name is like another; two names never give the same content
    block = b"".join(
        orjson.dumps({"id": chance.getrandbits(62), "part": PART, "text": " ".join(chance.choices(WORDS, k=100))}) + b"\n"
        for _ in range(min(2000, size // 500 + 1))
    )
    with path.open("wb") as file:
        for number in range(size // len(block)):
            file.write(block.replace(PART.encode(), b"%08d" % number))
        file.write(block[: block.rindex(b"\n", 0, size - file.tell()) + 1] if size - file.tell() > 2000 else b"")
    return path


@case("upload", "upload 1 GiB, TLS", "wall ≤ 1.8x `curl -T`, ≤ 3.4 CPU-seconds a GB")
def upload_one_file(bench: Bench) -> Result:
    with bench.folder(bench.memory) as folder:
        source = dataset(folder / "drop" / "train.jsonl", bench.size(GIB))
        size = source.stat().st_size
        with bench.origin(folder) as origin, Console(_grants(origin)) as console:
            contenders = {
                "axomsync": _agent(bench, console, origin, source),
                'axomsync, validate = "off"': _agent(bench, console, origin, source, {"validate": "off"}),
                "curl -T": _curl(bench, origin, source),
            }
            rows = bench.race(contenders, size)
    checked, unchecked, curl = (r.seconds for r in rows)
    return Result(rows, [
        Goal("wall, against curl -T", checked / curl, 1.8),
        Goal("wall without looking at the lines, against curl -T", unchecked / curl, 1.8),
        Goal("CPU-seconds a GB", rows[0].cpu_per_gb, 3.4, "CPU-s"),
    ], ["From memory to memory. axomsync reads each file twice: first it is checked and hashed."])  # fmt: skip


@case("capped-upload", "upload 1 GiB at 100 MB/s a connection, as object stores give it", "wall ≤ 1.05x `curl -T`")
def upload_over_capped_connection(bench: Bench) -> Result:
    with bench.folder(bench.memory) as folder:
        source = dataset(folder / "drop" / "train.jsonl", bench.size(GIB))
        size = source.stat().st_size
        with (
            bench.origin(folder) as origin,
            Relay(("127.0.0.1", origin.port), rate=CONNECTION_CAP) as relay,
            Console(_grants(origin, port := int(relay.endpoint.rpartition(":")[2]))) as console,
        ):
            contenders = {
                "axomsync": _agent(bench, console, origin, source),
                "curl -T": _curl(bench, origin, source, port),
            }
            rows = bench.race(contenders, size, warm_up=False)
    return Result(rows, [Goal("wall, against curl -T", rows[0].seconds / rows[1].seconds, 1.05)])


@case("shards", "the same in 8 shards when the server caps each connection", "≤ 0.6x of `curl -T`")
def upload_in_shards(bench: Bench) -> Result:
    with bench.folder(bench.memory) as folder:
        source = dataset(folder / "drop" / "train.jsonl", bench.size(GIB // 2))
        size = source.stat().st_size
        with (
            bench.origin(folder) as origin,
            Relay(("127.0.0.1", origin.port), rate=UP_CAP) as relay,
            Console(_grants(origin, port := int(relay.endpoint.rpartition(":")[2]))) as console,
        ):
            shard = f"{-(-size // SHARDS // MIB) + 1}MiB"
            contenders = {
                f"axomsync, {SHARDS} shards": _agent(bench, console, origin, source, {"shard": shard}),
                "axomsync": _agent(bench, console, origin, source),
                "curl -T": _curl(bench, origin, source, port),
            }
            rows = bench.race(contenders, size, warm_up=False)
    return Result(rows, [Goal("wall, against curl -T", rows[0].seconds / rows[2].seconds, 0.6)], [
        f"512 MiB; each connection runs at {UP_CAP / 1e6:.0f} MB/s, through a relay."
    ])  # fmt: skip


@case(
    "small-uploads",
    "1,000 JSONL files of 100 KB dropped at once",
    "≤ 1.8x s5cmd's bare PUTs, ≤ 2.0 CPU-ms a file, with check, presign, receipt and durable ledger",
)
def many_small_uploads(bench: Bench) -> Result:
    number = SMALL_FILES // 10 if bench.quick else SMALL_FILES
    with bench.folder(bench.disk) as folder, ObjectStore(bench.fresh(bench.memory)) as store:
        source = folder / "source"
        for index in range(number):
            dataset(source / f"{index:04}.jsonl", SMALL_SIZE)
        size = sum(file.stat().st_size for file in source.iterdir())
        keys = iter(range(10**9))

        def grant(filename: str) -> tuple[str, str]:
            key = f"uploads/{next(keys)}/{filename}"
            return key, store.presign("PUT", key, lifetime=timedelta(minutes=15))

        def ours() -> Run:
            with Console(grant) as console:
                drop = bench.fresh(folder)
                shutil.copytree(source, drop)
                os.sync()
                agent = uploader(bench, console, None, drop, {"after": "archive"})
                try:
                    cost = agent.sync()
                    receipts = sum(1 for _ in (drop / "uploaded").rglob("*.receipt.json"))
                    if receipts != number:
                        raise Failed(f"{receipts} receipts for {number} files")
                finally:
                    # The files stay until the end: ext4 would look for other inodes than those that were just deleted.
                    agent.remove()
                return cost

        def s5cmd() -> Run:
            os.sync()
            secret = json.loads((store.folder / "s3.json").read_text())["identities"][0]["credentials"][0]
            environ = {
                "AWS_ACCESS_KEY_ID": secret["accessKey"],
                "AWS_SECRET_ACCESS_KEY": secret["secretKey"],
                "AWS_REGION": "us-east-1",
            }
            command = peers.s5cmd_upload(store.endpoint, source, BUCKET, f"s5cmd/{next(keys)}")
            return run(command, bench.log, environ)

        rows = bench.race({"axomsync": ours, "s5cmd": s5cmd}, size)
    return Result(rows, [
        Goal("wall, against s5cmd", rows[0].seconds / rows[1].seconds, 1.8),
        Goal("CPU-ms a file", 1000 * rows[0].cpu_seconds / number, 2.0, "ms"),
    ], [
        "Into SeaweedFS, a real S3 server, over http; s5cmd keeps 256 PUTs going and records nothing."
    ])  # fmt: skip


def _grants(origin: Origin, port: int | None = None) -> Callable[[str], tuple[str, str]]:
    numbers = iter(range(10**9))

    def grant(filename: str) -> tuple[str, str]:
        key = f"{next(numbers)}-{filename}"
        return key, origin.sign(key, "put", port)

    return grant


def uploader(bench: Bench, console: Console, origin: Origin | None, drop: Path, settings: dict[str, object]) -> Agent:
    sections: Sections = {"drop": {"enabled": True, "folder": str(drop), **settings}, "mirror": {"enabled": False}}
    return bench.installation(console, origin, bench.disk, sections)


def _agent(
    bench: Bench, console: Console, origin: Origin, source: Path, settings: dict[str, object] | None = None
) -> Callable[[], Run]:
    def once() -> Run:
        agent = uploader(bench, console, origin, source.parent, {"after": "keep", **(settings or {})})
        try:
            cost = agent.sync()
            _check_arrived(origin, source.stat().st_size)
        finally:
            agent.remove()
            shutil.rmtree(source.parent / ".axomsync")  # where the folder remembers what was uploaded from it
        return cost

    return once


def _curl(bench: Bench, origin: Origin, source: Path, port: int | None = None) -> Callable[[], Run]:
    def once() -> Run:
        cost = run(peers.curl_upload(origin.sign("by-curl", "put", port), source, origin.ca), bench.log)
        _check_arrived(origin, source.stat().st_size)
        return cost

    return once


def _check_arrived(origin: Origin, size: int) -> None:
    arrived = sum(file.stat().st_size for file in (origin.own / "uploads").iterdir())
    origin.forget_uploads()
    if arrived != size:
        raise Failed(f"{arrived} of {size} bytes arrived")
