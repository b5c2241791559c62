"""Storage fails in every way at every stage of a PUT: each file and each shard ends as one object with the right bytes.

The wire, the console and the store behind it are real; only the pauses between the tries take no time.
"""

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from axomsync.console.client import Console
from axomsync.core.records import UploadState
from axomsync.drop import head_start
from axomsync.ledger import Reader
from axomsync.storage.client import Storage
from tests.drop.conftest import dataset, sha256
from tests.drop.inprocess import DropHere, ledger_template
from tests.rig.fixtures import SandboxFactory
from tests.rig.moody import Mood, MoodyStorage, nothing, refusal, the_whole

SILENCE = 3.0  # seconds; a busy machine is silent for a second where nothing stalls
LINES = 600
SHARD = 8_000


def first_byte(length: int) -> int:
    return 1


def half(length: int) -> int:
    return length // 2


def all_but_one(length: int) -> int:
    return length - 1


def in_the_head(length: int) -> int:
    return 20


STAGES: dict[str, dict[str, Any]] = {
    "before the body": {"reads": nothing},
    "at its first byte": {"reads": first_byte},
    "in its middle": {"reads": half},
    "at its last byte": {"reads": all_but_one},
    "before the answer": {"reads": the_whole},
    "in the answer's head": {"says": in_the_head},
    "in the answer's body": {"says": all_but_one},
}
FAULTS = {
    "hangs up": Mood(says=nothing, ends="closed"),
    "resets": Mood(says=nothing, ends="reset"),
    "stalls": Mood(says=nothing, ends="stalled"),
    "500": refusal(500, "InternalError"),
    "503": refusal(503, "SlowDown"),
    "400": refusal(400, "RequestTimeout"),
    "403": refusal(403, "AccessDenied", "Request has expired"),
}
EXPIRED = FAULTS["403"]


@dataclass(frozen=True)
class Case:
    """Moods of one object's first PUTs, and the number of orphans at the end: objects that storage has or may have."""

    moods: list[Mood]
    orphans: int = 0


def cases() -> dict[str, Case]:
    table = {}
    for stage, where in STAGES.items():
        for fault, mood in FAULTS.items():
            if "says" not in where:
                table[f"{fault} {stage}"] = Case([replace(mood, **where)])
                continue
            answer = mood if mood.status else FAULTS["500"]
            ends = mood.ends if mood.ends != "kept" else "reset"
            table[f"{fault} {stage}"] = Case([replace(answer, ends=ends, **where)])
    for fault, mood in FAULTS.items():
        if mood is EXPIRED:  # a storage that answers so has nothing
            continue
        stored = replace(mood, stores=True)
        table[f"stored, {fault}"] = Case([stored])
        table[f"stored, {fault} in the answer"] = Case([Mood(stores=True, says=in_the_head, ends=mood.ends)])
        table[f"stored, {fault}, then expired"] = Case([stored, EXPIRED], orphans=1)
        table[f"stored, {fault}, and again"] = Case([stored, stored])
        table[f"not stored, {fault}, then expired"] = Case([mood, EXPIRED], orphans=1)  # the agent can't know
    return table


def moody_object(name: str, data: bytes, shard: str) -> str:
    """Name of the object with the moods: the file, or its second shard."""
    return f"{name}-00002-of-{-(-len(data) // SHARD):05}.jsonl" if shard else f"{name}.jsonl"


@pytest.mark.parametrize(
    ("shard", "head_starts"), [("", False), (f"{SHARD}B", False), ("", True)], ids=["files", "shards", "head starts"]
)
def test_failure_at_any_stage_of_a_put_leaves_one_object_with_the_right_bytes(
    tmp_path: Path, sandbox_factory: SandboxFactory, monkeypatch: pytest.MonkeyPatch, shard: str, head_starts: bool
) -> None:
    if head_starts:
        monkeypatch.setattr(head_start, "WORTH_A_HEAD_START", 0)
    sandbox = sandbox_factory(relay_class=MoodyStorage)
    storage = sandbox.relay
    assert isinstance(storage, MoodyStorage)
    table = cases()
    (tmp_path / "template").mkdir()
    with (
        closing(Storage(loopback=True, stall=SILENCE, answer_seconds=SILENCE)) as client,
        closing(Console(sandbox.url, lambda: sandbox.key)) as console,
    ):
        here = DropHere(tmp_path, ledger_template(tmp_path / "template"), console=console, storage=client, shard=shard)
        files = {f"{name}.jsonl": dataset(name, LINES) for name in table}
        if not shard:
            table["slow"] = Case([Mood(reads=first_byte, says=nothing, ends="stalled")])
            files["slow.jsonl"] = dataset("slow", 300_000)  # so large that not reading it delays the agent
        for name, case in table.items():
            data = files[f"{name}.jsonl"]
            (here.folder / f"{name}.jsonl").write_bytes(data)
            storage.be(moody_object(name, data, shard), *case.moods)
        here.finish()
    rows = {row.path.decode(): (row, shards) for row, shards in here.uploads()}
    orphans = here.read(Reader.orphans)
    objects = {upload.key: sandbox.store.get_bytes(upload.key) for upload in sandbox.uploads() if upload.stored is not None}

    assert len(here.uploads()) == len(rows) == len(files)
    for name, case in table.items():
        row, shards = rows[f"{name}.jsonl"]
        data = files[f"{name}.jsonl"]
        assert (row.state, row.sha256, row.reason) == (UploadState.UPLOADED, sha256(data), None), name
        assert len(storage.puts_of(moody_object(name, data, shard))) > len(case.moods), name
        keys = [part.key or "" for part in shards] if shard else [row.key or ""]
        assert b"".join(objects.pop(key) for key in keys) == data, name
        told = orphans.get(row.id, [])
        assert len(told) == case.orphans, name
        for key in told:
            objects.pop(key, None)
    assert objects == {}, "objects that nobody knows of"
