"""A mirror folder with views, filled without a server: versions are published as the agent does, by the same code."""

import json
from datetime import UTC, datetime
from pathlib import Path

from axomsync.config import View
from axomsync.core.records import Model, ModelFile, ModelState, Proof, RemoteModel
from axomsync.mirror.layout import escape
from axomsync.mirror.publish import current
from axomsync.mirror.publish.folder import MirrorFolder
from axomsync.mirror.publish.record import record_of
from tests.rig.pollers import content, hub

BASE = "base"  # the model that each adapter is for


class PublishedHere:
    """One mirror below `home`. Each model is one for every engine, so that all of them can look at it."""

    def __init__(self, home: Path, *kinds: str) -> None:
        self.root = home / "models"
        self.root.mkdir(parents=True, exist_ok=True)
        self.flat, self.hf = home / "serving", home / "hf"
        places = {"flat": View("flat", self.flat), "hf": View("hf", self.hf)}
        self.folder = MirrorFolder(self.root, "here", views=[places[kind] for kind in kinds or places])

    def publish(self, name: str, number: int) -> Path:
        """Publish a version, newer than those with lower numbers; returns its folder."""
        model = model_of(name, number)
        files = files_of(number)
        staging = self.folder.staging.prepare(model.id, {rel: len(data) for rel, data in files.items()})
        for rel, data in files.items():
            (staging / rel).write_bytes(data)
        listed = tuple(ModelFile(rel, len(data), None, ()) for rel, data in files.items())
        record = record_of(model, listed, dict.fromkeys(files, Proof.SIZE), (), 1e9 + number, ())
        target = self.folder.find(model)
        self.folder.make_ready(record, staging, extends=False)
        self.folder.publish(record, staging, target, lambda: None)
        return target

    def pin(self, name: str, number: int) -> None:
        parent = self.parent(name)
        current.pin(parent, f"v{number}", self.folder.staging.scratch())
        assert self.folder.views.follow(parent) == []

    def unpin(self, name: str) -> None:
        current.unpin(self.parent(name), self.folder.staging.scratch())
        assert self.folder.views.follow(self.parent(name)) == []

    def remove(self, name: str, number: int) -> None:
        assert self.folder.remove(self.parent(name) / f"v{number}", model_of(name, number).id) is None

    def parent(self, name: str) -> Path:
        return self.root / escape(name)

    def served(self, name: str) -> str | None:
        """The version that `current` and both views lead to: they must agree. None when they all lead to none."""
        found, faults = hub(self.hf, name)
        places = [self.parent(name) / "current", self.flat / escape(name), Path(found) if found else self.hf / "none"]
        led = {place.resolve() if place.exists() else None for place in places}
        assert len(led) == 1, (led, faults)
        (only,) = led
        return None if only is None else only.name

    def dead(self) -> list[Path]:
        """Links of the views that lead nowhere."""
        places = [place for folder in (self.flat, self.hf) for place in folder.rglob("*")]
        return [place for place in places if place.is_symlink() and not place.exists()]


def model_of(name: str, number: int) -> Model:
    created_at = datetime.fromtimestamp(number, UTC).isoformat()
    listed = RemoteModel(f"mdl_{name.replace('/', '_')}_{number}", name, f"v{number}", None, None, "ready", created_at)
    return Model.listed(listed, ModelState.PUBLISHED)


def files_of(number: int) -> dict[str, bytes]:
    adapter = {"peft_type": "LORA", "base_model_name_or_path": BASE}
    return {
        "config.pbtxt": b'backend: "python"',
        "config.json": json.dumps({"version": number}).encode(),
        "adapter_config.json": json.dumps(adapter).encode(),
        "1/weights.bin": content(bytes([number % 256])),
    }
