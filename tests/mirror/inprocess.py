"""The mirror's own parts, put together like in the agent, but in this process, and with back-offs that take no time."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from axomsync.config import MirrorSettings
from axomsync.console.client import Console
from axomsync.core.records import Model, ModelFile
from axomsync.ledger import Ledger
from axomsync.mirror.check.scrub import Upkeep
from axomsync.mirror.context import MirrorContext
from axomsync.mirror.fetch.lanes import Lanes
from axomsync.mirror.imports import Arrival
from axomsync.mirror.loop import Mirror
from axomsync.mirror.publish.access import Access
from axomsync.mirror.publish.folder import MirrorFolder
from axomsync.mirror.publish.record import read_record
from axomsync.runtime.gates import Gates
from axomsync.runtime.problems import Problems
from axomsync.runtime.ring import Ring
from axomsync.storage.client import Storage
from tests.rig.agent import eventually
from tests.rig.contexts import worker_context
from tests.rig.faults import KEY, Content, FaultyServer


class MirrorHere:
    """One installation below `home`. Each `sync()` is a new process in effect: only the disk survives it."""

    def __init__(self, home: Path, server: FaultyServer) -> None:
        self.folder, self.state = home / "models", home / "state"
        self.folder.mkdir(parents=True)
        self.settings: dict[str, Any] = {}
        self.stall = 5.0
        self.lanes = 4
        self.patience = 10.0
        self.jitter = 0.0  # the least of full jitter: only pauses that the far side asks for
        self.gates = Gates()
        self.gateways: list[str] = []
        self.ring = Ring()
        self.identity = "here"
        self.told: list[str] = []  # problems that the last pass left
        self.later = 0.0  # seconds by which the wall clock is ahead
        self._server = server

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            print(f"--- requests\n{chr(10).join(map(str, self._server.requests[-60:]))}")

    def sync(self) -> None:
        """Run one pass. Raises the console's refusals."""
        with self.context() as context:
            Mirror(context).run_once()

    def take_in(self, *places: Path) -> list[Arrival]:
        """Import the models in these folders."""
        with self.context() as context:
            return Mirror(context).take_in(places, lambda: None)

    @contextmanager
    def running(self) -> Iterator[Mirror]:
        """One life of the mirror's loop."""
        with self.context() as context:
            mirror = Mirror(context)
            loop = threading.Thread(target=mirror.run)
            loop.start()
            try:
                yield mirror
            finally:
                context.stop.set()
                mirror.wake()
                loop.join()

    def scrub(self) -> None:
        """Run one round of the upkeep: read due models and repair them."""
        with self.context() as context:
            Upkeep(context).scrub(lambda: None)

    @contextmanager
    def context(self) -> Iterator[MirrorContext]:
        """What the mirror's parts share in one life."""
        stop = threading.Event()
        settings = MirrorSettings(**{"folder": self.folder, "reserve": "0B", **self.settings})
        with Ledger(self.state, self._now) as ledger:
            ledger.recover()
            console, storage = Console(self._server.url, lambda: KEY), Storage(loopback=True, stall=self.stall)
            problems = Problems(ledger)
            self.ring = Ring(self.gateways, ledger, problems, random=lambda: 1.0)
            context = worker_context(
                ledger, console, storage, stop=stop, random=self._random, now=self._now,
                gates=self.gates, ring=self.ring, problems=problems, identity=self.identity,
            )  # fmt: skip
            try:
                lanes = Lanes(self.lanes, context, hashes=settings.verify == "etag")
                access = Access(int(settings.mode, 8), settings.group)
                place = MirrorFolder(self.folder, "here", views=settings.views, access=access)
                yield MirrorContext(
                    **vars(context), settings=settings, mirror_folder=place, lanes=lanes, patience=self.patience
                )
            finally:
                stop.set()
                self.told = [f"{problem.subject}: {problem.reason}" for problem in problems.all()]
                console.close()
                storage.close()

    def once_whole(self, files: dict[str, Content]) -> Callable[[], object]:
        """For `Fault.first`: a fault that comes when staging has had these files whole, so that it never overtakes them."""
        staging = self.folder / ".axomsync" / self.identity
        were_whole = threading.Event()  # a last request may be looked at when the test has already damaged one

        def whole() -> bool:
            found = ((content, path) for rel, content in files.items() for path in staging.glob(f"*/{rel}"))
            if not were_whole.is_set() and sum(content.fault_in(path) is None for content, path in found) == len(files):
                were_whole.set()
            return were_whole.is_set()

        return lambda: eventually(f"whole: {', '.join(files)}", whole)

    def model(self, model_id: str) -> Model:
        """The ledger's row of a model."""
        return next(model for model in self._ledger().models() if model.id == model_id)

    def models(self) -> list[Model]:
        models: list[Model] = self._ledger().models()
        return models

    def proofs(self, model_id: str) -> dict[str, str]:
        """The proofs of a model's files in its record."""
        record = read_record(Path(self.model(model_id).path or ""))
        assert record is not None
        return {rel: str(proof) for rel, proof in record.proofs.items()}

    def files(self, model_id: str) -> list[ModelFile]:
        return self._ledger().files(model_id)

    def reader(self) -> Any:
        """A reader of the ledger, as other processes have it."""
        return self._ledger()

    def _random(self) -> float:
        return self.jitter

    def _now(self) -> float:
        return time.time() + self.later

    def _ledger(self) -> Any:
        from axomsync.ledger import Reader

        return Reader(self.state / "state.db")
