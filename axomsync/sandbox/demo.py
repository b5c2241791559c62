"""The tour: the real agent, as a process of its own, on real input, against the sandbox. `axomsync demo`, `make demo`.

Owns the story, a temporary folder and everything that runs in it. What is shown is what the agent's own commands say, and
every claim is checked against storage, the relay's record or the files.

Failures handled: a claim that does not hold, an agent that gets stuck and a store that does not start (told, exit code 1),
a disk that is too small (told at once), Ctrl-C, SIGTERM and SIGHUP anywhere (agent and sandbox stopped, folder removed).
"""

import hashlib
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import httpx
import safetensors
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from axomsync.core.errors import LocalFault
from axomsync.sandbox.console import Sandbox
from axomsync.sandbox.installation import Installation, TourFailed
from axomsync.sandbox.objectstore import ObjectStoreError
from axomsync.sandbox.recording_relay import Witness, distinct_bytes, sent_bytes
from axomsync.sandbox.sample import Sample, find_model, write_broken_dataset, write_dataset

CONNECTIONS = 4
DOWNLOAD_SECONDS = 16  # at full speed of all connections; the agent makes bytes durable every 5 s, so that some are by half
UPLOAD_SECONDS = 3
URL_LIFETIME = timedelta(seconds=6)  # shorter than the time to the crash
VERSION = "1"
COLOURS = {"ok": "green", "failed": "red"}
CONFIG = f"""[transfer]
connections = {CONNECTIONS}
[web]
listen = ""
"""


def tour(*, keep: bool) -> int:
    """Run the tour and return the exit code: 0 when every check holds. `keep` leaves all running until Ctrl-C."""
    voice = Voice()
    with ExitStack() as cleanup:
        cleanup.enter_context(_signals_as_interrupts())
        home = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="axomsync-demo-", ignore_cleanup_errors=True)))
        cleanup.callback(_ignore_signals)
        try:
            return _tour(voice, home, cleanup, keep=keep)
        except (TourFailed, ObjectStoreError) as failure:
            voice.say(f"FAILED: {failure}", style="red")
            return 1
        except KeyboardInterrupt:
            voice.say("interrupted: stopping the agent and the sandbox")
            raise


def _tour(voice: "Voice", home: Path, cleanup: ExitStack, *, keep: bool) -> int:
    sample = find_model(home / "original")
    _check_room(home, 4 * sample.size)
    voice.step("A sandbox and an agent")
    sandbox = Sandbox(home / "sandbox", url_lifetime=URL_LIFETIME, relay_class=Witness)
    cleanup.enter_context(sandbox)
    agent = cleanup.enter_context(Installation(home, sandbox.url, sandbox.key, CONFIG))
    cleanup.callback(_ignore_signals)
    agent.start()
    story = Story(voice, sandbox, agent, sample)
    story.tell()
    failed = story.summary()
    if keep:
        story.keep()
    return 1 if failed else 0


class Voice:
    """What the tour says: with colour and a live bar on a terminal, as plain lines elsewhere."""

    def __init__(self) -> None:
        terminal = sys.stdout.isatty()
        # Elsewhere a line is as wide as it needs to be, and FORCE_COLOR does not make a terminal of a file.
        shape: dict[str, Any] = {"soft_wrap": True} if terminal else {"width": 10_000, "force_terminal": False}
        self._console = Console(highlight=False, markup=False, **shape)
        self._live = terminal and not self._console.is_dumb_terminal
        self._steps = 0

    def step(self, title: str) -> None:
        self._steps += 1
        self._console.print(f"\n{self._steps}. {title}", style="bold")

    def say(self, text: str, style: str = "") -> None:
        self._console.print(Text(f"   {text}".replace("\n", "\n   "), style=style))

    def table(self, rows: list[tuple[str, str]]) -> None:
        width = max(len(head) for head, _ in rows)
        for head, cell in rows:
            self._console.print(Text("   ").append(head.ljust(width), COLOURS.get(head, "")).append(f"  {cell}"))

    @contextmanager
    def progress(self) -> Iterator["Bar"]:
        """A live bar for one transfer, or a line every other second."""
        if not self._live:
            yield Bar(self, None)
            return
        columns = TextColumn("  "), BarColumn(bar_width=18), TextColumn("{task.description}", markup=False)
        with Progress(*columns, console=self._console) as progress:
            yield Bar(self, progress)


