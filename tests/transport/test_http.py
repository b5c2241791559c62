"""Why no answer came, in words with a remedy."""

import httpx
import pytest

from axomsync.transport.http import network_reason


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (httpx.ConnectError("[Errno 24] Too many open files"), "can't connect: this process has too many open files; raise"),
        (httpx.ReadError("Too many open files (os error 24)"), "this process has too many open files; raise LimitNOFILE="),
        (httpx.ConnectError("[Errno 111] Connection refused"), "can't connect: no service listens there"),
    ],
)
def test_a_missing_answer_has_its_cause_and_remedy(error: Exception, words: str) -> None:
    assert network_reason(error, None, "silent").startswith(words)
