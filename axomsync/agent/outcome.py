"""What one pass leaves undone, in words, and the exit code that follows from it. Pure.

0: nothing is left to do. 1: a person must act. 4: the console refuses the key. 75: a later pass may do the rest.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from axomsync.core.errors import AxomsyncError, KeyRefused, Transient
from axomsync.core.paths import CURRENT
from axomsync.core.records import Model, ModelState, Problem, Upload, UploadState
from axomsync.core.states import STUCK_MODELS, STUCK_UPLOADS
from axomsync.core.text import printable

# Problems that a pass leaves, by subject: an unreadable folder may hide work; the others keep models from being served.
_CODES = {"drop folder": 75, "mirror folder": 75, "views": 1, "rights of models": 1}
_CURRENT = f"/{CURRENT}"  # the end of the subject of a name whose `current` can't be led: NAME/current
_BEGUN_UPLOADS = frozenset({UploadState.CHECKING, UploadState.QUEUED, UploadState.UPLOADING})
_BEGUN_MODELS = frozenset({ModelState.QUEUED, ModelState.DOWNLOADING, ModelState.VERIFYING})
_URGENT_FIRST = (KeyRefused.exit_code, 1, Transient.exit_code)


@dataclass(frozen=True)
class Undone:
    """Something that a pass left undone: the exit code that it asks for, and what it is, for a person."""

    code: int
    words: str
    is_listed: bool = False  # in `axomsync uploads` or `axomsync models`


def undone(
    failures: Sequence[tuple[str, AxomsyncError]],
    problems: Iterable[Problem],
    uploads: Iterable[Upload],
    models: Iterable[Model],
    *,
    rejected: bool,
) -> list[Undone]:
    """What a pass left undone, the most urgent first.

    `failures`: each with the subject of its problem; `uploads`: those in the drop folder; `rejected`: a file, in this pass.
    """
    found = [Undone(failure.exit_code, f"{subject}: {failure}") for subject, failure in failures]
    told = {subject for subject, _ in failures}
    for problem in problems:
        code = 1 if problem.subject.endswith(_CURRENT) else _CODES.get(problem.subject)
        if code is not None and problem.subject not in told:
            found.append(Undone(code, f"{problem.subject}: {problem.reason}"))
    if rejected:
        found.append(Undone(1, "a file was rejected; see `axomsync uploads`"))
    found += [*_of_uploads(uploads), *_of_models(models)]
    return sorted(found, key=lambda one: (_urgency(one.code), one.words))


def _of_uploads(uploads: Iterable[Upload]) -> Iterator[Undone]:
    for upload in uploads:
        words = _words(upload.path.decode("utf-8", "surrogateescape"), upload.state, upload.reason)
        if upload.next_attempt is None and upload.state in STUCK_UPLOADS:
            yield Undone(1, words, is_listed=True)
        elif upload.next_attempt is not None or upload.state in _BEGUN_UPLOADS:
            yield Undone(Transient.exit_code, words, is_listed=True)


def _of_models(models: Iterable[Model]) -> Iterator[Undone]:
    for model in models:
        words = _words(f"{model.name}/{model.version}", model.state, model.reason)
        if model.state in STUCK_MODELS:
            yield Undone(1, words, is_listed=True)
        elif model.state in _BEGUN_MODELS:
            yield Undone(Transient.exit_code, words, is_listed=True)


def _words(name: str, state: str, reason: str | None) -> str:
    return f"{printable(name)}: {state}" + (f": {reason}" if reason else "")


def _urgency(code: int) -> int:
    return _URGENT_FIRST.index(code) if code in _URGENT_FIRST else len(_URGENT_FIRST)
