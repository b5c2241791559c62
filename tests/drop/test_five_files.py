"""The main job of the drop folder: of five files, two must be in storage after one pass."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from axomsync.sandbox.console import Sandbox
from tests.drop.conftest import AgentFactory, dataset, puts, receipt, sha256, stored, tree


@contextmanager
def growing(path: Path) -> Iterator[None]:
    """Append to a file every few milliseconds during the block; it ends with a whole line."""
    stop = threading.Event()

    def grow() -> None:
        with path.open("ab", buffering=0) as file:
            while not stop.wait(0.005):
                file.write(b'{"text": "another line"}\n')

    path.write_bytes(dataset("growing", 1))
    writer = threading.Thread(target=grow)
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join()


def test_sync_stores_settled_valid_files_once_and_sorts_the_others(sandbox: Sandbox, make_agent: AgentFactory) -> None:
    agent = make_agent(sandbox, settle="700ms")
    one, two = dataset("one", 1000), dataset("two", 7)
    broken = dataset("broken", 2) + b'{"text": "no end\n' + dataset("broken", 2)
    (agent.drop / "sub").mkdir()
    (agent.drop / "one.jsonl").write_bytes(one)
    (agent.drop / "two.jsonl").write_bytes(two)
    (agent.drop / "sub" / "one.jsonl").write_bytes(one)
    (agent.drop / "broken.jsonl").write_bytes(broken)

    with growing(agent.drop / "growing.jsonl"):
        agent.sync(expect=1)  # a file was rejected

        assert stored(sandbox) == {"one.jsonl": [one], "two.jsonl": [two]}
        assert len(puts(sandbox)) == 2
        left = tree(agent.drop)
        receipts = {name: left.pop(name) for name in list(left) if name.endswith(".receipt.json")}
        reason = left.pop("rejected/broken.jsonl.reason.txt").decode()
        grown = left.pop("growing.jsonl")
        assert grown.startswith(dataset("growing", 1) + b'{"text": "another line"}\n')
        assert left == {
            "uploaded/one.jsonl": one,
            "uploaded/two.jsonl": two,
            "uploaded/sub/one.jsonl": one,
            "rejected/broken.jsonl": broken,
        }
        assert "- line 3, column 17: a string is not closed on its line; add the closing quote; " in reason
        assert f"move it back to {agent.drop}/broken.jsonl" in reason
        assert len(receipts) == 3

        agent.sync()  # the rejected file was reported before
        assert len(puts(sandbox)) == 2
        assert (agent.drop / "growing.jsonl").stat().st_size > len(grown)

    final = (agent.drop / "growing.jsonl").read_bytes()
    agent.sync()
    assert stored(sandbox) == {"one.jsonl": [one], "two.jsonl": [two], "growing.jsonl": [final]}
    agent.sync()
    assert len(puts(sandbox)) == 3

    first, copy = receipt(agent.drop / "uploaded/one.jsonl"), receipt(agent.drop / "uploaded/sub/one.jsonl")
    assert first["upload_id"] == copy["upload_id"]
    assert sorted([first["duplicate"], copy["duplicate"]]) == [False, True]
    listed = agent.uploads()
    rows = {row["path"]: row for row in listed}
    assert sorted([rows["one.jsonl"]["state"], rows["sub/one.jsonl"]["state"]]) == ["duplicate", "uploaded"]
    assert {path: row["state"] for path, row in rows.items() if "one" not in path} == {
        "two.jsonl": "uploaded",
        "broken.jsonl": "rejected",
        "growing.jsonl": "uploaded",
    }
    assert (rows["growing.jsonl"]["sha256"], rows["growing.jsonl"]["bytes"]) == (sha256(final), len(final))
    assert len(listed) == len(rows) == 5
