"""`tell v2` against a real MLServer: load, a new version, a version that is broken, unload, kills."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.conftest import Mirror
from tests.rig.mlserver import MLServer, refuse_if_missing
from tests.rig.teller import Teller


@pytest.fixture
def server(mirror: Mirror, tmp_path: Path) -> Iterator[MLServer]:
    refuse_if_missing()
    server = MLServer(tmp_path / "server")
    server.model("bot", mirror.root / "bot" / "current")
    with server:
        yield server


def test_a_real_server_is_told(server: MLServer, mirror: Mirror, teller: Teller) -> None:
    def tell(version: str, kind: str = "model_published", name: str = "bot") -> tuple[int, str]:
        told = teller.tell(mirror.event(version, kind), "v2", "--url", server.url, "--name", name)
        return told.code, told.output

    assert not server.ready("bot")
    for version in ("v1", "v2"):
        mirror.publish(version)
        for _ in range(2):
            assert tell(version) == (0, f"bot serves bot/{version}\n")
            assert server.infer("bot") == {"version": version}
    assert tell("v1") == (0, "bot/v1: current leads to v2\n")

    # A version that the server can't load: its own words, and the old one goes on.
    (mirror.publish("v3") / "config.json").unlink()
    code, words = tell("v3")
    assert (code, "config.json" in words) == (1, True), words
    assert server.infer("bot") == {"version": "v2"}
    code, words = tell("v3", name="nobody")
    assert (code, "nobody not found" in words) == (1, True), words

    # Killed in the midst of a load, then told again.
    mirror.publish("v4")
    for life in (0.0, 0.02, 0.04, 0.08):
        teller.tell(mirror.event("v4"), "v2", "--url", server.url, kill_after=life)
    assert tell("v4")[0] == 0
    assert server.infer("bot") == {"version": "v4"}

    shutil.rmtree(mirror.root / "bot")
    assert tell("v4", "model_removed") == (0, "unloaded bot\n")
    assert not server.ready("bot")
    assert tell("v4", "model_removed") == (0, "bot was not loaded\n")
