"""State, reason and next try of one file or model, for `axomsync explain`. Reads the ledger and the record of a model.

Failures handled: a published model whose record can't be read (the reason is shown in `keeps`).
"""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from axomsync.core.errors import LocalFault
from axomsync.core.records import Model, ModelState, Upload, UploadState
from axomsync.core.text import printable
from axomsync.core.windows import Promotes
from axomsync.drop.rules import Account, Selection, account_for
from axomsync.drop.settle import FINISHED
from axomsync.ledger import Reader
from axomsync.mirror.publish.record import file_documents, read_record
from axomsync.status.documents import Document, model_document, upload_document
from axomsync.status.promotions import waiting_documents
from axomsync.status.report import next_try
from axomsync.status.targets import Targets, below, name_of

_UPLOAD_MEANS = {
    UploadState.SETTLING: "waits until it has not changed for [drop] settle",
    UploadState.CHECKING: "is being read: every line must be a JSON object",
    UploadState.QUEUED: "is a valid dataset and waits for its turn to be uploaded",
    UploadState.UPLOADING: "is being uploaded",
    UploadState.UPLOADED: "is in storage; register it in the console by its upload_id and key",
    UploadState.REJECTED: "is not a dataset as wanted: correct it, and move it from rejected/ back into the drop folder",
    UploadState.DUPLICATE: "has content that was uploaded before; nothing to do, unless you want to send it again",
    UploadState.HELD: "can't be uploaded as things are: the reason says what to change",
    UploadState.FAILED: "was refused for good: correct what the reason names, then run `axomsync retry`",
}
_MODEL_MEANS = {
    ModelState.WAITING: "is not ready in the console yet; it is mirrored once it is ready",
    ModelState.IGNORED: "is left out by the configuration: see [mirror] include, exclude, keep and max_size",
    ModelState.QUEUED: "is ready and waits for its turn to be downloaded",
    ModelState.DOWNLOADING: "is being downloaded",
    ModelState.VERIFYING: "is downloaded; its bytes are being compared with storage's checksums",
    ModelState.PUBLISHED: "is complete and verified",
    ModelState.BLOCKED: "can't go on until the cause in the reason is mended; it then continues by itself",
    ModelState.FAILED: "met an unexpected error; the log has the details",
    ModelState.GONE: "is no longer listed by the console",
    ModelState.PRUNED: "was removed here by retention, see its reason; `axomsync pull` fetches it again",
}
_FINISHED = FINISHED | {ModelState.PUBLISHED}


class Obstacle(NamedTuple):
    """What keeps files or models, whatever they are, and the way to end that."""

    cause: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.cause}: {self.remedy}"


def obstacles(agent: Document, start: str, off: str | None) -> list[Obstacle]:
    """What keeps everything of one direction; `agent` is that of `status --json`, and `start` the command that starts it.

    `off` is the section of a direction that is off.
    """
    then = ", then `axomsync reload`" if agent["running"] else ""
    return [
        *([Obstacle(f"[{off}] enabled is false", f"set [{off}] enabled = true{then}")] if off is not None else []),
        *([Obstacle("no agent runs", f"`{start}`")] if not agent["running"] else []),
        *([Obstacle("the agent is paused", "`axomsync resume`")] if agent["paused"] else []),
    ]


def explain(
    ledger: Reader,
    targets: Targets,
    promotes: Promotes = "now",
    *,
    of_files: Sequence[Obstacle] = (),
    of_models: Sequence[Obstacle] = (),
) -> list[Document]:
    """One document for each of `targets`: `{kind, name, state, means, reason, keeps, next_attempt, facts}`.

    `of_files` and `of_models` keep all files, or all models.
    """
    problems = {problem.subject: problem.reason for problem in ledger.problems()}
    console = [Obstacle("console", problems["console"])] if "console" in problems else []
    documents = [
        _explain(ledger, row, [*(of_files if isinstance(row, Upload) else of_models), *console]) for row in targets.rows
    ]
    waits = {row["id"]: row for row in waiting_documents(ledger, promotes, time.time())}
    for row, document in zip(targets.rows, documents, strict=True):
        if (waiting := waits.get(row.id)) is not None:
            until = f"until {waiting['until']}" if waiting["until"] else "for `axomsync promote`"
            document["means"] += f"; current waits {until} ([mirror] promote)"
    return documents


def explain_file(root: Path, target: str, selection: Selection, of_files: Sequence[Obstacle]) -> Document | None:
    """Explain a path below the drop folder `root` by the drop's rules, with or without a row; None when nothing lies there.

    `of_files` keeps all files that no rule leaves alone.
    A relative path is looked up below the drop folder first, then below the caller's folder. A path may also be spelled as
    the program prints it.
    """
    candidates = [target] if os.path.isabs(target) else [str(root / target), os.path.abspath(target)]
    for candidate in candidates:
        path = below(candidate, root)
        account = None if path is None else account_for(root, os.fsencode(_on_disk(root, path)), selection)
        if account is not None:
            return _file_document(account, of_files if account.is_due else ())
    return None


def _on_disk(root: Path, printed: str) -> str:
    """The path below `root` that the program prints as `printed`; `printed` itself if that exists, or if there is none."""
    way = ""
    for part in printed.split(os.sep):
        name, folder = part, root / way
        if "\\" in part and not os.path.lexists(folder / part):
            with suppress(OSError):
                name = next((each for each in os.listdir(folder) if printable(each) == part), part)
        way = os.path.join(way, name)
    return way


def _file_document(account: Account, keeping: Sequence[Obstacle]) -> Document:
    name = printable(os.fsdecode(account.path))
    return {
        "kind": "file",
        "name": name,
        "state": "left alone" if account.rule is not None else "no upload yet",
        "means": f"is left alone ({account.rule})" if account.rule is not None else "is not left alone by any rule",
        "reason": "no agent looks at the folder now" if keeping else account.what,
        "keeps": list(map(str, keeping)),
        "next_attempt": None,
        "facts": {
            "rule": account.rule and str(account.rule),
            "fix": ", then ".join(obstacle.remedy for obstacle in keeping) or account.fix,
        },
    }


def _explain(ledger: Reader, row: Upload | Model, general: Sequence[Obstacle]) -> Document:
    upload = isinstance(row, Upload)
    means = _UPLOAD_MEANS[row.state] if isinstance(row, Upload) else _MODEL_MEANS[row.state]
    facts = upload_document(row, ledger.shards(row.stored_by)) if isinstance(row, Upload) else model_document(row)
    unread = None
    try:
        facts |= {} if isinstance(row, Upload) else _files_of_model(row)
    except LocalFault as fault:
        unread = str(fault)
    return {
        "kind": "upload" if upload else "model",
        "name": name_of(row),
        "state": str(row.state),
        "means": means,
        "reason": row.reason,
        "keeps": [*(map(str, general) if row.state not in _FINISHED else ()), *([unread] if unread else [])],
        "next_attempt": next_try(row.next_attempt),
        "facts": facts,
    }


def _files_of_model(model: Model) -> Document:
    record = read_record(Path(model.path)) if model.state is ModelState.PUBLISHED and model.path else None
    return {"files": file_documents(record)} if record else {}
