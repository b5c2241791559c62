"""Facts for the status page, its event stream and the metrics. Reads the ledger with its own connection.

Failures handled: a ledger that can't be written (the agent's problems come from its memory), a filesystem that does not
answer (see `core.disks`).
"""

import time
from collections.abc import Callable, Container, Iterable
from typing import Any

import orjson

from axomsync.config import Settings
from axomsync.core.disks import disk_of
from axomsync.core.records import Problem, Published
from axomsync.ledger import Reader
from axomsync.runtime.heartbeat import Liveness
from axomsync.runtime.problems import Problems
from axomsync.runtime.throughput import PIECE_SECONDS, Throughput
from axomsync.status.documents import event_document, model_document, upload_document
from axomsync.status.promotions import led_among
from axomsync.status.report import disks_in_use, problems_of_disks, status_document

ROWS_MOST = 100  # models, uploads and events each; the command line lists all
AGENT_SUBJECTS = frozenset({"agent", "console", "drop folder", "ledger", "mirror folder"})

Document = dict[str, Any]


class Facts:
    """The facts. Usable from any thread. Methods that read the ledger raise `LocalFault` when it can't be read.

    `facts_set` are the names of the facts that this process has set in the ledger.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Reader,
        liveness: Liveness,
        throughput: Throughput,
        problems: Problems,
        facts_set: Container[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings, self.ledger = settings, ledger
        self._liveness, self._throughput, self._problems, self._clock = liveness, throughput, problems, clock
        self._facts_set = facts_set

    def version(self) -> tuple[object, ...]:
        """A value that differs after each change."""
        return (self.ledger.version(), *self._problems.all())

    def sections(self) -> dict[str, Any]:
        """Parts of the page by name; each is sent again when it changes."""
        models = self.ledger.latest_models(ROWS_MOST)
        led = self.led([model.path for model in models], "page")
        return {
            "status": self.status(),
            "models": [model_document(model, led) for model in models],
            "uploads": [upload_document(upload) for upload in self.ledger.latest_uploads(ROWS_MOST)],
            "events": [event_document(line) for line in self.ledger.history(ROWS_MOST)],
            "throughput": {"seconds": PIECE_SECONDS, **self._throughput.rates(self._clock())},
        }

    def whole(self) -> Document:
        """`axomsync status --json` with the other parts of the page."""
        sections = self.sections()
        return {**sections.pop("status"), **sections}

    def status(self) -> Document:
        """`axomsync status --json`."""
        return status_document(self.settings, self.ledger, problems=self._problems.all())

    def published(self) -> list[Published]:
        """Published models."""
        return self.ledger.published()

    def led(self, paths: Iterable[str | None], what: str = "metrics") -> frozenset[str]:
        """Those of `paths` that `current` leads to; the last known ones to `what` while the disk does not answer."""
        mirror = self.settings.mirror
        there = [path for path in paths if path is not None]
        return led_among(there, disk_of(mirror.folder), what) if mirror.enabled else frozenset()

    def free_bytes(self) -> dict[str, int | None]:
        """Free bytes by the section that names the folder, if it is in use; None when it is missing or does not answer."""
        return {name: disk.look().free_bytes for name, disk in disks_in_use(self.settings).items()}

    def problems(self) -> list[Problem]:
        """Problems of the agent, and filesystems that do not answer."""
        return self._problems.all() + problems_of_disks(self.settings)

    def hanging(self) -> list[str]:
        """Names of the workers that make no progress."""
        return self._liveness.hanging()

    def obstacles(self) -> list[str]:
        """Problems of the whole agent; empty when it is ready. Reads memory alone."""
        found = [f"{p.subject}: {p.reason}" for p in self._problems.all() if p.subject in AGENT_SUBJECTS]
        if not found and self.settings.mirror.enabled and "last_poll" not in self._facts_set:
            found.append("console: no answer yet")
        return found


def as_json(document: object) -> bytes:
    """Encode JSON on one line, as server-sent events need it."""
    return orjson.dumps(document)
