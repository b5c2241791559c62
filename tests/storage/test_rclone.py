"""Both directions, end to end, with a second real S3 server that has other habits: `rclone serve s3`."""

import hashlib
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from random import Random

import httpx
import pytest

from axomsync.sandbox.console import Sandbox
from axomsync.sandbox.objectstore import SMALLEST_PART
from tests.rig.agent import AgentProcess
from tests.rig.rclone import RcloneStore
from tests.rig.recording import RecordingRelay

MIB = 1 << 20


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RcloneStore]:
    with RcloneStore(tmp_path_factory.mktemp("rclone")) as store:
        yield store


@pytest.fixture
def far_side(rclone: RcloneStore, tmp_path: Path) -> Iterator[Sandbox]:
    with Sandbox(tmp_path / "far", store=rclone, relay_class=RecordingRelay) as sandbox:
        yield sandbox


@pytest.fixture
def box(far_side: Sandbox, tmp_path: Path) -> Iterator[AgentProcess]:
    with AgentProcess(tmp_path / "box", far_side.url, far_side.key, {"drop": {"shard": "2MiB"}}) as agent:
        yield agent


def lines(count: int) -> bytes:
    dice = Random(count)
    return b"".join(json.dumps({"text": dice.randbytes(500).hex()}).encode() + b"\n" for _ in range(count))


def test_it_has_other_habits(rclone: RcloneStore, tmp_path: Path) -> None:
    """What makes it worth a test: without these it would be tested twice what SeaweedFS does."""
    file = tmp_path / "parts.bin"
    file.write_bytes(bytes(SMALLEST_PART + 1))
    assert rclone.put_file("habits/parts.bin", file, part_size=SMALLEST_PART).endswith('-2"')
    url = rclone.presign("GET", "habits/parts.bin", lifetime=timedelta(minutes=1))
    part = httpx.get(url, headers={"Range": "bytes=1-9", "If-Match": '"another"'}, trust_env=False)
    assert (part.status_code, part.headers["content-range"]) == (200, f"bytes 1-9/{SMALLEST_PART + 1}")
    assert part.headers["etag"] == f'"{hashlib.md5(file.read_bytes()).hexdigest()}"'


def test_files_go_up(rclone: RcloneStore, far_side: Sandbox, box: AgentProcess) -> None:
    """One of a single request, one that is streamed, one in shards."""
    contents = {"small.jsonl": lines(3), "ä b+%2F.jsonl": lines(1500), "large.jsonl": lines(5000)}
    for name, content in contents.items():
        (box.drop / name).write_bytes(content)
    box.sync()
    for name, content in contents.items():
        receipt = json.loads((box.drop / "uploaded" / f"{name}.receipt.json").read_bytes())
        pieces = [rclone.get_bytes(part["key"]) for part in receipt["shards"] or [receipt]]
        assert b"".join(pieces) == content
        assert len(pieces) == (3 if name == "large.jsonl" else 1)
        etags = [part["etag"] for part in receipt["shards"] or [receipt]]
        assert etags == [f'"{hashlib.md5(piece).hexdigest()}"' for piece in pieces]
    assert {state["state"] for state in box.uploads()} == {"uploaded"}


@pytest.mark.parametrize("part_size", [None, SMALLEST_PART], ids=["one PUT", "parts"])
def test_a_model_comes_down(far_side: Sandbox, box: AgentProcess, tmp_path: Path, part_size: int | None) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    contents = {"weights.bin": Random(1).randbytes(12 * MIB + 7), "sub/config.json": b"{}", "empty.txt": b""}
    for rel, content in contents.items():
        (source / rel).write_bytes(content)
    far_side.publish_model("chassis", "v1", source, part_size=part_size)
    box.sync()
    folder = box.mirror / "chassis" / "v1"
    assert {rel: (folder / rel).read_bytes() for rel in contents} == contents
    record = json.loads((folder / ".axomsync.json").read_bytes())
    proofs = {file["rel"]: file["proof"] for file in record["files"]}
    assert proofs == {"weights.bin": "proven", "sub/config.json": "proven", "empty.txt": "size only"}  # its 416 has no ETag
    assert isinstance(far_side.relay, RecordingRelay)
    gets = [request for request in far_side.relay.requests if request.method == "GET"]
    assert len([request for request in gets if request.path.endswith("weights.bin")]) > 1
    box.sync()
    assert [request for request in far_side.relay.requests if request.method == "GET"] == gets
