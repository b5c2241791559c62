"""`tell v2` against a real MLServer: load, a new version, a version that is broken, unload, kills."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.conftest import Mirror, event_of
from tests.mirror.published import PublishedHere
from tests.rig.mlserver import MLServer, refuse_if_missing
from tests.rig.pollers import hub
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


def test_a_real_server_serves_through_both_views_what_current_leads_to(tmp_path: Path, teller: Teller) -> None:
    """The server's folder leads to the views, which never change; a reload shows what `current` leads to by then."""
    refuse_if_missing()
    here = PublishedHere(tmp_path)
    here.publish("bot", 1)
    server = MLServer(tmp_path / "server")
    server.model("flat", here.flat / "bot")
    with server:
        for number in (1, 2):
            folder = here.publish("bot", number) if number > 1 else here.parent("bot") / "v1"
            told = teller.tell(event_of("bot", folder), "v2", "--url", server.url, "--name", "flat")
            assert (told.code, told.output) == (0, f"flat serves bot/v{number}\n")
            assert server.infer("flat") == json.loads((folder / "config.json").read_text())
            through_hub, _ = hub(here.hf, "bot")
            assert through_hub is not None
            assert server.infer("flat") == json.loads(Path(through_hub, "config.json").read_text())
        here.pin("bot", 1)
        first = here.parent("bot") / "v1"
        told = teller.tell(event_of("bot", first, "current_moved"), "v2", "--url", server.url, "--name", "flat")
        assert told.code == 0
        assert server.infer("flat") == json.loads((first / "config.json").read_text())
