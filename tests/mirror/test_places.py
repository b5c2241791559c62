"""Models that are odd, or make no progress, do not keep the others from being mirrored."""

import pytest

from axomsync.core.records import ModelState
from axomsync.mirror.loop import MODELS_AT_ONCE
from tests.mirror.inprocess import MirrorHere
from tests.rig.faults import FOREVER, Content, Fault, FaultyServer, s3_error

SMALL = Content(1234, seed=2)
BUSY = s3_error(503, "SlowDown", "Please reduce your request rate.")


@pytest.mark.parametrize("odd", ["%" * 81, "漢" * 81, "x" * 200])
def test_a_model_with_a_long_id_comes_as_the_others_do(server: FaultyServer, mirror: MirrorHere, odd: str) -> None:
    """Escaped, it is longer than a name on the disk may be."""
    for name, model_id in (("odd", odd), ("bot", "mdl_1")):
        server.add_model(name, "v1", {"a.bin": SMALL}, model_id=model_id)
    mirror.sync()
    mirror.sync()
    assert {model.name: (model.state, model.reason) for model in mirror.models()} == {
        "odd": (ModelState.PUBLISHED, None), "bot": (ModelState.PUBLISHED, None),
    }  # fmt: skip
    mirror.settings["exclude"] = ["odd"]
    with mirror.context() as context:
        assert context.mirror_folder.remove(mirror.folder / "odd" / "v1", odd) is None
    mirror.sync()
    assert {model.name: model.state for model in mirror.models()}["odd"] is ModelState.IGNORED
    assert not (mirror.folder / "odd" / "v1").exists()


def test_models_without_progress_leave_their_places_to_waiting_ones(server: FaultyServer, mirror: MirrorHere) -> None:
    """Storage serves the first models only after a request for the last one."""
    for number in range(2 * MODELS_AT_ONCE):
        model_id = server.add_model(f"bad{number}", "v1", {f"{file}.bin": SMALL for file in range(3)})
        server.inject(BUSY, f"/bucket/{model_id}/", times=FOREVER)
    good = server.add_model("good", "v1", {"a.bin": SMALL})
    server.inject(Fault(first=server.heal), server.key_of(good, "a.bin"))
    mirror.patience, mirror.jitter = 4.0, 0.05
    mirror.sync()
    assert {model.name: model.reason for model in mirror.models() if model.state is not ModelState.PUBLISHED} == {}
