"""Exceptions that nobody caught before: which of them are no bugs, and what is said of each."""

import errno

import pytest

from axomsync.core.errors import AxomsyncError, Bug, LocalFault, Rejected
from axomsync.core.oserrors import foreseen, unforeseen

EXPECTED = Rejected("it is final")


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (EXPECTED, Rejected, "it is final"),
        (MemoryError(), LocalFault, "there is no memory left for the agent; free some, or raise its limit (MemoryMax= of"),
        (RuntimeError("can't start new thread"), LocalFault, "the system starts no more threads for the agent; raise its"),
        (OSError(errno.EIO, "Input/output error", "/x/y"), LocalFault, "/x/y: the disk reported an I/O error"),
        (
            OSError(errno.EIO, "Input/output error"),
            Bug,
            "unexpected OSError: [Errno 5] Input/output error; please report it",
        ),
        (RuntimeError("dictionary changed size"), Bug, "unexpected RuntimeError: dictionary changed size; please report it"),
        (KeyError("x"), Bug, "unexpected KeyError: 'x'; please report it"),
    ],
)
def test_a_shortage_of_the_machine_is_no_bug(error: Exception, kind: type[AxomsyncError], words: str) -> None:
    failure = unforeseen(error)
    assert type(failure) is kind
    assert str(failure).startswith(words)
    assert (foreseen(error) is None) == (kind is Bug)
