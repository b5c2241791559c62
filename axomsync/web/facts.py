"""Facts for the status page, its event stream and the metrics. Reads the ledger with its own connection.

Failures handled: a ledger that can't be written (the agent's problems come from its memory).
"""

import time
from collections.abc import Callable
from typing import Any

import orjson

from axomsync.config import Settings
from axomsync.core.records import Published
from axomsync.ledger import Reader
from axomsync.runtime.heartbeat import Liveness
from axomsync.runtime.problems import Problems
from axomsync.runtime.throughput import PIECE_SECONDS, Throughput
from axomsync.status.documents import event_document, model_document, upload_document
from axomsync.status.report import free_bytes, status_document

ROWS_MOST = 100  # models, uploads and events each; the command line lists all
AGENT_SUBJECTS = frozenset({"agent", "console", "drop folder", "ledger", "mirror folder"})

Document = dict[str, Any]


class Facts:
    """The facts. Usable from any thread. Methods that read the ledger raise `LocalFault` when it can't be read."""

    def __init__(
        self,
        settings: Settings,
        ledger: Reader,
        liveness: Liveness,
        throughput: Throughput,
        problems: Problems,
        polled_before: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings, self.ledger = settings, ledger
        self._liveness, self._throughput, self._problems, self._clock = liveness, throughput, problems, clock
        self._polled_before = polled_before  # the fact `last_poll` of an earlier process

    def version(self) -> tuple[object, ...]:
        """A value that differs after each change."""
        return (self.ledger.version(), *self._problems.all())

    def sections(self) -> dict[str, Any]:
        """Parts of the page by name; each is sent again when it changes."""
        return {
            "status": self.status(),
            "models": [model_document(model) for model in self.ledger.latest_models(ROWS_MOST)],
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

    def free_bytes(self) -> dict[str, int | None]:
        """Free bytes by the section that names the folder; None when it is missing."""
        s = self.settings
        return {name: free_bytes(str(folder)) for name, folder in (
            ("drop", s.drop.folder), ("mirror", s.mirror.folder), ("state", s.state.folder)
        )}  # fmt: skip

    def hanging(self) -> list[str]:
        """Names of the workers that make no progress."""
        return self._liveness.hanging()

    def obstacles(self) -> list[str]:
        """Problems of the whole agent; empty when it is ready."""
        found = [f"{p.subject}: {p.reason}" for p in self._problems.all() if p.subject in AGENT_SUBJECTS]
        if found:  # before the ledger is read, which may fail
            return found
        if self.settings.mirror.enabled and self.ledger.facts().get("last_poll") in (None, self._polled_before):
            found.append("console: no answer yet")
        return found


def as_json(document: object) -> bytes:
    """Encode JSON on one line, as server-sent events need it."""
    return orjson.dumps(document)
