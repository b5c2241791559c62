"""Several agents with their own ledgers on one drop folder, and agents whose ledger was lost."""

import os
import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from axomsync.core.records import Stored, UploadState
from axomsync.drop.claims import STALE_SECONDS, Claims
from axomsync.ledger import Reader
from axomsync.sandbox.console import Sandbox
from tests.drop.conftest import dataset, puts, stored, tree
from tests.drop.inprocess import DropHere, ledger_template
from tests.rig.agent import AgentProcess, eventually


@pytest.fixture
def template(tmp_path: Path) -> Path:
    return ledger_template(tmp_path / "template")


def beside(home: Path, template: Path, other: DropHere, **drop: Any) -> DropHere:
    """Another agent on the same drop folder and the same storage."""
    here = DropHere(home, template, **{**drop, "folder": other.folder})
    here.folder, here.far, here.clocks, here.identity = other.folder, other.far, other.clocks, "beside"
    return here


def test_claim_is_given_to_one_agent_and_again_to_the_same(tmp_path: Path) -> None:
    one, other = (Claims(tmp_path, name, keeps=False) for name in ("one", "other"))
    one.register()
    assert one.take("content") is None
    assert one.take("content") is None
    stored = Stored("up-1", "k", None)
    one.settle("content", stored)
    assert other.record("content") is None, "nobody else was known"
    assert other.take("content") == "one"
    other.release("content")
    assert other.take("content") == "one"
    other.register()
    one.settle("content", stored)
    assert other.record("content") == stored
    one.release("content")
    assert other.take("content") is None


