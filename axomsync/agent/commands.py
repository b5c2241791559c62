"""Commands for a running agent from other processes, see `requests`.

Failures handled: a target that names nothing, or whose state does not allow the command, one name of several contents that
are to be forgotten (`Rejected`), a direction that is off, a mirror whose old workers have not ended (`Transient`).
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from axomsync.agent.pause import Pause
from axomsync.agent.requests import NAMED_MOST, Request, Verb
from axomsync.agent.workers import MIRROR, Shared, Workers
from axomsync.core.errors import Rejected, Transient
from axomsync.core.text import iso, printable
from axomsync.drop import forgetting
from axomsync.mirror.check.scrub import Upkeep
from axomsync.mirror.loop import Mirror
from axomsync.runtime.heartbeat import Beat
from axomsync.status.documents import arrival_document
from axomsync.status.targets import Targets, find, is_under_way, may_be_retried, name_of


class Commands:
    """Executes the commands. `workers` returns the current workers: a reload exchanges them."""

    def __init__(self, shared: Shared, workers: Callable[[], Workers], pause: Pause) -> None:
        self._shared, self._workers, self._pause_of_agent = shared, workers, pause

    def verbs(self) -> Mapping[str, Verb]:
        """All commands by name."""
        return {
            "pause": Verb(self._pause),
            "resume": Verb(self._resume),
            "poll": Verb(self._poll),
            "retry": Verb(self._retry),
            "forget": Verb(self._forget),
            "pull": Verb(self._pull, long=True),
            "import": Verb(self._import, long=True),
            "prune": Verb(self._prune, long=True),
            "repair": Verb(self._repair, long=True),
            "push": Verb(self._push),
        }

    def _pause(self, request: Request, beat: Beat) -> dict[str, Any]:
        seconds = request.parameters.get("seconds")
        if seconds is None:
            self._pause_of_agent.begin(float("inf"))
            return {"paused_until": None}
        return {"paused_until": iso(self._pause_of_agent.begin(float(seconds)))}

    def _resume(self, request: Request, beat: Beat) -> dict[str, Any]:
        self._pause_of_agent.end()
        return {}

    def _poll(self, request: Request, beat: Beat) -> dict[str, Any]:
        self._workers().hurry()
        return {}

    def _retry(self, request: Request, beat: Beat) -> dict[str, Any]:
        targets = self._targets(request.argument)
        tried = targets.only(may_be_retried)
        if request.argument is not None and not tried.rows:
            raise Rejected("; ".join(f"{name_of(row)} is {row.state}" for row in targets.rows))
        self._shared.ledger.retry((row.id for row in tried.uploads), (row.id for row in tried.models))
        self._workers().hurry()
        return {"retried": [name_of(row) for row in tried.rows]}

    def _forget(self, request: Request, beat: Beat) -> dict[str, Any]:
        targets, drop, ledger = self._targets(request.argument), self._workers().settings.drop, self._shared.ledger
        if len({upload.sha256 or upload.path for upload in targets.uploads}) > 1:
            named = sorted(map(name_of, targets.uploads))
            more = f" and {len(named) - NAMED_MOST} more" * (len(named) > NAMED_MOST)
            raise Rejected(
                f"{printable(request.argument or '')}: {len(named)} files with different contents have this name: "
                f"{', '.join(named[:NAMED_MOST])}{more}; name one by its path"
            )
        targets = Targets(tuple(forgetting.all_of(targets.uploads, ledger.read, drop)), targets.models)
        at_work = self._workers().at_work()
        if busy := [name_of(row) for row in targets.rows if is_under_way(row) or row.id in at_work]:
            raise Rejected(f"{', '.join(busy)}: under way; `axomsync pause` first")
        forgetting.forget_on_disk(targets.uploads, drop, self._shared.identity, time.time(), beat)
        ledger.strike((row.id for row in targets.uploads), (row.id for row in targets.models))
        self._workers().hurry()
        return {"forgotten": [name_of(row) for row in targets.rows]}

    def _push(self, request: Request, beat: Beat) -> list[int]:
        intake = self._workers().intake
        if intake is None:
            raise Rejected("this agent does not upload ([drop] enabled = false)")
        return intake.push(map(Path, request.parameters["paths"]))

    def _targets(self, target: str | None) -> Targets:
        settings, read = self._workers().settings, self._shared.ledger.read
        if target is None:
            return Targets(tuple(read.uploads_in_drop()), tuple(read.models()))
        return find(read, target, settings.drop.folder, settings.mirror.folder)

    def _pull(self, request: Request, beat: Beat) -> dict[str, Any]:
        model = self._mirror()[0].pull(request.argument or "", beat)
        return {"id": model.id, "path": model.path}

    def _import(self, request: Request, beat: Beat) -> list[dict[str, Any]]:
        arrivals = self._mirror()[0].take_in(map(Path, request.parameters["paths"]), beat)
        return list(map(arrival_document, arrivals))

    def _prune(self, request: Request, beat: Beat) -> dict[str, Any]:
        removed, spared = self._mirror()[0].prune(dry_run=bool(request.parameters.get("dry_run")))
        return {"removed": removed, "spared": spared}

    def _repair(self, request: Request, beat: Beat) -> dict[str, Any]:
        self._mirror()[1].repair(request.argument or "", beat)
        return {}

    def _mirror(self) -> tuple[Mirror, Upkeep]:
        workers = self._workers()
        if workers.mirror is None or workers.upkeep is None:
            raise Rejected("this agent does not mirror ([mirror] enabled = false)")
        if MIRROR in workers.waiting:
            raise Transient("the mirror waits for the end of its old work, see `axomsync status`; ask again after that")
        return workers.mirror, workers.upkeep
