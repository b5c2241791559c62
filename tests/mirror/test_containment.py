"""A bug that one model triggers is that model's problem: it is reported, the model waits, and the others go on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from axomsync.core.records import ModelState
from tests.mirror.inprocess import MirrorHere
from tests.rig.faults import Content, Fault, FaultyServer

FILES = {"a.bin": Content(5000, 1)}


class Broken(MirrorHere):
    """A random source with a bug at the first call for a back-off."""

    trips = True

    def _random(self) -> float:
        if self.trips:
            self.trips = False
            raise RuntimeError("a bug")
        return super()._random()


@pytest.fixture
def broken(tmp_path: Path, server: FaultyServer) -> Iterator[Broken]:
    with Broken(tmp_path / "broken", server) as here:
        yield here


@pytest.mark.timeout(60)  # for one that is waited for without an end
@pytest.mark.parametrize("where", ["manifest", "storage"])
def test_model_that_meets_a_bug_waits_and_the_others_go_on(
    server: FaultyServer, broken: Broken, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    poisoned, *others = (server.add_model(name, "v1", FILES) for name in ("a", "b", "c"))
    server.inject(Fault(503), f"/{poisoned}/download" if where == "manifest" else f"/bucket/{poisoned}/")
    broken.lanes = 1
    broken.sync()
    assert {broken.model(other).state for other in others} == {ModelState.PUBLISHED}
    model = broken.model(poisoned)
    assert "unexpected RuntimeError: a bug; please report it" in (model.reason or "")
    assert (model.attempts, model.next_attempt is not None) == (1, True)
    assert len([record for record in caplog.records if record.exc_info]) == 1, "with its traceback, once"
    broken.later = 2 * 3600.0
    broken.sync()
    assert broken.model(poisoned).state is ModelState.PUBLISHED
