"""A turn of a test's own in the place of the process's, which other tests may have ended for a while."""

import sys

import pytest

from axomsync.core.turns import TURNS, Turns


def own_turns(monkeypatch: pytest.MonkeyPatch) -> Turns:
    """Return a new turn, which everything that was imported takes and lends until the test ends."""
    own = Turns()
    for name, module in list(sys.modules.items()):
        if name.startswith("axomsync.") and vars(module).get("TURNS") is TURNS:
            monkeypatch.setattr(module, "TURNS", own)
    return own
