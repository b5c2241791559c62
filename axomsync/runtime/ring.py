"""The gateways of `[transfer] gateways`, and how each of them does: the way for each request, hold-outs, counters.

A request goes to the owner of its block (`transport.gateways`). A gateway that fails is held out for a while, longer each
time; then one request tries it while the others still go around it. When storage fails as well, gateways that only told so
are not held out any longer. The list may change at any time.

Failures handled: a gateway that can't be reached, that answers nonsense, that breaks off again and again, that gives wrong
bytes, that does not serve a host of storage; a ledger that can't store what `status` shows (the next change is stored
again).
"""

import json
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import random as any_chance

from axomsync.core.awake import awake_seconds
from axomsync.core.errors import LocalFault
from axomsync.ledger import Ledger
from axomsync.ledger.facts import GATEWAYS
from axomsync.runtime.problems import Problems
from axomsync.transport.gateways import block_end, owners
from axomsync.transport.http import host_of

SUBJECT = "gateways"
FIRST_HOLD_SECONDS, LONGEST_HOLD_SECONDS = 5.0, 300.0
WRONG_BYTES_SECONDS = 600.0
PROBE_SECONDS = 35.0  # a request that tries a gateway again may be silent for so long
BROKEN_OFF_MOST = 3  # bodies in a row that ended early; one may have met the end of a link's life
SHOWN_MOST = 5
RESULTS = ("owner", "next", "storage", "wrong")  # where bytes came from; "wrong": of these, those that were thrown away


@dataclass(frozen=True)
class Way:
    """How to ask for bytes up to `end`: through a gateway, or storage itself."""

    end: int
    gateway: str | None = None
    result: str = "storage"


@dataclass(frozen=True)
class GatewayState:
    """A gateway as `status` shows it; `reason` tells why it is not asked."""

    gateway: str
    up: bool
    reason: str | None


@dataclass(slots=True)
class _Record:
    failures: int = 0
    broken_off: int = 0
    held_until: float = 0.0
    distrusted_until: float = 0.0  # after wrong bytes: no answer ends that early
    probed_until: float = 0.0
    reason: str | None = None
    is_storage: bool = False  # it only told that it does not get an answer from storage
    refused: dict[str, tuple[float, str]] = field(default_factory=dict)  # by storage's host: until when, and its words

    def is_free(self, now: float, host: str) -> bool:
        until, _ = self.refused.get(host, (0.0, ""))
        return now >= max(self.held_until, self.probed_until, until)

    def recover(self) -> None:
        self.failures, self.broken_off, self.reason, self.is_storage = 0, 0, None, False
        self.held_until = self.probed_until = 0.0


