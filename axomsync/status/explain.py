"""State, reason and next try of one file or model, for `axomsync explain`. Reads the ledger and the record of a model.

Failures handled: a published model whose record can't be read (the reason is shown in `keeps`).
"""

import os
import time
from contextlib import suppress
from pathlib import Path

from axomsync.core.errors import LocalFault
from axomsync.core.records import Model, ModelState, Upload, UploadState
from axomsync.core.text import printable
from axomsync.core.windows import Promotes
from axomsync.drop.rules import Account, Selection, account_for
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
    UploadState.DUPLICATE: "was uploaded under this name before; nothing to do, unless you want to send it again",
    UploadState.HELD: "is larger than one upload may be: set [drop] shard, or split it at line ends",
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
    ModelState.PRUNED: "was removed here by retention ([mirror] keep); `axomsync pull` fetches it again",
}


def explain(ledger: Reader, targets: Targets, promotes: Promotes = "now", *, running: bool, paused: bool) -> list[Document]:
    """One document for each of `targets`: `{kind, name, state, means, reason, next_attempt, facts}`."""
    problems = {problem.subject: problem.reason for problem in ledger.problems()}
    documents = [_explain(ledger, row, problems.get("console"), running=running, paused=paused) for row in targets.rows]
    waits = {row["id"]: row for row in waiting_documents(ledger, promotes, time.time())}
    for row, document in zip(targets.rows, documents, strict=True):
        if (waiting := waits.get(row.id)) is not None:
            until = f"until {waiting['until']}" if waiting["until"] else "for `axomsync promote`"
            document["means"] += f"; current waits {until} ([mirror] promote)"
    return documents


def explain_file(root: Path, target: str, selection: Selection) -> Document | None:
    """Explain a path below the drop folder `root` by the drop's rules, with or without a row; None when nothing lies there.

    A relative path is looked up below the drop folder first, then below the caller's folder. A path may also be spelled as
    the program prints it.
    """
    candidates = [target] if os.path.isabs(target) else [str(root / target), os.path.abspath(target)]
    for candidate in candidates:
        path = below(candidate, root)
        account = None if path is None else account_for(root, os.fsencode(_on_disk(root, path)), selection)
        if account is not None:
            return _file_document(account)
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


def _file_document(account: Account) -> Document:
    name = printable(os.fsdecode(account.path))
    return {
        "kind": "file",
        "name": name,
        "state": "left alone" if account.rule is not None else "no upload yet",
        "means": f"is left alone ({account.rule})" if account.rule is not None else "is not left alone by any rule",
        "reason": account.what,
        "keeps": [],
        "next_attempt": None,
        "facts": {"rule": account.rule and str(account.rule), "fix": account.fix},
    }


def _explain(ledger: Reader, row: Upload | Model, console: str | None, *, running: bool, paused: bool) -> Document:
    upload = isinstance(row, Upload)
    means = _UPLOAD_MEANS[row.state] if isinstance(row, Upload) else _MODEL_MEANS[row.state]
    unfinished = row.state not in (UploadState.UPLOADED, UploadState.DUPLICATE, ModelState.PUBLISHED)
    keeps = [
        *(["no agent runs: systemctl start axomsync, or `axomsync run`"] if not running else []),
        *(["the agent is paused: `axomsync resume`"] if paused else []),
        *([f"console: {console}"] if console else []),
    ]
    facts = (
        upload_document(row, ledger.shards(row.duplicate_of or row.id)) if isinstance(row, Upload) else model_document(row)
    )
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
        "keeps": keeps if unfinished else [unread] if unread else [],
        "next_attempt": next_try(row.next_attempt),
        "facts": facts,
    }


def _files_of_model(model: Model) -> Document:
    record = read_record(Path(model.path)) if model.state is ModelState.PUBLISHED and model.path else None
    return {"files": file_documents(record)} if record else {}
