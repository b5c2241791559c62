"""One stored object per file with the right bytes and one row for it, through kills of the agent and faults on the wire."""

import mmap
import os
import random
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from threading import Event

import pytest

from axomsync.sandbox.console import Sandbox
from tests.drop.conftest import AgentFactory, dataset, put_requests, puts, receipt, sha256, stored
from tests.rig.agent import AgentProcess, eventually
from tests.rig.disks import small_disk
from tests.rig.fixtures import SandboxFactory
from tests.rig.moody import Mood, MoodyStorage, nothing, refusal
from tests.rig.recording import RecordingRelay

MB = 1_000_000


def big(megabytes: float) -> bytes:
    line = b'{"text": "' + b"x" * 988 + b'"}\n'
    return b'{"text": "first"}\n' + line * int(megabytes * MB / len(line))


def assert_taken_once(agent: AgentProcess, sandbox: Sandbox, name: str, data: bytes) -> dict[str, object]:
    """Check that storage has these bytes once, under the key in ledger and receipt; returns the row."""
    assert stored(sandbox)[name] == [data]
    rows = [row for row in agent.uploads() if row["filename"] == name]
    assert [(row["state"], row["sha256"], row["bytes"]) for row in rows] == [("uploaded", sha256(data), len(data))]
    archived = agent.drop / "uploaded" / name
    assert archived.read_bytes() == data
    note = receipt(archived)
    assert (note["key"], note["upload_id"]) == (rows[0]["key"], rows[0]["upload_id"])
    assert sandbox.store.get_bytes(str(note["key"])) == data
    return rows[0]


def test_agent_killed_during_an_upload_starts_again_on_the_same_key(sandbox: Sandbox, agent: AgentProcess) -> None:
    data = big(12)
    (agent.drop / "a.jsonl").write_bytes(data)
    sandbox.rate = 12 * MB
    for share in (0.0, random.random() * 0.9):
        begun = len(put_requests(sandbox))
        agent.start()
        eventually("a PUT", lambda begun=begun: len(put_requests(sandbox)) > begun)
        eventually("its body", lambda share=share: put_requests(sandbox)[-1].body_received > share * len(data))
        agent.kill()
        assert put_requests(sandbox)[-1].ended_at is None
    assert stored(sandbox) == {}
    sandbox.rate = None
    agent.sync()
    row = assert_taken_once(agent, sandbox, "a.jsonl", data)
    assert puts(sandbox) == [row["key"]] * 3
    assert len(sandbox.uploads()) == 1
    agent.sync()
    assert len(puts(sandbox)) == 3


def test_agent_killed_at_random_loses_and_duplicates_nothing(sandbox: Sandbox, agent: AgentProcess) -> None:
    files = {f"{n}.jsonl": dataset(str(n), 200) for n in range(60)}
    for name, data in files.items():
        (agent.drop / name).write_bytes(data)
    for _ in range(4):
        kept = len(list(agent.drop.rglob("*.receipt.json")))
        wanted = kept + random.randrange(0, 10)
        agent.launch("run")
        eventually("more receipts", lambda wanted=wanted: len(list(agent.drop.rglob("*.receipt.json"))) >= wanted)
        agent.kill()
    agent.sync()
    assert stored(sandbox) == {name: [data] for name, data in files.items()}
    listed = agent.uploads()
    assert {row["path"]: row["sha256"] for row in listed} == {name: sha256(data) for name, data in files.items()}
    assert len(listed) == len(files)
    archived = {p.name: p.read_bytes() for p in (agent.drop / "uploaded").iterdir() if p.suffix == ".jsonl"}
    assert archived == files


def test_upload_that_outlives_its_url_needs_no_second_url(sandbox_factory: SandboxFactory, make_agent: AgentFactory) -> None:
    sandbox = sandbox_factory(url_lifetime=timedelta(seconds=2), rate=3.5 * MB)
    agent = make_agent(sandbox)
    data = big(9)
    (agent.drop / "a.jsonl").write_bytes(data)
    agent.sync()
    row = assert_taken_once(agent, sandbox, "a.jsonl", data)
    (request,) = put_requests(sandbox)
    assert request.ended_at is not None
    assert request.ended_at - request.at > 2
    assert puts(sandbox) == [row["key"]]


