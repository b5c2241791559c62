"""The signed URLs of one model while it is fetched.

Failures handled: URLs that expire or are refused (one lane asks for new ones, the others wait for them), a manifest that
lists other files the second time (`ManifestChanged`).
"""

import threading
from collections.abc import Callable

from axomsync.core.errors import SourceChanged
from axomsync.core.policy import worth_starting
from axomsync.core.records import Manifest
from axomsync.transport.http import host_of

FRESH_SECONDS = 60.0


class ManifestChanged(SourceChanged):
    """The console lists other files, or other sizes, than when the model was begun."""


class SignedUrls:
    """The signed URLs of one model, asked for again when they expire; by one lane, while the others wait."""

    def __init__(self, manifest: Manifest, ask: Callable[[], Manifest], clock: Callable[[], float]) -> None:
        self._ask, self._clock = ask, clock
        self._lock = threading.Lock()
        self._sizes = {file.rel: file.size for file in manifest.files}
        self._generation = 0
        self._stale = False
        self._take_in(manifest)

    def url(self, rel: str) -> tuple[str, int, bool]:
        """A URL for `rel` that is worth starting on, its generation, and whether it is fresh: just given and unused."""
        with self._lock:
            file = self._files[rel]
            if self._stale or not worth_starting(self._clock() - self._arrived, file.expires_in, rel in self._used):
                manifest = self._ask()
                if {file.rel: file.size for file in manifest.files} != self._sizes:
                    raise ManifestChanged("the model's files changed while they were fetched")
                self._generation += 1
                self._take_in(manifest)
            self._used.add(rel)
            fresh = rel not in self._worked and self._clock() - self._arrived < FRESH_SECONDS
            return self._files[rel].url, self._generation, fresh

    def worked(self, rel: str) -> None:
        """Storage answered a request with the URL of `rel`."""
        with self._lock:
            self._worked.add(rel)

    def host(self, rel: str) -> str:
        """The storage host that has `rel`."""
        return host_of(self._files[rel].url)

    def refused(self, generation: int) -> None:
        """Storage refused a URL of that generation."""
        with self._lock:
            self._stale = self._stale or generation == self._generation

    def renew(self) -> None:
        """Ask for new URLs before the next request."""
        with self._lock:
            self._stale = True

    def _take_in(self, manifest: Manifest) -> None:
        self._files = {file.rel: file for file in manifest.files}
        self._arrived, self._stale = self._clock(), False
        self._used: set[str] = set()
        self._worked: set[str] = set()
