"""The first chapter of the tour: a dataset goes up, a broken one is set aside."""

import hashlib
import json
import time
from typing import Any

from axomsync.sandbox.demo.sample import write_broken_dataset, write_dataset
from axomsync.sandbox.demo.story import Story
from axomsync.sandbox.demo.voice import size

UPLOAD_SECONDS = 3


def drop_files(story: Story) -> None:
    name = "python-topics.jsonl"
    dataset, broken = story.agent.drop / name, story.agent.drop / "broken.jsonl"
    story.voice.step("Drop a dataset, and a broken one")
    lines = write_dataset(dataset)
    write_broken_dataset(broken)
    content = dataset.read_bytes()
    story.sandbox.rate = len(content) / UPLOAD_SECONDS
    began = time.monotonic()
    story.voice.say(f"dropped {name} ({lines} lines, {size(len(content))}: Python's documentation) and {broken.name}")
    rows = _watch_uploads(story, {name: "uploaded", broken.name: "rejected"})
    story.figures.append(("uploaded", f"{size(len(content))} in {time.monotonic() - began:.1f} s, settling included"))
    _compare_upload(story, rows[name], content, lines)
    reason = (story.agent.drop / "rejected" / f"{broken.name}.reason.txt").read_text(encoding="utf-8")
    story.voice.say(f"rejected/{broken.name}.reason.txt says:")
    story.voice.say("\n".join(f"  {line}" for line in reason.splitlines() if line))
    keys = {upload.filename for upload in story.sandbox.uploads()}
    story.check("the broken file was set aside with its line, and never sent", "line 3" in reason and keys == {name})


def _watch_uploads(story: Story, awaited: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Tell every change of state until the files are where they should be; returns their rows in `uploads --json`."""
    seen: dict[str, str] = {}

    def changed() -> dict[str, dict[str, Any]] | None:
        rows = {row["filename"]: row for row in story.agent.ask("uploads")}
        for name, row in rows.items():
            if seen.get(name) != row["state"]:
                story.voice.say(f"{name}: {row['state']}")
        seen.update({name: row["state"] for name, row in rows.items()})
        return rows if seen == awaited else None

    return story.agent.until(f"{awaited}", changed) or {}


def _compare_upload(story: Story, row: dict[str, Any], content: bytes, lines: int) -> None:
    receipt = story.agent.drop / "uploaded" / f"{row['filename']}.receipt.json"
    story.agent.until("a receipt", receipt.exists)
    said = json.loads(receipt.read_text(encoding="utf-8"))
    story.voice.say(f"uploaded/{receipt.name} says:")
    story.voice.table([(f"  {key}", str(said[key])) for key in ("upload_id", "key", "sha256", "lines")])
    granted = story.sandbox.uploads()[0]
    truth = {
        "upload_id": granted.upload_id,
        "key": granted.key,
        "sha256": hashlib.sha256(content).hexdigest(),
        "lines": lines,
    }
    story.check("the receipt says what the console and the file say", truth.items() <= said.items())
    story.check("storage has the dataset byte for byte", story.sandbox.store.get_bytes(granted.key) == content)
