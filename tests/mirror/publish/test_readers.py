"""A reader of a published path always finds a whole model, whatever happens to the mirror meanwhile.

Readers open every published path with `safetensors`, again and again, while versions are published, rolled back and pruned,
and the agent is killed. A digest in the metadata of each file tells its right content.
"""

import hashlib
import json
import os
import random
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors import deserialize

from axomsync.mirror.publish import current
from tests.rig.agent import AgentProcess, eventually
from tests.rig.faults import KEY, Content, FaultyServer

READERS = 2
DATA = 20_000


def weights(seed: int) -> Content:
    """A safetensors file whose header holds the SHA-256 of its only tensor."""
    size = 0
    head = b""
    for _ in range(2):  # the header must know its own data, which begins where it ends
        data = Content(size + DATA, seed, head).read(size) if size else bytes(DATA)
        metadata = {"digest": hashlib.sha256(data).hexdigest()}
        header = {"__metadata__": metadata, "w": {"dtype": "U8", "shape": [DATA], "data_offsets": [0, DATA]}}
        text = json.dumps(header).encode()
        head = struct.pack("<Q", len(text)) + text
        size = len(head)
    return Content(size + DATA, seed, head)


def look(path: Path) -> str:
    """`whole`, or the fault of an opened file."""
    data = path.read_bytes()
    digest = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])["__metadata__"]["digest"]
    ((_, tensor),) = deserialize(data)
    return "whole" if hashlib.sha256(tensor["data"]).hexdigest() == digest else f"{path} is damaged"


@contextmanager
def readers(mirror: Path) -> Iterator[Counter[str]]:
    """Threads that open all published files; at the end they must have seen only whole files."""
    seen: Counter[str] = Counter()
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            names = [name for name in os.listdir(mirror) if not name.startswith(".")]
            for name in names:
                for version in ("current", *(v for v in os.listdir(mirror / name) if v.startswith("v"))):
                    # An opened path must be complete: first the folder, then its files.
                    try:
                        folder = os.open(mirror / name / version, os.O_RDONLY | os.O_DIRECTORY)
                    except FileNotFoundError:
                        seen["current was missing" if version == "current" else "pruned"] += 1
                        continue
                    try:
                        for part in ("1", "2"):
                            try:
                                seen[look(Path(f"/proc/self/fd/{folder}/model-{part}.safetensors"))] += 1
                            except FileNotFoundError:
                                alive = os.path.exists(mirror / name / version) and version == "current"
                                seen["half a model" if alive else "pruned"] += 1
                    finally:
                        os.close(folder)

    threads = [threading.Thread(target=read, daemon=True) for _ in range(READERS)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join(30)
    assert set(seen) <= {"whole", "pruned"}, seen


def publish(server: FaultyServer, number: int) -> None:
    files = {"model-1.safetensors": weights(2 * number), "model-2.safetensors": weights(2 * number + 1)}
    server.add_model("chassis", f"v{number}", files)


def churn(server: FaultyServer, tmp_path: Path, opens: int, versions: int) -> Counter[str]:
    dice = random.Random(5)
    config = {"drop": {"enabled": False}, "mirror": {"keep": 3, "poll": "300ms"}}
    with AgentProcess(tmp_path / "box", server.url, KEY, config) as agent:
        publish(server, 1)
        agent.start()
        parent = agent.mirror / "chassis"
        eventually("the first model", lambda: (parent / "current").exists())
        with readers(agent.mirror) as seen:
            number = 1
            while seen["whole"] < opens or number < versions:
                number += 1
                publish(server, number)
                if dice.random() < 0.4:
                    agent.kill()
                    agent.start()
                eventually("the next version", lambda n=number: (parent / f"v{n}").exists())
                older = [name for name in current.versions(parent) if name != current.leads_to(parent)]
                if older and dice.random() < 0.7:
                    current.pin(parent, dice.choice(older[:2]), agent.mirror / ".axomsync")
                else:
                    current.unpin(parent, agent.mirror / ".axomsync")
        assert agent.terminate() == 0
    return seen


def test_readers_find_nothing_but_whole_models(server: FaultyServer, tmp_path: Path) -> None:
    seen = churn(server, tmp_path, opens=4000, versions=8)
    print(dict(seen))


@pytest.mark.stress
@pytest.mark.timeout(3600)
def test_readers_find_nothing_but_whole_models_a_hundred_thousand_times(server: FaultyServer, tmp_path: Path) -> None:
    seen = churn(server, tmp_path, opens=100_000, versions=40)
    print(dict(seen))
