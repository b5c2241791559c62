"""States of uploads and models: legal transitions, and named groups of states. Pure.

Failures handled: an illegal state transition (`IllegalTransition`: a bug must not put a wrong state into the ledger).
"""

from collections.abc import Mapping

from axomsync.core.errors import Fatal
from axomsync.core.records import ModelState, UploadState

_U = UploadState
UPLOAD_TRANSITIONS: Mapping[UploadState, frozenset[UploadState]] = {
    _U.SETTLING: frozenset({_U.CHECKING}),
    _U.CHECKING: frozenset({_U.SETTLING, _U.QUEUED, _U.REJECTED, _U.DUPLICATE, _U.HELD, _U.FAILED}),
    # Rejected: a gate is asked when the file is to be sent.
    _U.QUEUED: frozenset({_U.UPLOADING, _U.SETTLING, _U.DUPLICATE, _U.HELD, _U.FAILED, _U.REJECTED}),
    _U.UPLOADING: frozenset({_U.UPLOADED, _U.QUEUED, _U.SETTLING, _U.DUPLICATE, _U.FAILED, _U.REJECTED}),
    _U.HELD: frozenset({_U.SETTLING}),
    _U.FAILED: frozenset({_U.SETTLING, _U.QUEUED}),
    _U.UPLOADED: frozenset(),
    _U.REJECTED: frozenset({_U.SETTLING, _U.CHECKING}),
    _U.DUPLICATE: frozenset(),
}

_M = ModelState
# The console or the configuration may change at any time, and any step may fail.
_ANY_TIME = frozenset({_M.WAITING, _M.IGNORED, _M.QUEUED, _M.BLOCKED, _M.FAILED, _M.GONE})
_BEGIN = frozenset({_M.DOWNLOADING, _M.PUBLISHED})  # published at once when the folder was found complete
MODEL_TRANSITIONS: Mapping[ModelState, frozenset[ModelState]] = {
    _M.WAITING: _ANY_TIME,
    _M.IGNORED: _ANY_TIME,
    _M.QUEUED: _ANY_TIME | _BEGIN,
    _M.DOWNLOADING: _ANY_TIME | {_M.VERIFYING},
    _M.VERIFYING: _ANY_TIME | {_M.PUBLISHED, _M.DOWNLOADING},
    # All but the first: its folder was removed.
    _M.PUBLISHED: frozenset({_M.PRUNED, _M.QUEUED, _M.IGNORED, _M.WAITING, _M.GONE}),
    _M.BLOCKED: _ANY_TIME | _BEGIN,
    _M.FAILED: _ANY_TIME | _BEGIN,
    _M.GONE: _ANY_TIME,
    _M.PRUNED: _ANY_TIME,
}

# The state to return to when work is interrupted by a failure or by the end of the agent.
UPLOAD_INTERRUPTED: Mapping[UploadState, UploadState] = {_U.CHECKING: _U.SETTLING, _U.UPLOADING: _U.QUEUED}
MODEL_INTERRUPTED: Mapping[ModelState, ModelState] = {_M.DOWNLOADING: _M.QUEUED, _M.VERIFYING: _M.QUEUED}

ENDS = frozenset({_U.UPLOADED, _U.REJECTED, _U.DUPLICATE, _M.PUBLISHED, _M.GONE, _M.PRUNED})
# Final until a person acts.
STUCK_UPLOADS = frozenset({_U.HELD, _U.FAILED, _U.REJECTED})
STUCK_MODELS = frozenset({_M.BLOCKED, _M.FAILED})
DUE_MODELS = frozenset({_M.QUEUED, _M.BLOCKED, _M.FAILED})  # they are tried, now or later
UNWANTED_MODELS = frozenset({_M.IGNORED, _M.PRUNED})
NOT_BEGUN_MODELS = UNWANTED_MODELS | {_M.WAITING, _M.GONE}
SETBACKS = frozenset({_U.QUEUED, _U.HELD, _U.FAILED, _M.QUEUED, _M.BLOCKED, _M.FAILED})


class IllegalTransition(Fatal):
    """A bug tried an illegal state transition; it is stopped before it reaches the disk."""


def is_legal(table: str, old: str, new: str) -> bool:
    """Check a transition of a row of `uploads` or `models`."""
    if table == "uploads":
        return new in UPLOAD_TRANSITIONS[UploadState(old)]
    return new in MODEL_TRANSITIONS[ModelState(old)]
