"""The exit code of one pass. Pure.

0: nothing is left to do. 1: something needs a person. 4: the key is refused. 75: a later pass may do it.
"""

from collections.abc import Iterable, Set

from axomsync.core.errors import AxomsyncError, KeyRefused, Transient
from axomsync.core.records import Model, ModelState, Problem, Upload, UploadState
from axomsync.core.states import STUCK_MODELS, STUCK_UPLOADS

HIDING = frozenset({"drop folder", "mirror folder"})  # problems that may hide work: what lies there can't be read
_BEGUN = frozenset({UploadState.CHECKING, UploadState.QUEUED, UploadState.UPLOADING})


def exit_code(failures: Iterable[AxomsyncError], left: Set[int]) -> int:
    """The code that matters most among what ended a pass and what it left."""
    codes = {failure.exit_code for failure in failures} | left
    for code in (KeyRefused.exit_code, 1, Transient.exit_code):
        if code in codes:
            return code
    return max(codes, default=0)


def codes_of_what_is_left(
    problems: Iterable[Problem], uploads: Iterable[Upload], models: Iterable[Model], *, rejected: bool
) -> set[int]:
    """The codes of what is not done. `uploads` are those in the drop folder; `rejected`: this pass rejected a file."""
    codes = {Transient.exit_code for problem in problems if problem.subject in HIDING}
    if rejected:
        codes.add(1)
    for upload in uploads:
        if upload.next_attempt is not None:
            codes.add(Transient.exit_code)
        elif upload.state in STUCK_UPLOADS:
            codes.add(1)
        elif upload.state in _BEGUN:
            codes.add(Transient.exit_code)
    for model in models:
        if model.state in STUCK_MODELS:
            codes.add(1)
        elif model.state is ModelState.QUEUED:
            codes.add(Transient.exit_code)
    return codes
