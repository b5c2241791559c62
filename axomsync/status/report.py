"""The document of `axomsync status --json`. Reads the ledger, and asks the disks with patience; it works without an agent.

Failures handled: a filesystem that does not answer (told as a problem; what it would have said is left out).
"""

import math
import os
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import orjson

from axomsync import __version__
from axomsync.config import Settings
from axomsync.core.disks import Disk, Look, disk_of
from axomsync.core.errors import LocalFault
from axomsync.core.filesystems import leads_to_folder
from axomsync.core.paths import LEDGER_FILE, REJECTS
from axomsync.core.policy import LONGEST_WAIT_SECONDS
from axomsync.core.records import ModelState, Problem, Upload, UploadState
from axomsync.core.states import STUCK_MODELS
from axomsync.core.text import iso, printable
from axomsync.ledger import Reader, holder, ledger_fault, trouble_of
from axomsync.ledger.facts import GATEWAYS, LAST_PRESIGN, LEFT_ALONE, PAUSE_ENDS, PAUSE_SECONDS, PUT_AWAY, number_in
from axomsync.status.documents import Document, gateway_documents, transfer_document
from axomsync.status.promotions import trial_documents, waiting_among

REJECTS_MOST = 100  # rejected files listed as problems; `uploads` lists all


def status_document(
    settings: Settings, ledger: Reader | None, unready: str | None = None, problems: Iterable[Problem] | None = None
) -> Document:
    """Return the document; `ledger` is None before the first start of an agent, or for the reason `unready`.

    The agent passes its own `problems`; other callers read them from the ledger, and the ledger's own from a flag.
    """
    pid = holder(settings.state.folder)
    facts: Mapping[str, str | None] = ledger.facts() if ledger else {}
    of_agent = list(problems if problems is not None else _problems_by_ledger(settings.state.folder, ledger))
    if unready:
        of_agent.append(Problem("ledger", unready, time.time(), None))
    if pid is None and (ledger is not None or unready):
        of_agent += _problems_of_folders(settings, {problem.subject for problem in of_agent})
    looks = {name: disk.look() for name, disk in disks_in_use(settings).items() if name != "state"}
    of_rows = _problems_of_rows(ledger, settings) if ledger else []
    waits = _waiting(ledger, settings) if ledger else []
    of_agent += problems_of_disks(settings)  # last: each question above may be the one that gets no answer
    told = [_problem(p.subject, p.reason, p.since, p.next_attempt) for p in of_agent]
    return _status(settings, ledger, pid, facts, told + of_rows, looks, waits)


def disks_in_use(settings: Settings) -> dict[str, Disk]:
    """Return the filesystems of the folders by section; one of a direction that is off is no concern of the agent's."""
    parts = (("drop", settings.drop), ("mirror", settings.mirror))
    folders = {name: part.folder for name, part in parts if part.enabled} | {"state": settings.state.folder}
    return {name: disk_of(folder) for name, folder in folders.items()}


def problems_of_disks(settings: Settings) -> list[Problem]:
    """Return a problem for each filesystem that was asked and does not answer."""
    silent = ((name, disk, disk.silent_since()) for name, disk in disks_in_use(settings).items())
    return [
        Problem(f"{name} folder's filesystem", str(disk.fault()), since, None)
        for name, disk, since in silent
        if since is not None
    ]


def _problems_of_folders(settings: Settings, known: Container[str]) -> Iterator[Problem]:
    """Yield the problems of folders that an agent would report. An agent makes no folder: it may be one to be mounted."""
    for section, part in (("drop", settings.drop), ("mirror", settings.mirror)):
        subject = f"{section} folder"
        if not part.enabled or subject in known:
            continue
        folder = part.folder
        if (reason := disk_of(folder).ask(partial(_why_no_folder, folder, section), None)) is not None:
            yield Problem(subject, reason, time.time(), None)


def _why_no_folder(folder: Path, section: str) -> str | None:
    try:
        if leads_to_folder(folder):
            return None
        what = "not a folder; move it away" if os.path.lexists(folder) else "not there; create it"
    except LocalFault as fault:
        return str(fault)
    return f"{folder}: it is {what}, or correct [{section}] folder"


def _waiting(ledger: Reader, settings: Settings) -> list[Document]:
    mirror = settings.mirror
    if not mirror.enabled or mirror.promote == "now":
        return []
    disk = disk_of(mirror.folder)
    look = partial(waiting_among, ledger.published(), mirror.promote, time.time(), disk)
    return disk.ask_or_remember("waiting", look, [])


def _problems_by_ledger(state: Path, ledger: Reader | None) -> list[Problem]:
    found = ledger.problems() if ledger else []
    trouble = trouble_of(state)
    if trouble is not None and all(problem.subject != "ledger" for problem in found):
        found.append(Problem("ledger", str(ledger_fault(state / LEDGER_FILE, trouble)), time.time(), None))
    return found


