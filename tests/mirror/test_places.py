"""Models without progress do not keep the others from being mirrored."""

from axomsync.core.records import ModelState
from axomsync.mirror.loop import MODELS_AT_ONCE
from tests.mirror.inprocess import MirrorHere
from tests.rig.faults import FOREVER, Content, Fault, FaultyServer, s3_error

SMALL = Content(1234, seed=2)
BUSY = s3_error(503, "SlowDown", "Please reduce your request rate.")


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
