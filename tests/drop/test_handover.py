"""What the person gets who registers uploads: objects by folder, and which of them have become datasets."""

import csv
import io
import json

from axomsync.core.records import Dataset
from axomsync.drop.handover import COLUMNS, Batch, appeared, batches
from axomsync.sandbox.console import Sandbox
from tests.drop.conftest import AgentFactory, dataset


def a_dataset(
    number: int, name: str, shards: int, size: int, created_at: str | None = "2030-01-02T00:00:00.123Z"
) -> Dataset:
    return Dataset(f"d-{number}", name, "1", shards, size, "ready", created_at)


def test_a_dataset_is_recognised_by_its_bytes_its_shards_and_its_time() -> None:
    one = Batch("exports/chats", 3, 1000, "2030-01-01T00:00:00+00:00")
    assert appeared([one], [a_dataset(1, "other", 3, 1000)]) == {"d-1": "exports/chats"}
    for stranger in (
        a_dataset(1, "chats", 2, 1000),
        a_dataset(1, "chats", 3, 999),
        a_dataset(1, "chats", 3, 1000, "2029-12-31T23:59:59Z"),
    ):
        assert appeared([one], [stranger]) == {}
    for now in ("2030-01-01T00:00:00Z", "2029-12-31T23:00:00-01:00", None, "today"):
        assert appeared([one], [a_dataset(1, "chats", 3, 1000, now)]) == {"d-1": "exports/chats"}
    assert appeared([one], [a_dataset(1, "chats", 3, 1000, "2030-01-01T01:00:00+02:00")]) == {}
    twin = Batch("exports/mails", 3, 1000, "2030-01-01T00:00:00+00:00")
    assert appeared([one, twin], [a_dataset(1, "mails", 3, 1000), a_dataset(2, "x", 3, 1000)]) == {
        "d-1": "exports/mails",
        "d-2": "exports/chats",
    }


def test_uploads_are_exported_by_folder_and_datasets_say_what_has_appeared(
    sandbox: Sandbox, make_agent: AgentFactory
) -> None:
    agent = make_agent(sandbox, shard="80B")
    (agent.drop / "chats").mkdir()
    for name, lines in (("z.jsonl", 1), ("chats/a.jsonl", 3), ("chats/b.jsonl", 1)):
        (agent.drop / name).write_bytes(dataset(name, lines))
    agent.sync()
    done = agent.call("uploads", "--csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert tuple(rows[0]) == COLUMNS
    objects = {upload.key: upload for upload in sandbox.uploads()}
    assert [(row["folder"], row["path"], row["shard"]) for row in rows] == [
        ("", "z.jsonl", ""),
        ("chats", "chats/a.jsonl", "1"),
        ("chats", "chats/a.jsonl", "2"),
        ("chats", "chats/b.jsonl", ""),
    ]
    for row in rows:
        assert (row["upload_id"], row["filename"]) == (objects[row["key"]].upload_id, objects[row["key"]].filename)
    assert agent.call("uploads", "--csv", "--json").returncode == 2

    (root, chats) = batches(agent.uploads()[::-1])[::-1]
    assert (chats.place, chats.objects, chats.bytes) == ("chats", 3, sum(int(row["bytes"]) for row in rows[1:]))
    listed = json.loads(agent.call("datasets", "--json").stdout)
    waiting = {row["uploaded_from"]: row for row in listed if row["status"] == "not registered"}
    assert waiting.keys() == {"z.jsonl", "chats"}
    assert (waiting["chats"]["shard_count"], waiting["chats"]["bytes"], waiting["chats"]["id"]) == (3, chats.bytes, None)
    assert root.place == "z.jsonl"


def test_registered_datasets_are_recognised_whatever_the_files_have_in_common(
    sandbox: Sandbox, make_agent: AgentFactory
) -> None:
    """Equal contents under two names are two objects; a duplicate adds none, also one of a file in shards."""
    agent = make_agent(sandbox, shard="80B")

    def drop(*paths: str, lines: int) -> None:
        for path in paths:
            (agent.drop / path).parent.mkdir(exist_ok=True)
            (agent.drop / path).write_bytes(dataset("the same", lines))
        agent.sync()

    drop("names/a.jsonl", "names/b.jsonl", lines=1)
    drop("shards/c.jsonl", lines=5)
    drop("again/c.jsonl", lines=5)
    listed = json.loads(agent.call("datasets", "--json").stdout)
    size = {1: len(dataset("the same", 1)), 5: len(dataset("the same", 5))}
    waiting = {row["uploaded_from"]: (row["shard_count"], row["bytes"]) for row in listed}
    (parts,) = {waiting[place][0] for place in ("shards", "again")}
    assert parts > 1
    assert waiting == {"names": (2, 2 * size[1]), "shards": (parts, size[5]), "again": (parts, size[5])}

    by_folder: dict[str, list[str]] = {}
    for row in csv.DictReader(io.StringIO(agent.call("uploads", "--csv").stdout)):
        by_folder.setdefault(row["folder"], []).append(row["upload_id"])
    assert by_folder["again"] == by_folder["shards"]
    for place, upload_ids in by_folder.items():
        sandbox.register_dataset(place, "1", upload_ids)
    drop("names/a.jsonl", lines=1)  # a duplicate of later changes nothing
    drop("shards/c.jsonl", lines=5)
    listed = json.loads(agent.call("datasets", "--json").stdout)
    assert sorted((row["name"], row["uploaded_from"]) for row in listed) == [(name, name) for name in sorted(by_folder)]

    (explained,) = json.loads(agent.call("explain", "again/c.jsonl", "--json").stdout)
    assert [shard["upload_id"] for shard in explained["facts"]["shards"]] == by_folder["again"]