def _status(
    settings: Settings,
    ledger: Reader | None,
    pid: int | None,
    facts: Mapping[str, str | None],
    problems: list[Document],
    looks: Mapping[str, Look],
    waits: list[Document],
) -> Document:
    console_error = next((p["reason"] for p in problems if p["subject"] == "console"), None)
    answered = facts.get("last_poll") or facts.get(LAST_PRESIGN)  # an agent that only uploads never polls
    drop, mirror = (looks.get(section, Look("off")) for section in ("drop", "mirror"))
    return {
        "version": __version__,
        "instance": settings.instance,
        "agent": {
            "running": pid is not None,
            "pid": pid,
            "since": facts.get("started_at") if pid is not None else None,
            **_pause(facts),
            "asked": [row["verb"] for row in ledger.new_requests()] if ledger else [],
            "page": facts.get("page") if pid is not None else None,
        },
        "console": {
            "url": settings.console.url,
            "ok": None if answered is None and console_error is None else console_error is None,
            "last_poll": _when(facts.get("last_poll")),
            "error": console_error,
        },
        "drop": {
            "folder": str(settings.drop.folder),
            "observer": facts.get("observer") if pid is not None else None,
            "counts": ledger.upload_counts() if ledger else dict.fromkeys(map(str, UploadState), 0),
            "orphans": sum(map(len, ledger.orphans().values())) if ledger else 0,
            "last_success": _when(facts.get("last_success_up")),
            "disk": drop.disk,
            "free_bytes": drop.free_bytes,
            "left_alone": _left_alone(facts.get(LEFT_ALONE)),
            "put_away": put_away(facts.get(PUT_AWAY)),
        },
        "mirror": {
            "folder": str(settings.mirror.folder),
            "counts": ledger.model_counts() if ledger else dict.fromkeys(map(str, ModelState), 0),
            "last_success": _when(facts.get("last_success_down")),
            "disk": mirror.disk,
            "free_bytes": mirror.free_bytes,
            "waiting": waits,
            "trials": trial_documents(ledger) if ledger else [],
            "gateways": gateway_documents(settings.transfer.gateways, facts.get(GATEWAYS) if pid is not None else None),
        },
        "transfers": [transfer_document(t) for t in ledger.transfers()] if ledger and pid is not None else [],
        "problems": problems,
    }


def _left_alone(fact: str | None) -> list[Document]:
    try:
        told = orjson.loads(fact or "[]")
    except ValueError:
        return []
    return told if isinstance(told, list) else []


def put_away(fact: str | None) -> Document:
    """Return what the drop's own folders hold: `{"uploaded": {"files": 3, "bytes": 300}, …}`; `{}` until an agent looked."""
    try:
        told = orjson.loads(fact or "{}")
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _pause(facts: Mapping[str, str | None]) -> Document:
    left = pause_left(facts, time.time())
    ends = iso(number_in(facts.get(PAUSE_ENDS)))
    return {"paused": left > 0, "paused_until": ends if left > 0 and math.isfinite(left) else None}


def pause_left(facts: Mapping[str, str | None], now: float) -> float:
    """Seconds left of the agent's pause. An end further ahead than the whole pause counts as over: the clock was set back
    since it was written."""
    left = (number_in(facts.get(PAUSE_ENDS)) or 0.0) - now
    longest = number_in(facts.get(PAUSE_SECONDS))
    return left if left > 0 and (longest is None or left <= longest) else 0.0


def _when(fact: str | None) -> str | None:
    return iso(number_in(fact))


def _problems_of_rows(ledger: Reader, settings: Settings) -> list[Document]:
    problems = []
    set_aside = {upload.path: upload for upload in reversed(ledger.latest_rejected(REJECTS_MOST))}
    rejected: list[Upload] = []
    if set_aside and settings.drop.enabled:
        drop = disk_of(settings.drop.folder)
        look = partial(_lying_among_rejects, drop, list(set_aside.values()))
        rejected = drop.ask_or_remember("rejects", look, [])
    for upload in [*ledger.uploads_in_drop(), *rejected]:
        if upload.reason is not None and upload.state is not UploadState.DUPLICATE:
            subject = printable(os.fsdecode(upload.path))
            problems.append(_problem(subject, upload.reason, upload.updated_at, upload.next_attempt))
    for model in ledger.models():
        waits = model.state is ModelState.QUEUED and model.next_attempt is not None
        if model.reason is not None and (model.state in STUCK_MODELS or model.state is ModelState.DOWNLOADING or waits):
            subject = printable(f"{model.name}/{model.version}")
            problems.append(_problem(subject, model.reason, model.updated_at, model.next_attempt))
    return problems


def _lying_among_rejects(drop: Disk, uploads: Iterable[Upload]) -> list[Upload]:
    rejects = os.path.join(os.fsencode(drop.folder), REJECTS)
    return [upload for upload in drop.each(uploads) if os.path.lexists(os.path.join(rejects, upload.path))]


def _problem(subject: str, reason: str, since: float, next_attempt: float | None) -> Document:
    return {"subject": subject, "reason": reason, "since": iso(since), "next_attempt": next_try(next_attempt)}


def next_try(due: float | None) -> str | None:
    """Return the time of the next try. A time that has passed counts as now, and so does one that a wrong clock planned."""
    if due is None:
        return None
    now = time.time()
    return iso(due if now < due <= now + LONGEST_WAIT_SECONDS else now)