def test_url_that_expired_while_the_agent_was_down_is_replaced(
    sandbox_factory: SandboxFactory, make_agent: AgentFactory
) -> None:
    sandbox = sandbox_factory(url_lifetime=timedelta(seconds=1), rate=MB)
    agent = make_agent(sandbox)
    data = big(4)
    (agent.drop / "a.jsonl").write_bytes(data)
    agent.start()
    eventually("a PUT", lambda: put_requests(sandbox) and put_requests(sandbox)[0].body_received)
    agent.kill()
    expired = time.monotonic() + 1
    sandbox.rate, sandbox.url_lifetime = None, timedelta(minutes=15)
    eventually("expiry", lambda: time.monotonic() > expired)
    agent.sync()
    row = assert_taken_once(agent, sandbox, "a.jsonl", data)
    *refused, last = puts(sandbox)  # the agent may see the expiry a second late: then storage refuses the URL
    assert last == row["key"]
    assert last not in refused
    assert len(sandbox.uploads()) == len({last, *refused})


def test_broken_connection_is_made_again_at_once(sandbox: Sandbox, agent: AgentProcess) -> None:
    assert isinstance(sandbox.relay, RecordingRelay)
    data = big(3)
    (agent.drop / "a.jsonl").write_bytes(data)
    sandbox.relay.cut(MB, method="PUT")
    agent.sync()
    row = assert_taken_once(agent, sandbox, "a.jsonl", data)
    assert puts(sandbox) == [row["key"]] * 2
    assert [request.was_cut for request in put_requests(sandbox)] == [True, False]


def test_each_file_is_stored_once_for_any_answer_of_storage(
    sandbox_factory: SandboxFactory, make_agent: AgentFactory
) -> None:
    sandbox = sandbox_factory(relay_class=MoodyStorage)
    storage = sandbox.relay
    assert isinstance(storage, MoodyStorage)
    agent = make_agent(sandbox)
    moods = {
        "faithful.jsonl": [],
        "busy.jsonl": [refusal(503, "SlowDown", Retry_After="1")],
        "broken.jsonl": [refusal(500, "InternalError")],
        "slow.jsonl": [refusal(400, "RequestTimeout")],
        "proxy.jsonl": [Mood(502, b"<html>Bad Gateway</html>")],
        "expired.jsonl": [refusal(403, "AccessDenied", "Request has expired")],
        "early.jsonl": [Mood(503, b"", reads=nothing)],
        "mute.jsonl": [Mood(says=nothing, ends="closed")],
        "lost.jsonl": [Mood(stores=True, says=nothing, ends="closed")],
        "stored, then 500.jsonl": [Mood(500, b"", stores=True)],
        "other bytes.jsonl": [Mood(200, headers={"ETag": '"d41d8cd98f00b204e9800998ecf8427e"'})],
        "no etag.jsonl": [Mood(200, stores=True)],
        "odd etag.jsonl": [Mood(200, headers={"ETag": '"d41d8cd98f00b204e9800998ecf8427e-1"'}, stores=True)],
    }
    files = {name: dataset(name) for name in moods}
    for name, data in files.items():
        (agent.drop / name).write_bytes(data)
        storage.be(name, *moods[name])
    agent.sync()

    assert stored(sandbox) == {name: [data] for name, data in files.items()}
    listed = agent.uploads()
    rows = {row["path"]: row for row in listed}
    assert len(listed) == len(rows) == len(files)
    keys = {name: [put.path.removeprefix("/axom/") for put in storage.puts_of(name)] for name in files}
    for name, row in rows.items():
        assert (row["state"], row["sha256"], row["reason"]) == ("uploaded", sha256(files[name]), None)
        assert keys[name][-1] == row["key"]
    once = {"faithful.jsonl", "odd etag.jsonl"}
    assert {name: len(tries) for name, tries in keys.items()} == {name: 1 if name in once else 2 for name in files}
    # Only a URL that storage refused is replaced: otherwise a second object might remain.
    assert {name for name, tries in keys.items() if len(set(tries)) > 1} == {"expired.jsonl"}
    first, second = storage.puts_of("busy.jsonl")
    assert second.at - first.at >= 1  # as Retry-After asked
    for put in storage.puts:
        assert "authorization" not in put.headers
        assert put.headers["content-length"] == str(len(files[put.path.rpartition("/")[2]]))
        assert "transfer-encoding" not in put.headers


