"""A mirror with one model in two versions, and the verb that tells engines about them."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.rig.teller import Teller


class Mirror:
    """Folders as the agent publishes them: `<name>/<version>`, and `current`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def publish(self, version: str, name: str = "bot") -> Path:
        """Make a version appear, and lead `current` to it."""
        folder = self.root / name / version
        folder.mkdir(parents=True, exist_ok=True)
        for file in ("adapter_config.json", "config.json", ".axomsync.json"):
            (folder / file).write_text(json.dumps({"version": version}))
        (folder / "model.safetensors").write_bytes(version.encode() * 1000)
        self.lead(version, name)
        return folder

    def lead(self, version: str, name: str = "bot") -> None:
        link = self.root / name / "current"
        link.unlink(missing_ok=True)
        link.symlink_to(version)

    def event(self, version: str, kind: str = "model_published", name: str = "bot") -> dict[str, Any]:
        """What a hook gets."""
        return event_of(name, self.root / name / version, kind)


def event_of(name: str, folder: Path, kind: str = "model_published") -> dict[str, Any]:
    """What a hook gets about the version in `folder`."""
    version = folder.name
    model = {"id": f"id-{version}", "name": name, "version": version, "path": str(folder), "reason": None}
    return {"event": kind, "at": datetime.now(UTC).isoformat(timespec="seconds"), "model": model}


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    return Mirror(tmp_path / "models")


@pytest.fixture(scope="module")
def teller() -> Iterator[Teller]:
    with Teller() as teller:
        yield teller
