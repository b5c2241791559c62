"""The second chapter of the tour: a model comes down, through a crash and expired URLs, and is used."""

import hashlib
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import httpx
import safetensors

from axomsync.sandbox.demo.recording_relay import distinct_bytes, sent_bytes
from axomsync.sandbox.demo.story import CONNECTIONS, VERSION, Story
from axomsync.sandbox.demo.voice import Bar, size

DOWNLOAD_SECONDS = 16  # at full speed of all connections; the agent makes bytes durable every 5 s, so that some are by half


def train_model(story: Story) -> str:
    story.voice.step("A model is trained, and becomes ready")
    story.sandbox.rate = story.sample.size / CONNECTIONS / DOWNLOAD_SECONDS
    model = story.sandbox.publish_model(story.sample.name, VERSION, story.sample.folder, status="training")
    story.voice.say(f"the console lists {story.sample.name}: {story.sample.about}, {size(story.sample.size)}")
    story.agent.until("a waiting model", lambda: story.agent.ask("status")["mirror"]["counts"]["waiting"])
    [row] = story.agent.ask("models")
    story.voice.say(f"console: {row['remote_status']}; agent: {row['state']}")
    untouched = not any(request.method == "GET" for request in story.relay.requests)
    story.check("nothing was fetched before the model was ready", untouched and row["state"] == "waiting")
    story.sandbox.set_model_status(model, "ready")
    speed = size(story.sandbox.rate * CONNECTIONS)
    story.voice.say(f"console: ready; storage is slowed down to {speed}/s, so that there is something to see")
    return model


def download_half(story: Story, model: str) -> int:
    """Kill the agent half-way; returns how many bytes it has durably."""
    last: dict[str, Any] = {}

    def half() -> bool:
        last.update(_show_transfer(story, bar))
        return bool(last) and last["bytes_received"] * 2 >= last["bytes_total"] and last["bytes_done"] > 0

    with story.voice.progress() as bar:
        story.agent.until("half of the model", half)
    story.agent.kill()
    _show_crash(story, last)
    [row] = story.agent.ask("models")
    kept = int(row["bytes_done"])
    story.voice.say(f"with the agent dead, its ledger has {kept:,} durable bytes ({kept / story.sample.size:.0%})")
    story.check("some bytes were durable when the agent was killed", 0 < kept < story.sample.size)
    story.check("no incomplete model was visible", row["id"] == model and not story.published.parent.exists())
    return kept


def _show_crash(story: Story, last: dict[str, Any]) -> None:
    story.voice.step("Half-way: kill -9")
    story.voice.say(f"killed pid {story.agent.pid} after it had received about {size(last['bytes_received'])}")


def _show_transfer(story: Story, bar: Bar) -> dict[str, Any]:
    """The download as `axomsync status --json` tells it, if there is one."""
    for transfer in story.agent.ask("status")["transfers"]:
        if transfer["direction"] == "down":
            bar.show(transfer)
            return cast(dict[str, Any], transfer)
    return {}


def let_urls_expire(story: Story) -> None:
    """The newest URL that the agent had is refused: so are all that are older."""
    target = [request.target for request in story.relay.requests if request.brings_data][-1]
    query = parse_qs(urlsplit(target).query)
    signed = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    expiry = signed + timedelta(seconds=int(query["X-Amz-Expires"][0]))
    time.sleep(max(0.0, (expiry - datetime.now(UTC)).total_seconds()) + 1)
    answer = httpx.get(story.relay.endpoint + target, headers={"Range": "bytes=0-0"}, trust_env=False)
    message = ElementTree.fromstring(answer.content).findtext("Message") if answer.status_code == 403 else answer.text  # noqa: S314
    story.voice.say(f"its URLs lived {query['X-Amz-Expires'][0]} s; storage on the last one: {answer.status_code} {message}")
    refused = (answer.status_code, message) == (403, "Request has expired")
    story.check("every URL that the agent had is expired", refused)


def resume(story: Story, kept: int) -> None:
    story.voice.step("Start it again")
    before = len(story.relay.requests)
    story.agent.start()
    said = story.agent.until(
        "its word on the bytes it kept", lambda: [line for line in story.agent.log().splitlines() if str(kept) in line]
    )
    story.voice.say(f"pid {story.agent.pid}; its log:")
    story.voice.say("\n".join(f"  {line}" for line in said))
    story.check("the agent says how many bytes it kept", bool(said))

    def done() -> bool:
        return not _show_transfer(story, bar) and story.published.exists()

    with story.voice.progress() as bar:
        story.agent.until("a published model", done)
    first, second = story.relay.requests[:before], story.relay.requests[before:]
    _count_bytes(story, kept, sent_bytes(first), sent_bytes(second))
    story.check("no durable byte was fetched again", distinct_bytes(second) == story.sample.size - kept)


def _count_bytes(story: Story, kept: int, first: int, second: int) -> None:
    whole = story.sample.size
    lost, raced = first - kept, second - (whole - kept)
    story.figures += [
        ("downloaded", f"{size(whole)}: storage sent {size(first)} before the crash, {size(second)} after"),
        ("kept after the crash", size(kept)),
        (
            "sent twice",
            f"{size(lost + raced)}: {size(lost)} not yet durable at the crash, {size(raced)} raced for at the end",
        ),
    ]


def open_model(story: Story) -> None:
    story.voice.step("Use the model")
    current = story.agent.mirror / story.sample.name / "current"
    story.agent.until("the link to the model", current.is_symlink)
    story.voice.say(f"{current} -> {os.readlink(current)}")
    story.check("`current` leads to the model", current.resolve() == story.published.resolve())
    theirs = {path.relative_to(current).as_posix(): path for path in current.rglob("*") if path.is_file()}
    theirs.pop(".axomsync.json", None)
    ours = story.sample.files
    same = ours.keys() == theirs.keys() and all(_digest(ours[rel]) == _digest(theirs[rel]) for rel in ours)
    story.check(f"all {len(ours)} files are those of the original, byte for byte", same)
    tensors = _tensors(current / "model.safetensors")
    story.voice.say(
        f"opened with safetensors: {len(tensors)} tensors, {size(sum(len(t['data']) for t in tensors.values()))}"
    )
    story.check(f"all {len(tensors)} tensors equal the original's", tensors == _tensors(ours["model.safetensors"]))


def _tensors(file: Path) -> dict[str, dict[str, Any]]:
    """Every tensor's dtype, shape and bytes. safetensors itself reads them; numpy is not needed for that."""
    return dict(safetensors.deserialize(file.read_bytes()))


def _digest(file: Path) -> bytes:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