def test_claim_of_a_dead_agent_is_taken_over_by_only_one(tmp_path: Path) -> None:
    dead = Claims(tmp_path, "dead", keeps=False)
    dead.register()
    dead.take("content")
    (claim,) = (tmp_path / ".axomsync" / "claims").iterdir()
    long_ago = claim.lstat().st_mtime - STALE_SECONDS - 1
    os.utime(claim, (long_ago, long_ago), follow_symlinks=False)
    answers: list[str | None] = []
    start = threading.Barrier(8)

    def take(name: str) -> None:
        start.wait()
        answers.append(Claims(tmp_path, name, keeps=False).take("content"))

    threads = [threading.Thread(target=take, args=(f"heir-{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.count(None) == 1, answers
    assert dead.take("content") == os.readlink(claim)


def test_claim_from_the_future_is_taken_over_if_untouched(tmp_path: Path) -> None:
    """The clock was set back since: the claim's touches show whether its agent lives, not its time."""
    now = 1000.0
    other, heir = Claims(tmp_path, "other", keeps=False), Claims(tmp_path, "heir", keeps=False, clock=lambda: now)
    other.register()
    other.take("content")
    (claim,) = (tmp_path / ".axomsync" / "claims").iterdir()
    ahead = claim.lstat().st_mtime + 4 * 3600
    for touched in (0, 60):
        os.utime(claim, (ahead + touched,) * 2, follow_symlinks=False)
        assert heir.take("content") == "other"
        now += STALE_SECONDS - 1
        assert heir.take("content") == "other"
    now += 2
    assert heir.take("content") is None


def test_content_of_another_agent_is_a_duplicate_with_its_ids(tmp_path: Path, template: Path) -> None:
    here = DropHere(tmp_path / "here", template, shard="60B", after="keep")
    there = beside(tmp_path / "there", template, here, shard="60B", after="keep")
    here.live()
    there.live()  # each agent is known to the other now
    for folder in ("x", "y"):
        (here.folder / folder).mkdir()
        (here.folder / folder / "a.jsonl").write_bytes(dataset("a"))
        (here if folder == "x" else there).live()
    first, second = here.uploads()[0], there.uploads()[0]
    assert (first[0].state, second[0].state) == (UploadState.UPLOADED, UploadState.DUPLICATE)
    assert [shard.key for shard in second[1]] == [shard.key for shard in first[1]]
    assert len(first[1]) == len(here.far.objects) > 1


@pytest.mark.parametrize("after", ["archive", "keep"])
def test_lost_ledger_causes_no_second_upload(tmp_path: Path, template: Path, after: str) -> None:
    here = DropHere(tmp_path / "here", template, after=after)
    files = {"a.jsonl": dataset("a"), "x/a.jsonl": dataset("a"), "b\nb.jsonl": dataset("b")}
    for name, data in files.items():
        (here.folder / name).parent.mkdir(exist_ok=True)
        (here.folder / name).write_bytes(data)
    here.finish()
    before = {(row.filename, row.upload_id, row.sha256, row.lines) for row in here.read(Reader.uploads)}
    assert here.far.puts == 2
    shutil.copy(template, here.state / "state.db")
    here.identity = "a new one"
    if after == "archive":
        (here.folder / "uploaded" / "a.jsonl.receipt.json").write_text("{}")  # another user changed it
        (here.folder / "uploaded" / "c.jsonl.receipt.json").write_text("broken")
        for name, data in files.items():
            (here.folder / name).write_bytes(data)
    here.finish()
    assert here.far.puts == 2
    assert {(row.filename, row.upload_id, row.sha256, row.lines) for row in here.read(Reader.uploads)} == before
    here.live()
    assert here.far.puts == 2


@pytest.fixture
def agents(tmp_path: Path, sandbox: Sandbox) -> Iterator[list[AgentProcess]]:
    made = []
    for number in range(4):
        config = {"mirror": {"enabled": False}, "drop": {"folder": str(tmp_path / "drop"), "rescan": "500ms"}}
        made.append(AgentProcess(tmp_path / str(number), sandbox.url, sandbox.key, config))
    (tmp_path / "drop").mkdir()
    yield made
    for agent in made:
        agent.__exit__(None, None, None)


def test_four_agents_killed_at_random_store_every_file_once(
    tmp_path: Path, sandbox: Sandbox, agents: list[AgentProcess]
) -> None:
    drop, chance = tmp_path / "drop", random.Random(4)
    files = {f"{n}.jsonl": dataset(str(n), 100) for n in range(80)}
    for agent in agents:
        agent.launch("run")
    # An agent that starts later takes the receipts of the others as its own.
    eventually("all at work", lambda: len(list((drop / ".axomsync" / "agents").glob("*"))) == len(agents))
    for number, (name, data) in enumerate(files.items()):
        (drop / name).write_bytes(data)
        if number % 16 == 15:
            victim = chance.choice(agents)
            victim.kill()
            victim.launch("run")
    archive = drop / "uploaded"
    eventually("all receipts", lambda: len(list(archive.glob("*.receipt.json"))) == len(files), patience=60)
    eventually("all files, which follow their receipts", lambda: len(list(archive.glob("*.jsonl"))) == len(files))
    assert {name: data for name, data in tree(archive).items() if name.endswith(".jsonl")} == files
    # A restarted agent also knows the receipts of the others: by the same ids.
    handed = {(row["path"], row["upload_id"]) for agent in agents for row in agent.uploads() if row["state"] == "uploaded"}
    assert sorted(path for path, _ in handed) == sorted(files)
    orphans = sum(len(row["orphans"]) for agent in agents for row in agent.uploads())
    assert stored(sandbox).keys() == files.keys()
    assert sum(map(len, stored(sandbox).values())) <= len(files) + orphans


def test_receipt_of_an_agent_that_was_killed_before_the_move_is_taken_over(
    tmp_path: Path, sandbox: Sandbox, agents: list[AgentProcess]
) -> None:
    """Another agent finds the file in place and its receipt in the archive, and finishes the move under the same name."""
    first, second = agents[:2]
    drop, data = tmp_path / "drop", dataset("a", 10)
    second.sync()  # only then are the others told of an upload
    (drop / "a.jsonl").write_bytes(data)
    rename = "inject=renameat2:signal=KILL:when=2"  # the first one gives the receipt its name
    first.launch("sync", prefix=("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=renameat2", "-e", rename))
    eventually("the kill", lambda: first.process is not None and first.process.poll() is not None)
    assert [path for path in tree(drop) if "a.jsonl" in path] == ["a.jsonl", "uploaded/a.jsonl.receipt.json"]
    second.sync()
    assert [path for path in tree(drop) if "a.jsonl" in path] == ["uploaded/a.jsonl", "uploaded/a.jsonl.receipt.json"]
    first.sync()
    assert len(puts(sandbox)) == 1
