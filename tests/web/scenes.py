"""Three states of the status page, written to a real ledger and shown by the real server."""

import math
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from axomsync.config import Settings, WebSettings
from axomsync.core.records import (
    Checked,
    DurableSegment,
    ModelState,
    Presigned,
    RemoteModel,
    Shape,
    ShapeFinding,
    Stamp,
    Transfer,
    UploadState,
)
from axomsync.core.text import iso
from axomsync.ledger import Ledger, Reader
from axomsync.ops.metrics import AgentCollector, registry
from axomsync.runtime.heartbeat import Liveness
from axomsync.runtime.meter import Meter
from axomsync.runtime.problems import Problems
from axomsync.runtime.ring import Ring
from axomsync.runtime.throughput import PIECE_SECONDS, PIECES, Throughput
from axomsync.web.facts import Facts
from axomsync.web.page import Page
from axomsync.web.server import Server
from tests.rig.agent import eventually

GB = 1_000_000_000
_FETCHED = (ModelState.DOWNLOADING, ModelState.VERIFYING)
_STEPS = {
    ModelState.DOWNLOADING: _FETCHED[:1],
    ModelState.VERIFYING: _FETCHED,
    ModelState.PUBLISHED: (*_FETCHED, ModelState.PUBLISHED),
    ModelState.BLOCKED: (ModelState.BLOCKED,),
    ModelState.IGNORED: (ModelState.IGNORED,),
}
MINUTE, HOUR = 60.0, 3600.0


@dataclass
class Stage:
    """The shared objects of an agent, without workers; `ago` shifts the ledger's time into the past."""

    home: Path
    web: WebSettings = field(default_factory=lambda: WebSettings(listen="127.0.0.1:0"))

    def __post_init__(self) -> None:
        self._ago = 0.0
        sections = {name: {"folder": str(self.home / name)} for name in ("drop", "mirror", "state")}
        for name in ("drop", "mirror"):
            (self.home / name).mkdir(parents=True, exist_ok=True)
        self.settings = Settings.model_validate(sections).model_copy(update={"web": self.web})
        self.ledger = Ledger(self.settings.state.folder, lambda: time.time() - self._ago)
        self.ago(76 * HOUR)
        self.ledger.set_facts(started_at=iso(time.time() - self._ago), observer="inotify")
        self.ledger.add_history("agent", "axomsync 0.1.0", "started")
        self.meter = Meter(time.monotonic)
        self.throughput = Throughput(time.monotonic() - PIECES * PIECE_SECONDS)
        self.liveness = Liveness(60.0, time.monotonic)
        self.problems = Problems(self.ledger, lambda: time.time() - self._ago)
        self._uploads = 0

    def ago(self, seconds: float) -> None:
        self._ago = seconds

    @contextmanager
    def page(self, patience: float = 30.0) -> Iterator[str]:
        """Serve the page; yields its address."""
        told: list[str | None] = []
        page = self.made(told)
        page.start()
        try:
            yield str(eventually("a page", lambda: told and told[0], patience=patience))
        finally:
            page.stop()

    def made(self, told: list[str | None]) -> Page:
        """A page that is not started yet; its address goes into `told`."""
        return Page(self.settings.web, self._server, self.problems, told.append)

    def _server(self, token: str | None) -> Server:
        facts = Facts(
            self.settings, Reader(self.ledger.path), self.liveness, self.throughput, self.problems, self.ledger.facts_set
        )
        told = AgentCollector(
            facts.status, facts.hanging, self.meter.totals, self.ledger.transitions, facts.free_bytes, facts.problems,
            ring=Ring(), published=facts.published, led=facts.led, poll_seconds=self.settings.mirror.poll,
        )  # fmt: skip
        return Server(facts, registry(told), token)

    def polled(self, seconds_ago: float = 12) -> None:
        self.ledger.set_facts(last_poll=str(time.time() - seconds_ago))

    def model(
        self,
        name: str,
        version: str,
        created: str,
        state: ModelState,
        reason: str | None = None,
        *,
        size: int = 0,
        durable: int = 0,
    ) -> None:
        model = f"{name}-{version}"
        first = ModelState.WAITING if state in (ModelState.WAITING, ModelState.IGNORED) else ModelState.QUEUED
        remote = RemoteModel(
            model, name, version, None, None, "training" if state is ModelState.WAITING else "ready", created
        )
        self.ledger.record_catalog([(remote, first, reason if first is ModelState.WAITING else None)])
        for step in _STEPS.get(state, ()):
            if size:
                self.ledger.plan_files(model, [("model.safetensors", size)])
            self.ledger.move_model(model, step, reason=reason)
        if durable:
            self.ledger.record_durable([(model, "model.safetensors", None, DurableSegment(0, durable, "0" * 64))])

    def upload(self, name: str, size: int, state: UploadState, reason: str | None = None) -> None:
        self._uploads += 1
        stamp, number = Stamp(1, self._uploads, size, 1, 1), self._uploads
        self.ledger.see_uploads([(os.fsencode(name), os.path.basename(name), stamp)])
        if state is UploadState.SETTLING:
            return
        self.ledger.move_upload(number, UploadState.CHECKING).result()
        if state in (UploadState.REJECTED, UploadState.HELD, UploadState.CHECKING):
            if state is not UploadState.CHECKING:
                self.ledger.move_upload(number, state, reason=reason).result()
            return
        found = ShapeFinding(7, 14, "messages is an empty list; write the messages, or leave the line out")
        shape = Shape("chat", 1000, 3000, 900, 400_000, 0, (found,) * (number % 2), number % 2)
        self.ledger.record_check(number, stamp, Checked(f"{number:064x}", size, 1000, shape=shape)).result()
        self.ledger.record_presigned(number, Presigned(f"u-{number}", f"tmp/u-{number}/{name}", "https://s/", None))
        if state is UploadState.UPLOADED:
            self.ledger.record_uploaded(number, None, None)
            self.ledger.record_moved_away(number).result()

    def hour(self, shape: Callable[[float], tuple[float, float]]) -> None:
        """One hour of throughput: `shape` maps a time from 0 to 1 to bytes per second down and up."""
        now, down, up = time.monotonic(), 0, 0
        for piece in range(PIECES, 0, -1):
            rates = shape(1 - piece / PIECES)
            down, up = down + int(rates[0] * PIECE_SECONDS), up + int(rates[1] * PIECE_SECONDS)
            self.throughput.observe({"down": down, "up": up}, now - piece * PIECE_SECONDS)