def test_final_refusal_is_reported_in_storages_words_and_the_file_stays(
    sandbox_factory: SandboxFactory, make_agent: AgentFactory
) -> None:
    sandbox = sandbox_factory(relay_class=MoodyStorage)
    storage = sandbox.relay
    assert isinstance(storage, MoodyStorage)
    agent = make_agent(sandbox)
    storage.be("a.jsonl", refusal(400, "EntityTooLarge", "Your proposed upload exceeds the maximum"))
    (agent.drop / "a.jsonl").write_bytes(dataset("a"))
    done = agent.sync(expect=1)
    assert "400 (EntityTooLarge: Your proposed upload exceeds the maximum)" in done.stderr
    (row,) = agent.uploads()
    assert row["state"] == "failed"
    assert (agent.drop / "a.jsonl").read_bytes() == dataset("a")
    agent.sync(expect=1)
    assert len(storage.puts) == 1  # it does not repeat requests quickly
    (agent.drop / "a.jsonl").write_bytes(dataset("smaller"))
    agent.sync()
    assert_taken_once(agent, sandbox, "a.jsonl", dataset("smaller"))


def test_kill_between_storing_and_confirming_leaves_one_object(
    sandbox_factory: SandboxFactory, make_agent: AgentFactory
) -> None:
    sandbox = sandbox_factory(relay_class=MoodyStorage)
    storage = sandbox.relay
    assert isinstance(storage, MoodyStorage)
    agent = make_agent(sandbox)
    gone = Event()
    storage.be("a.jsonl", Mood(stores=True, hold=gone))
    (agent.drop / "a.jsonl").write_bytes(dataset("a"))
    agent.start()
    eventually("stored bytes", lambda: storage.puts and storage.puts[0].stored)
    agent.kill()
    gone.set()
    agent.sync()
    row = assert_taken_once(agent, sandbox, "a.jsonl", dataset("a"))
    assert [put.path for put in storage.puts] == [f"/axom/{row['key']}"] * 2


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b'{"text": "one more"}\n')


def rewrite_in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b'{"text": "FIRST"}\n')


def replace(path: Path) -> None:
    path.with_name(".new").write_bytes(dataset("another file"))
    os.rename(path.with_name(".new"), path)


def shorten(path: Path) -> None:
    os.truncate(path, len(b'{"text": "first"}\n'))


@pytest.mark.parametrize("change", [append, rewrite_in_place, replace, shorten])
def test_file_that_changes_during_its_upload_is_handed_out_only_in_its_last_form(
    sandbox: Sandbox, agent: AgentProcess, change: Callable[[Path], None]
) -> None:
    data = big(12)
    path = agent.drop / "a.jsonl"
    path.write_bytes(data)
    sandbox.rate = 3 * MB
    agent.start()
    eventually("a PUT", lambda: put_requests(sandbox) and put_requests(sandbox)[0].body_received)
    change(path)
    final = path.read_bytes()
    eventually("the end of that PUT", lambda: sandbox.relay.open_connections == 0 or len(put_requests(sandbox)) > 1)
    sandbox.rate = None
    eventually("a receipt", (agent.drop / "uploaded" / "a.jsonl.receipt.json").exists)
    assert agent.terminate() == 0
    row = assert_taken_once(agent, sandbox, "a.jsonl", final)
    assert [request.status == 200 for request in put_requests(sandbox)] == [False, True]  # no object with the old content
    assert puts(sandbox)[1] == row["key"] != puts(sandbox)[0]


