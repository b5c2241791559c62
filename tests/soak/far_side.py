"""The far side of a soak: `tests.rig.faults`, where a part of all answers is wrong in one of the ways of the tortures."""

import hashlib
import socket
from datetime import UTC, datetime
from random import Random
from typing import Any

from tests.rig.faults import Content, Fault, FaultyServer, Request
from tests.soak.plan import Progress, Published
from tests.torture.wrong_answers import FAULTS


class SoakServer(FaultyServer):
    """`failing` is the share of requests that get a wrong answer. Uploads are kept as digests, and requests only counted."""

    def __init__(self, progress: Progress, failing: float) -> None:
        super().__init__(socket.create_server(("127.0.0.1", progress.ports[0]), backlog=256))
        self.failing = failing
        self._progress = progress
        self._dice = Random()
        self._documents: list[dict[str, Any]] = []  # of all versions, oldest first
        self.follow()

    def follow(self) -> None:
        """List what is to be listed now."""
        for version in self._progress.versions[len(self._documents) :]:
            self._add(version)
        documents = zip(self._progress.versions, self._documents, strict=True)
        self.models = [document for version, document in documents if version.listed][::-1]

    def digest(self) -> list[Request]:
        """Count the requests since the last call, and returns them; of what was uploaded only the digest stays."""
        done, self.requests = self.requests, []
        self._progress.requests += len(done)
        for key in [key for key in list(self.objects) if key.startswith("tmp/")]:
            self._progress.uploads[key] = hashlib.sha256(self.objects.pop(key).content.read()).hexdigest()
        return done

    def _add(self, version: Published) -> None:
        files = {rel: Content(size, number) for rel, (size, number) in version.files.items()}
        self.add_model(version.name, version.version, files, part_size=version.part)
        document = self.models.pop(0)
        made = datetime.fromtimestamp(1_700_000_000 + 60 * len(self._documents), UTC)
        self._documents.append(document | {"created_at": made.isoformat()})

    def _fault_for(self, request: Request) -> Fault:
        with self._lock:
            if self._dice.random() >= self.failing:
                return Fault()
            self._progress.faults += 1
        return self._dice.choice([f for method, path, f in FAULTS if method == request.method and path in request.path])