def empty(stage: Stage) -> None:
    """A newly installed agent."""
    stage.ago(4 * MINUTE)
    stage.ledger.set_facts(started_at=iso(time.time() - 4 * MINUTE))
    stage.polled()


def _past(stage: Stage) -> None:
    stage.ago(50 * HOUR)
    stage.model("support-qa-8b", "v3", "2026-11-19", ModelState.PUBLISHED, size=16 * GB)
    stage.ago(30 * HOUR)
    stage.upload("tickets/2026-11-21.jsonl", 412_000_000, UploadState.UPLOADED)
    stage.upload("eval/regressions.jsonl", 8_400_000, UploadState.UPLOADED)
    stage.ago(26 * HOUR)
    stage.model("router-mini", "2026-11-20", "2026-11-20", ModelState.PUBLISHED, size=3 * GB)
    stage.ago(8 * HOUR)
    stage.model("support-qa-8b", "v4", "2026-11-21", ModelState.PUBLISHED, size=16 * GB)
    stage.model("experiment-lora", "v1", "2026-11-21", ModelState.IGNORED, "[mirror] exclude leaves it out")
    stage.ago(6 * HOUR)
    stage.upload("tickets/2026-11-22.jsonl", 398_000_000, UploadState.UPLOADED)
    stage.ago(2.5 * HOUR)
    stage.upload("preferences/batch-0417.jsonl", 1_270_000_000, UploadState.UPLOADED)


def _noise(low: float, high: float) -> float:
    return random.uniform(low, high)


