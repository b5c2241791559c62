"""The exit code of one pass. Pure.

0: nothing is left to do. 1: a person must act. 4: the console refuses the key. 75: a later pass may do the rest.
"""

from collections.abc import Iterable, Set

from axomsync.core.errors import AxomsyncError, KeyRefused, Transient
from axomsync.core.records import Model, ModelState, Problem, Upload, UploadState
from axomsync.core.states import STUCK_MODELS, STUCK_UPLOADS

HIDING = frozenset({"drop folder", "mirror folder"})  # an unreadable folder may hide work
_BEGUN = frozenset({UploadState.CHECKING, UploadState.QUEUED, UploadState.UPLOADING})


def exit_code(failures: Iterable[AxomsyncError], left: Set[int]) -> int:
    """The most important code among the failures of a pass and the codes of unfinished work."""
    codes = {failure.exit_code for failure in failures} | left
    for code in (KeyRefused.exit_code, 1, Transient.exit_code):
        if code in codes:
            return code
    return max(codes, default=0)


def codes_of_what_is_left(
    problems: Iterable[Problem], uploads: Iterable[Upload], models: Iterable[Model], *, rejected: bool
) -> set[int]:
    """Exit codes of unfinished work. `uploads`: those in the drop folder; `rejected`: this pass rejected a file."""
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
