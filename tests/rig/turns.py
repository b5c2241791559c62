"""A turn of a test's own in the place of the process's, which other tests may have ended for a while."""

import pytest

from axomsync.core import folders
from axomsync.core.turns import Turns
from axomsync.drop import carriers
from axomsync.ledger import committer
from axomsync.storage import short_bodies
from axomsync.transport import deadlines


def own_turns(monkeypatch: pytest.MonkeyPatch) -> Turns:
    """Return a new turn, which everything takes and lends until the test ends."""
    turns = Turns()
    for module in (carriers, committer, deadlines, folders, short_bodies):
        monkeypatch.setattr(module, "TURNS", turns)
    return turns
