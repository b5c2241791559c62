"""The agent's status page: built from the agent's shared objects, opened and closed with the agent.

Failures handled: a ledger that can't store the page's address (the page still works); all others: see `web`.
"""

from contextlib import suppress
from typing import TYPE_CHECKING

from axomsync.agent.workers import Shared
from axomsync.config import Settings
from axomsync.core.errors import LocalFault
from axomsync.ledger import Reader
from axomsync.runtime.throughput import Throughput

if TYPE_CHECKING:
    from axomsync.web.page import Page
    from axomsync.web.server import Server


class StatusPage:
    """The page between `open` and `close`, if configured."""

    def __init__(self, shared: Shared, throughput: Throughput) -> None:
        self._shared, self._throughput = shared, throughput
        self._page: Page | None = None

    def open(self, settings: Settings) -> None:
        """Listen as soon as possible, if an address is configured."""
        if not settings.web.listen:
            self._shared.problems.clear("status page")
            self._announce(None)
            return
        from axomsync.web.page import Page  # here, since this import is slow

        self._page = Page(
            settings.web, lambda token: self._build_server(settings, token), self._shared.problems, self._announce
        )
        self._page.start()

    def close(self) -> None:
        """Free the address; browsers reconnect by themselves."""
        if self._page is not None:
            self._page.stop()
            self._page = None

    def _announce(self, url: str | None) -> None:
        with suppress(LocalFault):
            self._shared.ledger.set_facts(page=url)

    def _build_server(self, settings: Settings, token: str | None) -> "Server":
        from axomsync.ops.metrics import AgentCollector, registry
        from axomsync.web.facts import Facts
        from axomsync.web.server import Server

        shared = self._shared
        facts = Facts(
            settings,
            Reader(shared.ledger.path),
            shared.liveness,
            self._throughput,
            shared.problems,
            shared.ledger.facts_set,
        )
        told = AgentCollector(
            facts.status,
            facts.hanging,
            shared.meter.totals,
            shared.ledger.transitions,
            facts.free_bytes,
            facts.problems,
            ring=shared.ring,
            published=facts.published,
            led=facts.led,
            poll_seconds=settings.mirror.poll if settings.mirror.enabled else 0.0,
        )
        return Server(facts, registry(told), token)
