"""Forget: a dropped file is uploaded again after that, whatever had recorded its upload."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from axomsync.core.records import UploadState
from axomsync.drop.forgetting import all_of, forget_on_disk
from axomsync.ledger import Reader
from axomsync.sandbox.console import Sandbox
from tests.drop.conftest import AgentFactory, dataset, receipt, stored
from tests.drop.inprocess import DropHere, ledger_template


def make(tmp_path: Path, **drop: Any) -> DropHere:
    (tmp_path / "template").mkdir()
    return DropHere(tmp_path / "box", ledger_template(tmp_path / "template"), settle="0s", **drop)


def forget(here: DropHere, path: bytes) -> list[bytes]:
    """Forget as the verb does; returns the forgotten paths."""
    target = [row for row, _ in here.uploads() if row.path == path][-1:]
    with here.ledger() as ledger:
        rows = all_of(target, ledger.read, here.settings)
        forget_on_disk(rows, here.settings, here.identity, here.clocks.wall, lambda: None)
        ledger.strike([row.id for row in rows], [])
    return [row.path for row in rows]


def lose_ledger(here: DropHere, tmp_path: Path) -> None:
    shutil.copy(tmp_path / "template" / "state.db", here.state / "state.db")


def drop_again(here: DropHere, name: str, content: bytes) -> None:
    (here.folder / name).unlink(missing_ok=True)
    (here.folder / name).write_bytes(content)


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("shard", [None, "64B"])
@pytest.mark.parametrize("dedupe", ["name", "content"])
@pytest.mark.parametrize("after", ["archive", "keep", "delete"])
def test_forgotten_content_is_uploaded_again(
    tmp_path: Path, after: str, dedupe: str, shard: str | None, *, lost: bool
) -> None:
    here = make(tmp_path, after=after, dedupe=dedupe, **({} if shard is None else {"shard": shard}))
    content = dataset("a", 8)
    for name in ("a.jsonl", "sub/a.jsonl", "b.jsonl"):  # of one content: twins of a.jsonl, and another name
        (here.folder / name).parent.mkdir(exist_ok=True)
        (here.folder / name).write_bytes(content)
    here.finish()
    objects = set(here.far.objects)
    drop_again(here, "a.jsonl", content)
    here.finish()
    assert set(here.far.objects) == objects, "it is a duplicate until it is forgotten"

    twins = {b"a.jsonl", b"sub/a.jsonl"} | ({b"b.jsonl"} if dedupe == "content" else set())
    assert set(forget(here, b"a.jsonl")) == twins
    if lost:
        lose_ledger(here, tmp_path)
    drop_again(here, "a.jsonl", content)
    here.finish()
    new = set(here.far.objects) - objects
    assert new, "it was not uploaded anew"
    sent = [(row, shards) for row, shards in here.uploads() if row.path in twins and row.state is UploadState.UPLOADED]
    assert [here.content(*each) for each in sent] == [content]
    drop_again(here, "a.jsonl", content)
    here.finish()
    assert set(here.far.objects) == objects | new, "once"


def test_other_content_of_the_folder_is_still_known(tmp_path: Path) -> None:
    here = make(tmp_path)
    for name in ("a.jsonl", "b.jsonl"):
        (here.folder / name).write_bytes(dataset(name))
    here.finish()
    forget(here, b"a.jsonl")
    lose_ledger(here, tmp_path)
    drop_again(here, "b.jsonl", dataset("b.jsonl"))
    here.finish()
    assert len(here.far.objects) == 2
    states = {row.path: row.state for row, _ in here.uploads()}
    assert states == {b"b.jsonl": UploadState.DUPLICATE}
    marked = json.loads((here.folder / "uploaded" / "a.jsonl.receipt.json").read_text())
    assert marked["upload_id"], "the receipt still says what storage has"
    assert marked["forgotten"].startswith("2030")


@pytest.mark.parametrize("kind", ["link", "FIFO", "of another user", "writable by others"])
def test_file_with_only_a_receipts_name_does_not_stop_forget(tmp_path: Path, kind: str) -> None:
    here = make(tmp_path)
    (here.folder / "a.jsonl").write_bytes(dataset("a"))
    here.finish()
    true, planted = (here.folder / "uploaded" / f"{name}.jsonl.receipt.json" for name in ("a", "b"))
    if kind == "FIFO":
        os.mkfifo(planted)
    elif kind == "link":
        planted.symlink_to(true)
    else:
        planted.write_bytes(true.read_bytes())
        planted.chmod(0o644 if kind == "of another user" else 0o664)
        os.chown(planted, *((65534, 65534) if kind == "of another user" else (0, 0)))
    before = planted.lstat()
    assert forget(here, b"a.jsonl") == [b"a.jsonl"]
    assert "forgotten" in json.loads(true.read_text())
    assert planted.lstat().st_ino == before.st_ino, "it is not ours to change"
    drop_again(here, "a.jsonl", dataset("a"))
    here.finish()
    assert here.far.puts == 2


def test_forget_deletes_the_events_of_its_rows(tmp_path: Path) -> None:
    here = make(tmp_path)
    (here.folder / "a.jsonl").write_bytes(dataset("a"))
    here.finish()
    forget(here, b"a.jsonl")
    assert here.read(Reader.uploads) == []
    with here.ledger() as ledger:
        assert ledger.write(lambda db: db.execute("SELECT count(*) FROM events").fetchone()[0]) == 0


def test_duplicate_names_a_remedy_that_works(sandbox: Sandbox, make_agent: AgentFactory) -> None:
    agent = make_agent(sandbox)
    for _ in range(2):
        (agent.drop / "it is.jsonl").write_bytes(dataset("a"))
        agent.sync()
    (_, duplicate) = agent.uploads()
    assert duplicate["state"] == "duplicate"
    assert duplicate["reason"].endswith("; to have it sent anew: `axomsync forget 'it is.jsonl'`, then drop it again")
    said = agent.call("forget", "it is.jsonl").stdout
    assert "takes effect when one starts, or at the next `axomsync sync`" in said
    (agent.drop / "it is.jsonl").write_bytes(dataset("a"))
    assert "request forget it is.jsonl done: it is.jsonl" in agent.sync().stderr
    assert [row["state"] for row in agent.uploads()] == ["uploaded"]
    assert stored(sandbox) == {"it is.jsonl": [dataset("a")] * 2}
    assert "forgotten" in receipt(agent.drop / "uploaded" / "it is.jsonl")
