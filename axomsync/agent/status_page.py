"""The status page of an agent: built from what the agent knows, opened and closed with it.

Failures handled: a ledger that can't be told the page's address (the page is served all the same); the others, see `web`.
"""

from collections.abc import Mapping
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
    """Open between `open` and `close`, if the configuration has one. `facts` are the ledger's when the agent started."""

    def __init__(self, shared: Shared, throughput: Throughput, facts: Mapping[str, str | None]) -> None:
        self._shared, self._throughput = shared, throughput
        self._polled_before = facts.get("last_poll")
        self._page: Page | None = None

    def open(self, settings: Settings) -> None:
        """Listen as soon as possible, if there is an address."""
        if not settings.web.listen:
            self._shared.problems.clear("status page")
            self._announce(None)
            return
        from axomsync.web.page import Page  # here, since its import takes a while

        self._page = Page(
            settings.web, lambda token: self._build_server(settings, token), self._shared.problems, self._announce
        )
        self._page.start()

    def close(self) -> None:
        """Let go of the address; whoever watches comes back by itself."""
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
            self._polled_before,
        )
        told = AgentCollector(
            facts.status,
            facts.hanging,
            shared.meter.totals,
            shared.ledger.transitions,
            facts.free_bytes,
            shared.problems.all,
        )
        return Server(facts, registry(told), token)
