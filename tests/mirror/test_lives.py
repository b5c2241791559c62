"""The agent as a process: one pass, repeated passes, and passes after a stop or a kill at a bad moment."""

import hashlib
import json
import random
import re
import shutil
import sqlite3
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

import pytest
from safetensors import deserialize

from axomsync.sandbox.console import Sandbox
from tests.rig.agent import AgentProcess, eventually
from tests.rig.faults import EXPIRED, FOREVER, KEY, Content, Fault, FaultyServer, http_date, s3_error
from tests.rig.recording import recording

MIB = 1 << 20
Ranges = dict[str, list[tuple[int, int]]]


def safetensors(size: int, seed: int) -> bytes:
    """A safetensors file with one tensor of `size` bytes of noise."""
    header = json.dumps({"weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + Content(size, seed).read()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for rel, data in files.items():
        (folder / rel).parent.mkdir(parents=True, exist_ok=True)
        (folder / rel).write_bytes(data)
    return folder


def tree(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below, except our own record."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".axomsync.json"]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def stamps(folder: Path) -> dict[str, tuple[int, ...]]:
    """Everything below that a write would change."""
    found: dict[str, tuple[int, ...]] = {}
    for path in [folder, *folder.rglob("*")]:
        s = path.lstat()
        found[str(path)] = (s.st_ino, s.st_mode, s.st_nlink, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
    return found


def durable(agent: AgentProcess) -> Ranges:
    """Durable bytes in the ledger, by path inside the model."""
    found: Ranges = {}
    with closing(sqlite3.connect(f"file:{agent.state}/state.db?mode=ro", uri=True)) as db:
        for rel, start, end in db.execute('SELECT rel, start, "end" FROM files f JOIN segments s ON s.file = f.id'):
            found.setdefault(rel, []).append((start, end))
    return found


def fetched_again(server: FaultyServer, model_id: str, kept: Ranges, since: int) -> list[str]:
    """Requests from number `since` on for bytes that were durable before. The first request only checks that the object is
    unchanged."""
    rels = {entry["key"]: entry["rel"] for entry in server.manifests[model_id]}
    return [
        f"{rels[r.key]} {r.start}-{r.end} though {start}-{end} was there"
        for r in server.storage_requests()
        if r.number >= since and r.start is not None and r.end is not None and (r.start, r.end) != (0, 1)
        for start, end in kept.get(rels[r.key], [])
        if r.start < end and r.end > start
    ]


def size_of(ranges: Ranges) -> int:
    return sum(end - start for pieces in ranges.values() for start, end in pieces)


@contextmanager
def never_incomplete(final: Path, files: dict[str, Content]) -> Iterator[list[str]]:
    """Watch the final path all the time; yields every incomplete model ever seen there."""
    seen: list[str] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.002):
            if not final.exists():
                continue
            if not (final / ".axomsync.json").is_file():
                seen.append("no record")
            for rel, content in files.items():
                path = final / rel
                if not path.is_file() or path.stat().st_size != content.size:
                    seen.append(f"{rel} is missing or short")
                    continue
                with path.open("rb") as file:
                    for start in range(0, content.size, max(1, content.size // 20)):
                        file.seek(start)
                        if file.read(64) != content.read(start, min(content.size, start + 64)):
                            seen.append(f"{rel} differs at {start}")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def faults_in(folder: Path, files: dict[str, Content]) -> list[str]:
    return [fault for rel, content in files.items() if (fault := content.fault_in(folder / rel))]


# One pass, and repeated passes


def test_sync_mirrors_three_ready_models_and_leaves_one_that_waits(sandbox: Sandbox, tmp_path: Path) -> None:
    originals = {
        "v1": write(tmp_path / "1", {"model.safetensors": safetensors(300_000, 1), "config.json": b'{"a": 1}'}),
        "v2": write(tmp_path / "2", {"big.bin": Content(12 * MIB + 7, 2).read(), "deep/er/one.txt": b"one", "empty": b""}),
        "β 3": write(tmp_path / "3", {"tokenizer.json": b"{}", "näme with spaces.bin": Content(70_000, 3).read()}),
    }
    ids = {
        version: sandbox.publish_model("chassis", version, folder, part_size=5 * MIB if version == "v2" else None)
        for version, folder in originals.items()
    }
    unready = sandbox.publish_model("chassis", "v4", originals["v1"], status="training")
    with AgentProcess(tmp_path / "box", sandbox.url, sandbox.key, {"drop": {"enabled": False}}) as agent:
        agent.sync()
        for version, folder in originals.items():
            mirrored = agent.mirror / "chassis" / version
            assert tree(mirrored) == tree(folder)
            record = json.loads((mirrored / ".axomsync.json").read_bytes())
            assert record["model_id"] == ids[version]
            assert {f["rel"]: f["proof"] for f in record["files"] if f["size"]} == dict.fromkeys(
                (rel for rel in tree(folder) if rel != "empty"), "proven"
            )
            for file in record["files"]:  # the digests cover every byte
                assert sum(end - start for start, end, _ in file["blake3"]) == file["size"]
            assert all(path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644) for path in mirrored.rglob("*"))
        assert sorted(path.name for path in (agent.mirror / "chassis").iterdir()) == ["current", "v1", "v2", "β 3"]
        assert (agent.mirror / "chassis" / "current").readlink() == Path("β 3")
        tensors = dict(deserialize((agent.mirror / "chassis" / "v1" / "model.safetensors").read_bytes()))
        assert tensors["weight"]["data"] == Content(300_000, 1).read()
        states = {model["id"]: (model["state"], model["reason"]) for model in agent.models()}
        assert states == {
            **dict.fromkeys(ids.values(), ("published", None)),
            unready: ("waiting", "the console says 'training'"),
        }
        assert not any({"authorization", "cookie"} & set(request.headers) for request in recording(sandbox).requests)

        before = stamps(agent.mirror)
        recording(sandbox).clear()
        agent.sync()
        assert recording(sandbox).requests == []
        assert stamps(agent.mirror) == before


def test_running_agent_mirrors_a_model_that_becomes_ready(agent: AgentProcess, server: FaultyServer) -> None:
    model_id = server.add_model("chassis", "v1", {"a.bin": Content(100_000, 1)}, status="training")
    agent.start()
    eventually("the model to wait", lambda: [m["state"] for m in agent.models()] == ["waiting"])
    assert server.storage_requests() == []
    server.models[0]["status"] = "ready"
    eventually("the model", lambda: (agent.mirror / "chassis" / "v1").exists(), patience=15)
    assert agent.terminate() == 0
    assert [m["id"] for m in agent.models() if m["state"] == "published"] == [model_id]


# Killed


def test_kill_at_ten_random_moments(agent: AgentProcess, server: FaultyServer) -> None:
    """Short answers make many segments, and 256 of those cause a commit: so even a short life has durable bytes."""
    files = {"weights/a.bin": Content(70 * MIB, 1), "weights/b.bin": Content(30 * MIB + 1, 2), "c.json": Content(999, 3)}
    model_id = server.add_model("chassis", "v1", files)
    total, dice = sum(content.size for content in files.values()), random.Random(20)
    lives: list[int] = []
    server.longest_answer = 8 * 1024
    with never_incomplete(agent.mirror / "chassis" / "v1", files) as incomplete:
        for _ in range(10):
            kept, since = durable(agent) if lives else {}, len(server.requests)
            lives.append(size_of(kept))
            agent.launch("sync")
            eventually("a request for bytes", lambda since=since: len(server.requests) > since + 3)
            threading.Event().wait(dice.uniform(0.0, 0.8))
            agent.kill()
            assert fetched_again(server, model_id, kept, since) == []
        kept, since = durable(agent), len(server.requests)
        server.longest_answer = None
        agent.sync()
    assert fetched_again(server, model_id, kept, since) == []
    assert lives == sorted(lives), "what is durable stays durable"
    assert 0 < size_of(kept) < total, "too fast or too slow to prove anything"
    assert len(set(lives)) > 3, f"lives that left something: {lives}"
    assert incomplete == []
    assert faults_in(agent.mirror / "chassis" / "v1", files) == []


def test_stop_during_a_download_is_resumed(agent: AgentProcess, server: FaultyServer) -> None:
    files = {"a.bin": Content(40 * MIB, 1)}
    model_id = server.add_model("chassis", "v1", files)
    server.rate = 2 * MIB
    agent.start()
    eventually("some bytes", lambda: server.sent() > 8 * MIB)
    began = time.monotonic()
    assert agent.terminate() == 0
    assert time.monotonic() - began < 10
    assert "stopped" in agent.log()
    kept, since = durable(agent), len(server.requests)
    assert size_of(kept) > 4 * MIB, "a clean stop keeps what it has"
    server.rate = None
    agent.sync()
    assert fetched_again(server, model_id, kept, since) == []
    assert faults_in(agent.mirror / "chassis" / "v1", files) == []


def test_stop_while_storage_hangs_ends_in_time(agent: AgentProcess, server: FaultyServer) -> None:
    agent.configure({"drop": {"enabled": False}, "transfer": {"stall": "1m"}})
    server.add_model("chassis", "v1", {"a.bin": Content(40 * MIB, 1)})
    server.inject(Fault(cut=MIB, ending="stall"), times=FOREVER)
    agent.start()
    eventually("a request for bytes", server.storage_requests)
    began = time.monotonic()
    assert agent.terminate() == 0
    assert time.monotonic() - began < 10


def kill_between_rename_and_ledger(agent: AgentProcess, folder: Path) -> None:
    """The name's folder is opened when it is made, and then for the fsync after the rename: the process is killed there."""
    kill = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", str(folder), "-e", "trace=openat"]
    agent.launch("sync", prefix=(*kill, "-e", "inject=openat:signal=KILL:when=2"))
    assert agent.wait() != 0
    assert [path.name for path in folder.iterdir()] == ["v1"], "killed too early or too late to prove anything"
    assert [model["state"] for model in agent.models()] != ["published"]


def test_kill_between_the_rename_and_the_ledger(agent: AgentProcess, server: FaultyServer) -> None:
    files = {"a.bin": Content(100_000, 1)}
    server.add_model("chassis", "v1", files)
    folder = agent.mirror / "chassis"
    kill_between_rename_and_ledger(agent, folder)
    server.requests.clear()
    agent.sync()
    assert server.storage_requests() == []
    assert (folder / "current").readlink() == Path("v1")
    assert [(m["state"], m["bytes_done"]) for m in agent.models()] == [("published", 100_000)]
    assert faults_in(folder / "v1", files) == []


def test_version_that_is_published_when_the_agent_is_killed_and_then_not_wanted_is_pruned(
    agent: AgentProcess, server: FaultyServer
) -> None:
    """Else no pass would look at its folder again, and it would fill the disk for ever."""
    agent.configure({"mirror": {"keep": 1}})
    server.add_model("chassis", "v1", {"a.bin": Content(100_000, 1)})
    folder = agent.mirror / "chassis"
    kill_between_rename_and_ledger(agent, folder)
    server.add_model("chassis", "v2", {"a.bin": Content(100_000, 2)})
    agent.sync()
    assert sorted(path.name for path in folder.iterdir()) == ["current", "v2"]
    assert {m["version"]: m["state"] for m in agent.models()} == {"v1": "pruned", "v2": "published"}


def test_lost_ledger_is_rebuilt_without_fetching_a_byte(agent: AgentProcess, server: FaultyServer) -> None:
    for number in range(3):
        server.add_model("chassis", f"v{number}", {"a.bin": Content(50_000, number), "b/c.bin": Content(10, number)})
    agent.sync()
    known, before = agent.models(), stamps(agent.mirror)
    shutil.rmtree(agent.state)
    server.requests.clear()
    agent.sync()
    assert server.storage_requests() == []
    unread = [{**model, "verified_at": None} for model in known]
    assert agent.models() == unread, "and their bytes are due to be read"
    assert stamps(agent.mirror) == before


def test_removed_folder_is_fetched_again(agent: AgentProcess, server: FaultyServer) -> None:
    files = {"a.bin": Content(50_000, 1)}
    server.add_model("chassis", "v1", files)
    server.add_model("other", "v1", {"a.bin": Content(50_000, 2)})
    agent.sync()
    shutil.rmtree(agent.mirror / "chassis")
    shutil.rmtree(agent.mirror / "other")
    agent.configure({"drop": {"enabled": False}, "mirror": {"exclude": ["other"]}})
    server.requests.clear()
    agent.sync()
    assert faults_in(agent.mirror / "chassis" / "v1", files) == []
    assert (agent.mirror / "chassis" / "current" / "a.bin").exists()
    assert not (agent.mirror / "other").exists(), "it is left out by now"
    assert {m["name"]: m["state"] for m in agent.models()} == {"chassis": "published", "other": "ignored"}


# URLs that expire


def expiring(agent: AgentProcess, server: FaultyServer, seconds: int) -> None:
    """A transfer of about `seconds`, with URLs that live for two."""
    rate, lanes = MIB, 4
    files = {"a.bin": Content(rate * lanes * seconds * 2 // 3, 1), "b.bin": Content(rate * lanes * seconds // 3, 2)}
    server.add_model("chassis", "v1", files)
    server.url_lifetime, server.rate, server.longest_answer = 2, rate, 300_000
    agent.configure({"drop": {"enabled": False}, "transfer": {"connections": lanes}})
    began = time.monotonic()
    agent.sync(timeout=seconds * 3 + 20)
    assert time.monotonic() - began > seconds * 0.9, "too fast to prove anything"
    assert faults_in(agent.mirror / "chassis" / "v1", files) == []
    twice = server.sent() - sum(content.size for content in files.values())
    assert twice <= 2 * lanes * MIB, f"{twice} bytes were fetched twice"
    refused = [r for r in server.storage_requests() if r.status == 403]
    manifests = server.console_requests("/download")
    assert len(refused) <= lanes * len(manifests)
    assert seconds // 2 <= len(manifests) <= seconds * 2
    record = json.loads((agent.mirror / "chassis" / "v1" / ".axomsync.json").read_bytes())
    assert {file["proof"] for file in record["files"]} == {"proven"}


def test_urls_that_live_two_seconds(agent: AgentProcess, server: FaultyServer) -> None:
    expiring(agent, server, 9)


@pytest.mark.stress
def test_urls_that_live_two_seconds_in_a_transfer_of_thirty(agent: AgentProcess, server: FaultyServer) -> None:
    expiring(agent, server, 30)


# Slowness


def test_slow_connection_does_not_delay_the_rest(agent: AgentProcess, server: FaultyServer) -> None:
    files = {"a.bin": Content(32 * MIB, 1), "b.bin": Content(32 * MIB, 2)}
    server.add_model("chassis", "v1", files)
    server.rate = 8 * MIB
    server.inject(Fault(rate=10_000), where=lambda r: r.start == 0)
    began = time.monotonic()
    agent.sync()
    assert time.monotonic() - began < 12, "at the rate of the one it would take 28 minutes"
    assert faults_in(agent.mirror / "chassis" / "v1", files) == []


def test_a_storage_that_asks_for_a_long_pause_is_left_alone(agent: AgentProcess, server: FaultyServer) -> None:
    files = {"a.bin": Content(1000, 1)}
    server.add_model("fine", "v1", files)
    slow = server.add_model("slow", "v1", {"a.bin": Content(40 * MIB, 1)})
    server.inject(
        s3_error(503, "SlowDown", "Reduce your rate.", Retry_After=http_date(1800)), f"/bucket/{slow}", times=FOREVER
    )
    done = agent.sync(expect=75)
    assert "SlowDown: Reduce your rate." in done.stderr
    assert faults_in(agent.mirror / "fine" / "v1", files) == []
    assert len([r for r in server.storage_requests() if slow in r.path]) <= 16
    problem = next(p for p in agent.status()["problems"] if p["subject"] == "slow/v1")
    next_attempt = datetime.fromisoformat(problem["next_attempt"]).timestamp()
    assert time.time() + 1500 < next_attempt < time.time() + 1900


def test_a_broken_storage_is_not_hammered(agent: AgentProcess, server: FaultyServer) -> None:
    server.add_model("chassis", "v1", {"a.bin": Content(80 * MIB, 1)})
    server.inject(s3_error(500, "InternalError", "We encountered an internal error."), times=FOREVER)
    agent.configure({"drop": {"enabled": False}, "transfer": {"connections": 4}})
    agent.start()
    began = eventually("a try", lambda: [r.at for r in server.storage_requests()])[0]
    eventually("six seconds", lambda: time.monotonic() - began > 6)
    assert 4 <= len(server.storage_requests()) <= 24  # four lanes, after 0 s and at most 2, 4, 8, … s more
    assert len(server.console_requests()) <= 20
    assert agent.terminate() == 0


# The key and signatures


def test_secrets_are_never_shown(agent: AgentProcess, server: FaultyServer) -> None:
    agent.configure({"drop": {"enabled": False}, "log": {"level": "debug"}})
    model_id = server.add_model("chassis", "v1", {"a.bin": Content(1000, 1)})
    server.inject(EXPIRED, f"/bucket/{model_id}", times=FOREVER)
    done = agent.sync(expect=75)
    told = done.stdout + done.stderr + json.dumps(agent.models()) + json.dumps(agent.status())
    with closing(sqlite3.connect(f"file:{agent.state}/state.db?mode=ro", uri=True)) as db:
        told += "\n".join(db.iterdump())
    signatures = {request.query["X-Amz-Signature"] for request in server.storage_requests()}
    assert signatures
    assert not [secret for secret in (KEY, "X-Amz-Signature", *signatures) if secret in told]
    assert re.search(r"403 \(AccessDenied: Request has expired\)", told)


@pytest.mark.parametrize("size", [40 * MIB, pytest.param(200_000_000, marks=pytest.mark.stress)])
def test_agent_that_lives_two_seconds_makes_progress_each_time(agent: AgentProcess, server: FaultyServer, size: int) -> None:
    """A crash loop, or the OOM killer."""
    content = Content(size, 1)
    server.add_model("chassis", "v1", {"a.bin": content})
    server.rate = 20_000_000.0
    agent.configure({"drop": {"enabled": False}, "transfer": {"connections": 1}})
    folder = agent.mirror / "chassis" / "v1"
    for life in range(1, 5 + 2 * size // 20_000_000):
        agent.launch("run")
        eventually("the start, which a busy machine makes long", lambda life=life: agent.log().count("works with") == life)
        threading.Event().wait(1.5)
        agent.kill()
        if folder.exists():
            break
    assert content.fault_in(folder / "a.bin") is None
    assert server.sent() <= 2 * size
