"""The signed URLs of one model during its download.

Failures handled: URLs that expire or are refused (one lane asks for new ones, the others wait), a second manifest with
other files (`ManifestChanged`).
"""

import threading
from collections.abc import Callable

from axomsync.core.errors import SourceChanged
from axomsync.core.policy import worth_starting
from axomsync.core.records import Manifest
from axomsync.transport.http import host_of

FRESH_SECONDS = 60.0


class ManifestChanged(SourceChanged):
    """The console lists other files, or other sizes, than at the start of the download."""


class SignedUrls:
    """The signed URLs of one model. When they expire, one lane asks for new ones while the others wait."""

    def __init__(self, manifest: Manifest, ask: Callable[[], Manifest], clock: Callable[[], float]) -> None:
        self._ask, self._clock = ask, clock
        self._lock = threading.Lock()
        self._sizes = {file.rel: file.size for file in manifest.files}
        self._generation = 0
        self._stale = False
        self._take_in(manifest)

    def url(self, rel: str) -> tuple[str, int, bool]:
        """A usable URL for `rel`, its generation, and whether it is fresh: new and not yet used."""
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
        """Note that storage answered a request with the URL of `rel`."""
        with self._lock:
            self._worked.add(rel)

    def host(self, rel: str) -> str:
        """The storage host of `rel`."""
        return host_of(self._files[rel].url)

    def refused(self, generation: int) -> None:
        """Note that storage refused a URL of that generation."""
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