@pytest.mark.parametrize("shard", ["", "2MB"])
def test_change_through_a_mapping_with_an_unchanged_stamp_is_found(
    sandbox: Sandbox, make_agent: AgentFactory, shard: str
) -> None:
    agent = make_agent(sandbox, shard=shard, config={"transfer": {"bandwidth": "2MB/s"}})
    with small_disk(agent.drop, "size=32m"):
        data = b"".join(b'{"text": "%s"}\n' % (b"x" * 499_986) for _ in range(8))
        path = agent.drop / "a.jsonl"
        path.write_bytes(data)
        os.chown(path, 65534, 65534)  # so that the agent, without that capability, can't see writers
        place = len(data) // 2 - 4  # the end of the first shard, if there are shards
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
            mapping[place : place + 1] = b"y"  # tmpfs never records such a write
            agent.start("setpriv", "--bounding-set=-lease")
            eventually("a PUT", lambda: put_requests(sandbox) and put_requests(sandbox)[0].body_received)
            before = path.stat()
            mapping[place : place + 1] = b"z"
            assert path.stat() == before
            agent.configure({"mirror": {"enabled": False}, "drop": {"shard": shard}})
            agent.hangup()
            eventually("a receipt", (agent.drop / "uploaded" / "a.jsonl.receipt.json").exists)
            assert agent.terminate() == 0
        final = data[:place] + b"z" + data[place + 1 :]
        if shard:
            (row,) = agent.uploads()
            parts = {upload.upload_id: sandbox.store.get_bytes(upload.key) for upload in sandbox.uploads() if upload.stored}
            assert b"".join(parts[part["upload_id"]] for part in row["shards"]) == final
            # Shards of the old content that were stored are orphans.
            assert len(row["orphans"]) == len(parts) - len(row["shards"])
        else:
            assert_taken_once(agent, sandbox, "a.jsonl", final)
        assert "changed after it was checked" in agent.log()


def test_same_content_is_a_duplicate_and_other_content_a_new_upload(sandbox: Sandbox, agent: AgentProcess) -> None:
    path = agent.drop / "a.jsonl"
    path.write_bytes(dataset("a"))
    agent.sync()
    path.write_bytes(dataset("a"))
    agent.sync()
    assert len(puts(sandbox)) == 1
    path.write_bytes(dataset("b"))
    (agent.drop / "renamed.jsonl").write_bytes(dataset("a"))
    agent.sync()
    assert stored(sandbox) == {"a.jsonl": [dataset("b"), dataset("a")], "renamed.jsonl": [dataset("a")]}
    assert [(row["path"], row["state"]) for row in agent.uploads()] == [
        ("a.jsonl", "uploaded"),
        ("a.jsonl", "duplicate"),
        ("a.jsonl", "uploaded"),
        ("renamed.jsonl", "uploaded"),
    ]


def test_copies_wait_while_the_first_file_is_uploaded(sandbox: Sandbox, make_agent: AgentFactory) -> None:
    agent = make_agent(sandbox, rescan="1h")
    data = big(8)
    sandbox.rate = 8 * MB
    for folder in ("x", "y", "z"):
        (agent.drop / folder).mkdir()
        (agent.drop / folder / "a.jsonl").write_bytes(data)
    agent.start()
    eventually("three receipts", lambda: len(list(agent.drop.rglob("*.receipt.json"))) == 3)
    assert agent.terminate() == 0
    assert stored(sandbox) == {"a.jsonl": [data]}
    assert len(puts(sandbox)) == 1
    rows = agent.uploads()
    assert sorted(row["state"] for row in rows) == ["duplicate", "duplicate", "uploaded"]
    assert len({row["upload_id"] for row in rows}) == 1
