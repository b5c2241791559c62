"""What the status page, its event stream and the metrics tell. Reads the ledger with a connection of its own.

Failures handled: a ledger that can't be written (the agent's problems come from its memory).
"""

import time
from collections.abc import Callable
from typing import Any

import orjson

from axomsync.config import Settings
from axomsync.ledger import Reader
from axomsync.runtime.heartbeat import Liveness
from axomsync.runtime.problems import Problems
from axomsync.runtime.throughput import PIECE_SECONDS, Throughput
from axomsync.status.documents import event_document, model_document, upload_document
from axomsync.status.report import free_bytes, status_document

ROWS_MOST = 100  # models, uploads and events each: more is for the command line
AGENT_SUBJECTS = frozenset({"agent", "console", "drop folder", "ledger", "mirror folder"})

Document = dict[str, Any]


class Facts:
    """Usable from any thread. Everything that reads the ledger raises `LocalFault` when it can't be read."""

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
        self._polled_before = polled_before  # the fact `last_poll`, as an earlier life of the agent left it

    def version(self) -> tuple[object, ...]:
        """Another one once there is something new to tell."""
        return (self.ledger.version(), *self._problems.all())

    def sections(self) -> dict[str, Any]:
        """The parts of the page; each is sent anew when it changes."""
        return {
            "status": self.status(),
            "models": [model_document(model) for model in self.ledger.latest_models(ROWS_MOST)],
            "uploads": [upload_document(upload) for upload in self.ledger.latest_uploads(ROWS_MOST)],
            "events": [event_document(line) for line in self.ledger.history(ROWS_MOST)],
            "throughput": {"seconds": PIECE_SECONDS, **self._throughput.rates(self._clock())},
        }

    def whole(self) -> Document:
        """`axomsync status --json`, and the rest of what the page shows."""
        sections = self.sections()
        return {**sections.pop("status"), **sections}

    def status(self) -> Document:
        """`axomsync status --json`."""
        return status_document(self.settings, self.ledger, problems=self._problems.all())

    def free_bytes(self) -> dict[str, int | None]:
        """Free space by the section that names the folder, None when it is missing."""
        s = self.settings
        return {name: free_bytes(str(folder)) for name, folder in (
            ("drop", s.drop.folder), ("mirror", s.mirror.folder), ("state", s.state.folder)
        )}  # fmt: skip

    def hanging(self) -> list[str]:
        """Workers that make no progress."""
        return self._liveness.hanging()

    def obstacles(self) -> list[str]:
        """What keeps the agent as a whole from its work; nothing when it is ready."""
        found = [f"{p.subject}: {p.reason}" for p in self._problems.all() if p.subject in AGENT_SUBJECTS]
        if found:  # whether the ledger can be read or not
            return found
        if self.settings.mirror.enabled and self.ledger.facts().get("last_poll") in (None, self._polled_before):
            found.append("console: not asked yet")
        return found


def as_json(document: object) -> bytes:
    """JSON on one line, as server-sent events need it."""
    return orjson.dumps(document)