def busy(stage: Stage) -> None:
    """A new model is being downloaded while datasets are uploaded."""
    random.seed(4)
    _past(stage)
    stage.ago(3 * MINUTE)
    stage.model("support-qa-70b", "v1", "2026-11-23T01", ModelState.DOWNLOADING, size=141 * GB, durable=60 * GB)
    stage.ago(1 * MINUTE)
    stage.model("router-mini", "2026-11-23", "2026-11-23", ModelState.VERIFYING, size=3 * GB, durable=3 * GB)
    stage.model("support-qa-70b", "v2", "2026-11-23T02", ModelState.WAITING, "the console says: training")
    stage.ago(20)
    stage.upload("preferences/batch-0418.jsonl", 1_310_000_000, UploadState.UPLOADING)
    stage.ago(8)
    stage.upload("tickets/2026-11-23.jsonl", 405_000_000, UploadState.CHECKING)
    stage.ago(1)
    stage.upload("eval/regressions-2.jsonl", 9_100_000, UploadState.SETTLING)
    stage.polled()
    stage.ledger.show_transfers([
        Transfer("down", "support-qa-70b/v1", 60 * GB, 61 * GB + GB // 2, 141 * GB, 838e6, 95.0),
        Transfer("up", "preferences/batch-0418.jsonl", 0, 734_000_000, 1_310_000_000, 96.4e6, 6.0),
    ])  # fmt: skip

    def shape(at: float) -> tuple[float, float]:
        ramp = min(1.0, max(0.0, (at - 0.93) * 60))
        down = 830e6 * ramp * _noise(0.94, 1.03) + (410e6 * _noise(0.9, 1.05) if 0.31 < at < 0.44 else 0)
        up = 0.0
        if 0.55 < at < 0.63 or at > 0.97:
            up = 95e6 * _noise(0.9, 1.05)
        return down, up + (60e6 * math.sin((at - 0.1) * 40) ** 2 if 0.1 < at < 0.17 else 0)

    stage.hour(shape)


def problem(stage: Stage) -> None:
    """The disk is full, a file is broken, and the console refuses the key."""
    random.seed(5)
    _past(stage)
    stage.ago(41 * MINUTE)
    stage.upload(
        "tickets/2026-11-23.jsonl",
        405_000_000,
        UploadState.REJECTED,
        "line 1204, column 18: not valid JSON: unexpected end of data",
    )
    stage.ago(22 * MINUTE)
    stage.upload("corpus/all-of-it.jsonl", 9_870_000_000, UploadState.HELD,
                 'larger than one PUT may be (5115MiB); set [drop] shard = "4GiB", or split it at line ends')  # fmt: skip
    stage.ago(12 * MINUTE)
    stage.model("support-qa-70b", "v1", "2026-11-23T01", ModelState.BLOCKED,
                "/srv/axom/models: 38211035136 more bytes must be free for this model and the [mirror] reserve; "
                "the agent goes on by itself when there is room", size=141 * GB, durable=88 * GB)  # fmt: skip
    stage.polled(3 * MINUTE)
    stage.ago(2 * MINUTE)
    stage.problems.report(
        "console",
        "https://console.axomlabs.ai/api refuses the API key (401); rotate it: docs/operating.md",
        time.time() + 25,
    )
    stage.hour(lambda at: (390e6 * _noise(0.85, 1.05) if 0.2 < at < 0.52 else 0.0, 40e6 if 0.3 < at < 0.35 else 0.0))


SCENES: dict[str, Callable[[Stage], None]] = {"empty": empty, "busy": busy, "problem": problem}


@contextmanager
def staged(home: Path, scene: str, web: WebSettings | None = None) -> Iterator[Stage]:
    """The parts that a scene fills."""
    stage = Stage(home, web or WebSettings(listen="127.0.0.1:0"))
    try:
        SCENES[scene](stage)
        stage.ago(0)
        yield stage
    finally:
        stage.ledger.close()


@contextmanager
def shown(home: Path, scene: str) -> Iterator[str]:
    """Show a scene; yields the page's address."""
    with staged(home, scene) as stage, stage.page() as url:
        yield url