class Bar:
    """One transfer as `status` tells it."""

    def __init__(self, voice: Voice, progress: Progress | None) -> None:
        self._voice, self._progress = voice, progress
        self._task = progress.add_task("") if progress else None
        self._next_line = 0.0

    def show(self, transfer: dict[str, Any]) -> None:
        received, total = transfer["bytes_received"], transfer["bytes_total"]
        known = transfer["eta"] is not None and received > total / 50  # the first second says little
        left = f", {transfer['eta']:.0f} s left" if known else ""
        durable, rate = _size(transfer["bytes_done"]), _size(transfer["rate"])
        text = f"{received / 1e6:.1f} of {_size(total)} ({durable} durable), {rate}/s{left}"
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=received, total=total, description=text)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + 2
            self._voice.say(f"{received / total:4.0%}  {text}")


@dataclass
class Story:
    """The tour from the first file to the summary, and what it found out."""

    voice: Voice
    sandbox: Sandbox
    agent: Installation
    sample: Sample
    checks: list[tuple[str, bool]] = field(default_factory=list)
    figures: list[tuple[str, str]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def tell(self) -> None:
        self._introduce()
        self._drop_files()
        model = self._train_model()
        kept = self._download_half(model)
        self._let_urls_expire()
        self._resume(kept)
        self._open_model()
        self._look_for_secrets()

    @property
    def witness(self) -> Witness:
        return cast(Witness, self.sandbox.relay)

    @property
    def published(self) -> Path:
        """Where the model is to appear."""
        return self.agent.mirror / self.sample.name / VERSION

    def _check(self, claim: str, holds: bool) -> None:
        self.checks.append((claim, holds))
        if not holds:
            self.voice.say(f"FAILED: {claim}", style="red")

    def _introduce(self) -> None:
        self.voice.table(
            [
                ("console", self.sandbox.url),
                ("storage", f"{self.witness.endpoint} (SeaweedFS, a real S3 server, pid {self.sandbox.store.pid})"),
                ("agent", f"python -m axomsync run (pid {self.agent.pid})"),
                ("drop folder", str(self.agent.drop)),
                ("mirror", str(self.agent.mirror)),
            ]
        )

    # Up

    def _drop_files(self) -> None:
        name = "python-topics.jsonl"
        dataset, broken = self.agent.drop / name, self.agent.drop / "broken.jsonl"
        self.voice.step("Drop a dataset, and a broken one")
        lines = write_dataset(dataset)
        write_broken_dataset(broken)
        content = dataset.read_bytes()
        self.sandbox.rate = len(content) / UPLOAD_SECONDS
        began = time.monotonic()
        self.voice.say(f"dropped {name} ({lines} lines, {_size(len(content))}: Python's documentation) and {broken.name}")
        rows = self._watch_uploads({name: "uploaded", broken.name: "rejected"})
        self.figures.append(("uploaded", f"{_size(len(content))} in {time.monotonic() - began:.1f} s, settling included"))
        self._compare_upload(rows[name], content, lines)
        reason = (self.agent.drop / "rejected" / f"{broken.name}.reason.txt").read_text(encoding="utf-8")
        self.voice.say(f"rejected/{broken.name}.reason.txt says:")
        self.voice.say("\n".join(f"  {line}" for line in reason.splitlines() if line))
        keys = {upload.filename for upload in self.sandbox.uploads()}
        self._check("the broken file was set aside with its line, and never sent", "line 3" in reason and keys == {name})

    def _watch_uploads(self, awaited: dict[str, str]) -> dict[str, dict[str, Any]]:
        """Tell every change of state until the files are where they should be; returns their rows in `uploads --json`."""
        seen: dict[str, str] = {}

        def changed() -> dict[str, dict[str, Any]] | None:
            rows = {row["filename"]: row for row in self.agent.ask("uploads")}
            for name, row in rows.items():
                if seen.get(name) != row["state"]:
                    self.voice.say(f"{name}: {row['state']}")
            seen.update({name: row["state"] for name, row in rows.items()})
            return rows if seen == awaited else None

        return self.agent.until(f"{awaited}", changed) or {}

    def _compare_upload(self, row: dict[str, Any], content: bytes, lines: int) -> None:
        receipt = self.agent.drop / "uploaded" / f"{row['filename']}.receipt.json"
        self.agent.until("a receipt", receipt.exists)
        said = json.loads(receipt.read_text(encoding="utf-8"))
        self.voice.say(f"uploaded/{receipt.name} says:")
        self.voice.table([(f"  {key}", str(said[key])) for key in ("upload_id", "key", "sha256", "lines")])
        granted = self.sandbox.uploads()[0]
        truth = {
            "upload_id": granted.upload_id,
            "key": granted.key,
            "sha256": hashlib.sha256(content).hexdigest(),
            "lines": lines,
        }
        self._check("the receipt says what the console and the file say", truth.items() <= said.items())
        self._check("storage has the dataset byte for byte", self.sandbox.store.get_bytes(granted.key) == content)

    # Down

    def _train_model(self) -> str:
        self.voice.step("A model is trained, and becomes ready")
        self.sandbox.rate = self.sample.size / CONNECTIONS / DOWNLOAD_SECONDS
        model = self.sandbox.publish_model(self.sample.name, VERSION, self.sample.folder, status="training")
        self.voice.say(f"the console lists {self.sample.name}: {self.sample.about}, {_size(self.sample.size)}")
        self.agent.until("a waiting model", lambda: self.agent.ask("status")["mirror"]["counts"]["waiting"])
        [row] = self.agent.ask("models")
        self.voice.say(f"console: {row['remote_status']}; agent: {row['state']}")
        untouched = not any(request.method == "GET" for request in self.witness.requests)
        self._check("nothing was fetched before the model was ready", untouched and row["state"] == "waiting")
        self.sandbox.set_model_status(model, "ready")
        speed = _size(self.sandbox.rate * CONNECTIONS)
        self.voice.say(f"console: ready; storage is slowed down to {speed}/s, so that there is something to see")
        return model

    def _download_half(self, model: str) -> int:
        """Kill the agent half-way; returns how many bytes it has durably."""
        last: dict[str, Any] = {}

        def half() -> bool:
            last.update(self._show_transfer(bar))
            return bool(last) and last["bytes_received"] * 2 >= last["bytes_total"] and last["bytes_done"] > 0

        with self.voice.progress() as bar:
            self.agent.until("half of the model", half)
        self.agent.kill()
        self._show_crash(last)
        [row] = self.agent.ask("models")
        kept = int(row["bytes_done"])
        self.voice.say(f"with the agent dead, its ledger has {kept:,} durable bytes ({kept / self.sample.size:.0%})")
        self._check("some bytes were durable when the agent was killed", 0 < kept < self.sample.size)
        self._check("no incomplete model was visible", row["id"] == model and not self.published.parent.exists())
        return kept

    def _show_crash(self, last: dict[str, Any]) -> None:
        self.voice.step("Half-way: kill -9")
        self.voice.say(f"killed pid {self.agent.pid} after it had received about {_size(last['bytes_received'])}")

    def _show_transfer(self, bar: Bar) -> dict[str, Any]:
        """The download as `axomsync status --json` tells it, if there is one."""
        for transfer in self.agent.ask("status")["transfers"]:
            if transfer["direction"] == "down":
                bar.show(transfer)
                return cast(dict[str, Any], transfer)
        return {}

    def _let_urls_expire(self) -> None:
        """The newest URL that the agent had is refused: so are all that are older."""
        target = [request.target for request in self.witness.requests if request.brings_data][-1]
        query = parse_qs(urlsplit(target).query)
        signed = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        expiry = signed + timedelta(seconds=int(query["X-Amz-Expires"][0]))
        time.sleep(max(0.0, (expiry - datetime.now(UTC)).total_seconds()) + 1)
        answer = httpx.get(self.witness.endpoint + target, headers={"Range": "bytes=0-0"}, trust_env=False)
        message = ElementTree.fromstring(answer.content).findtext("Message") if answer.status_code == 403 else answer.text  # noqa: S314
        self.voice.say(
            f"its URLs lived {query['X-Amz-Expires'][0]} s; storage on the last one: {answer.status_code} {message}"
        )
        refused = (answer.status_code, message) == (403, "Request has expired")
        self._check("every URL that the agent had is expired", refused)

    def _resume(self, kept: int) -> None:
        self.voice.step("Start it again")
        before = len(self.witness.requests)
        self.agent.start()
        said = self.agent.until(
            "its word on the bytes it kept", lambda: [line for line in self.agent.log().splitlines() if str(kept) in line]
        )
        self.voice.say(f"pid {self.agent.pid}; its log:")
        self.voice.say("\n".join(f"  {line}" for line in said))
        self._check("the agent says how many bytes it kept", bool(said))

        def done() -> bool:
            return not self._show_transfer(bar) and self.published.exists()

        with self.voice.progress() as bar:
            self.agent.until("a published model", done)
        first, second = self.witness.requests[:before], self.witness.requests[before:]
        self._count_bytes(kept, sent_bytes(first), sent_bytes(second))
        self._check("no durable byte was fetched again", distinct_bytes(second) == self.sample.size - kept)

    def _count_bytes(self, kept: int, first: int, second: int) -> None:
        size = self.sample.size
        lost, raced = first - kept, second - (size - kept)
        self.figures += [
            ("downloaded", f"{_size(size)}: storage sent {_size(first)} before the crash, {_size(second)} after"),
            ("kept after the crash", _size(kept)),
            (
                "sent twice",
                f"{_size(lost + raced)}: {_size(lost)} not yet durable at the crash, {_size(raced)} raced for at the end",
            ),
        ]

    def _open_model(self) -> None:
        self.voice.step("Use the model")
        current = self.agent.mirror / self.sample.name / "current"
        self.agent.until("the link to the model", current.is_symlink)
        self.voice.say(f"{current} -> {os.readlink(current)}")
        self._check("`current` leads to the model", current.resolve() == self.published.resolve())
        theirs = {path.relative_to(current).as_posix(): path for path in current.rglob("*") if path.is_file()}
        theirs.pop(".axomsync.json", None)
        ours = self.sample.files
        same = ours.keys() == theirs.keys() and all(_digest(ours[rel]) == _digest(theirs[rel]) for rel in ours)
        self._check(f"all {len(ours)} files are those of the original, byte for byte", same)
        tensors = _tensors(current / "model.safetensors")
        self.voice.say(
            f"opened with safetensors: {len(tensors)} tensors, {_size(sum(len(t['data']) for t in tensors.values()))}"
        )
        self._check(f"all {len(tensors)} tensors equal the original's", tensors == _tensors(ours["model.safetensors"]))

    def _look_for_secrets(self) -> None:
        written = self.agent.log_file.read_text(encoding="utf-8", errors="replace")
        silent = self.sandbox.key not in written and "X-Amz-Signature=" not in written
        self._check("no key and no signature is in the log", silent)
        self._check("storage was never shown the key", not any("authorization" in r.headers for r in self.witness.requests))

    # The end

    def summary(self) -> int:
        """Show what was found out; returns how many checks failed."""
        self.voice.step("Summary")
        self.voice.table([*self.figures, ("time", f"{time.monotonic() - self.began:.0f} s")])
        self.voice.table([("ok" if holds else "failed", claim) for claim, holds in self.checks])
        failed = sum(not holds for _, holds in self.checks)
        self.voice.say(f"{failed} of {len(self.checks)} checks failed" if failed else f"all {len(self.checks)} checks hold")
        return failed

    def keep(self) -> None:
        """Say what to try next, and wait for Ctrl-C."""
        self.sandbox.rate = None
        self.sandbox.url_lifetime = timedelta(minutes=15)
        body = json.dumps({"name": self.sample.name, "version": "2", "folder": str(self.sample.folder)})
        publish = shlex.join(["curl", "-s", f"{self.sandbox.admin_url}/models", "-d", body])
        clean = "env -u AXOM_KEY " if "AXOM_KEY" in os.environ else ""
        axomsync = clean + shlex.join([sys.executable, "-m", "axomsync"])
        config = shlex.quote(str(self.agent.config_file))
        self.voice.step("All of it goes on until Ctrl-C; try, in another terminal")
        self.voice.table(
            [
                ("how it stands", f"{axomsync} status --config {config}"),
                ("what is mirrored", f"{axomsync} models --config {config}"),
                ("a file to upload", f'echo \'{{"text": "hello"}}\' > {shlex.quote(str(self.agent.drop / "hello.jsonl"))}'),
                ("where it went", f"{axomsync} uploads --config {config}"),
                ("another version", publish),
                ("the newest one", f"ls -l {shlex.quote(str(self.agent.mirror / self.sample.name / 'current'))}/"),
                ("the agent's log", f"tail -f {shlex.quote(str(self.agent.log_file))}"),
            ]
        )
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            self.voice.say("stopping the agent and the sandbox")


def _check_room(home: Path, need: int) -> None:
    free = shutil.disk_usage(home).free
    if free < need:
        raise LocalFault(
            f"{home.parent}: the tour needs {_size(need)} there, {_size(free)} are free; set $TMPDIR to a larger place"
        )


@contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does. One that is ignored, by nohup for instance, stays so."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, before[number])


def _ignore_signals() -> None:
    """Cleaning up takes some seconds, in which an impatient Ctrl-C must not leave processes behind."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _tensors(file: Path) -> dict[str, dict[str, Any]]:
    """Every tensor's dtype, shape and bytes. safetensors itself reads them; numpy is not needed for that."""
    return dict(safetensors.deserialize(file.read_bytes()))


def _digest(file: Path) -> bytes:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _size(count: float) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
