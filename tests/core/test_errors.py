"""Failures: what is put in front of a message changes nothing else of it."""

import pytest

from axomsync.core.errors import AxomsyncError, Interrupted, Refused, Transient
from axomsync.mirror.check.seal import Tampered
from axomsync.mirror.check.structure import Broken


@pytest.mark.parametrize(
    "failure",
    [Transient("busy", 7.0, congestion=True), Refused("no"), Interrupted(2), Broken("w.bin", "it is cut"), Tampered(["a"])],
    ids=lambda failure: type(failure).__name__,
)
def test_a_subject_in_front_changes_the_message_alone(failure: AxomsyncError) -> None:
    told = failure.about("bot/v1")
    assert (type(told), str(told)) == (type(failure), f"bot/v1: {failure}")
    assert (vars(told), told.exit_code) == (vars(failure), failure.exit_code)