class Ring:
    """All gateways. Usable from any thread. `clock` gives `awake_seconds`, `random` yields 0 ≤ x < 1."""

    def __init__(
        self,
        gateways: Sequence[str] = (),
        ledger: Ledger | None = None,
        problems: Problems | None = None,
        *,
        clock: Callable[[], float] = awake_seconds,
        random: Callable[[], float] = any_chance,
    ) -> None:
        self._ledger, self._problems, self._clock, self._random = ledger, problems, clock, random
        self._telling = threading.Lock()  # the newest state is told last
        self._lock = threading.Lock()  # guards all below
        self._records: dict[str, _Record] = {}
        self._moved: Counter[str] = Counter()
        self.change(gateways)

    def change(self, gateways: Sequence[str]) -> None:
        """Use this list from the next request on."""
        with self._lock:
            self._records = {gateway: self._records.get(gateway, _Record()) for gateway in gateways}
        self._tell()

    @property
    def is_there(self) -> bool:
        """True when there is any gateway."""
        return bool(self._records)

    def way(self, url: str, position: int, end: int, barred: Collection[str] = ()) -> Way:
        """The way for bytes of the object at `url`, from `position` on; `barred` gateways gave wrong bytes of this block."""
        with self._lock:
            now, host = self._clock(), host_of(url)
            order = owners(self._records, url, position)
            chosen = next((one for one in order if one not in barred and self._records[one].is_free(now, host)), None)
            if chosen is None:
                return Way(block_end(position, end) if order else end)
            record = self._records[chosen]
            if record.failures:
                record.probed_until = now + PROBE_SECONDS
            return Way(block_end(position, end), chosen, "owner" if chosen == order[0] else "next")

    def count(self, result: str, count: int) -> None:
        """Count bytes that came by a way with this `result`."""
        if self._records:
            with self._lock:
                self._moved[result] += count

    def worked(self, gateway: str, url: str = "") -> None:
        """Note that a request for `url` through a gateway was answered to its end."""
        with self._lock:
            record = self._records.get(gateway)
            if record is None or not (record.failures or record.broken_off or record.refused):
                return
            if self._clock() < record.distrusted_until:
                return  # the request was under way when another one found the wrong bytes
            is_served = record.refused.pop(host_of(url), None) is not None
            is_news = is_served or record.failures > 0
            record.recover()
        if is_news:
            self._tell()

    def refused(self, gateway: str, url: str, reason: str) -> None:
        """Note that a gateway does not serve the host of `url`: for other hosts it is asked as before."""
        with self._lock:
            record = self._records.get(gateway)
            if record is None:
                return
            known = record.refused.get(host_of(url))
            record.refused[host_of(url)] = (self._clock() + LONGEST_HOLD_SECONDS, reason)
        if known is None:
            self._tell()

    def broke_off(self, gateway: str, reason: str) -> None:
        """Note that a body ended early. The rest is asked for again; a gateway that goes on so is held out."""
        with self._lock:
            record = self._records.get(gateway)
            if record is None:
                return
            record.broken_off, record.probed_until = record.broken_off + 1, 0.0
            again = record.broken_off < BROKEN_OFF_MOST
        if not again:
            self.failed(gateway, reason)

    def failed(self, gateway: str, reason: str, *, is_storage: bool = False) -> None:
        """Hold a gateway out; requests that fail at the same time count once."""
        with self._lock:
            record, now = self._records.get(gateway), self._clock()
            if record is None or now < record.held_until:
                return
            record.failures += 1
            longest = FIRST_HOLD_SECONDS if is_storage else LONGEST_HOLD_SECONDS  # when storage is back, so are they
            pause = min(longest, FIRST_HOLD_SECONDS * 2.0 ** min(record.failures - 1, 10))
            record.held_until, record.probed_until = now + pause * (0.5 + self._random() / 2), 0.0
            record.broken_off, record.reason, record.is_storage = 0, reason, is_storage
        self._tell()

    def gave_wrong_bytes(self, gateway: str, what: str) -> None:
        """Hold out a gateway whose bytes differ from those that storage vouches for."""
        with self._lock:
            record = self._records.get(gateway)
            if record is None:
                return
            record.failures += 1
            record.distrusted_until = self._clock() + WRONG_BYTES_SECONDS
            record.held_until = max(record.held_until, record.distrusted_until)
            record.reason, record.is_storage = f"it gave wrong bytes of {what}; empty its cache, and check its disk", False
        self._tell()

    def storage_fails_too(self) -> None:
        """Note that storage itself does not answer: gateways that told so are right, and all boxes need them afterwards."""
        with self._lock:
            for record in self._records.values():
                if record.is_storage:
                    record.held_until = 0.0

    def totals(self) -> Mapping[str, int]:
        """Bytes by where they came from, since the start."""
        with self._lock:
            return {result: self._moved[result] for result in RESULTS}

    def states(self) -> list[GatewayState]:
        """All gateways as they are now, in the order of the list."""
        with self._lock:
            return [
                GatewayState(gateway, not (one.failures or one.refused), one.reason or _words(one.refused.values()))
                for gateway, one in self._records.items()
            ]

    def _tell(self) -> None:
        """Tell `status` and the list of problems; not under the lock of the records, since the ledger may be slow."""
        with self._telling:
            self._tell_states(self.states())

    def _tell_states(self, states: Sequence[GatewayState]) -> None:
        if self._ledger is not None:
            told = [{"gateway": one.gateway, "up": one.up, "reason": one.reason} for one in states]
            with suppress(LocalFault):
                self._ledger.set_facts(**{GATEWAYS: json.dumps(told) if told else None})
        if self._problems is None:
            return
        if down := [one for one in states if not one.up]:
            words = [f"{one.gateway}: {one.reason}" for one in down[:SHOWN_MOST]]
            words += [f"and {len(down) - SHOWN_MOST} more"] if len(down) > SHOWN_MOST else []
            self._problems.report(SUBJECT, f"{' · '.join(words)}; the next gateway, then storage, is asked instead")
        else:
            self._problems.clear(SUBJECT)


def _words(refused: Iterable[tuple[float, str]]) -> str | None:
    return "; ".join(words for _, words in refused) or None
