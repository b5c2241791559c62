"""What a fleet costs storage, and how long it takes, in network namespaces. `make stress` has 32 boxes; here it is a few."""

import os
import resource
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.gateways.fleet import Fleet, kill, when
from tests.rig.faults import Content

MIB = 1 << 20
SMALL = {f"part-{number}.bin": Content(MIB + number, seed=number) for number in range(12)}
# For the stress tests. Speeds are such that this machine's two cores are not what is measured.
BOXES = int(os.environ.get("FLEET_BOXES", "32"))
FILE_SIZE = int(os.environ.get("FLEET_FILE_SIZE", str(2 * MIB)))
LARGE = {f"part-{number}.bin": Content(FILE_SIZE + number, seed=number) for number in range(32)}
STORAGE, LINK = 4 * MIB, 32 * MIB
PATIENCE = 900.0


def size(files: Mapping[str, Content]) -> int:
    return sum(content.size for content in files.values())


def egress(fleet: Fleet, files: Mapping[str, Content]) -> float:
    """How often the model left storage."""
    return fleet.server.sent() / size(files)


def checked(fleet: Fleet, files: Mapping[str, Content]) -> None:
    assert fleet.faults(files) == []
    assert fleet.logs_with("X-Amz-Signature") == []


def test_a_few_boxes_cost_storage_one_though_a_gateway_dies(tmp_path: Path) -> None:
    with Fleet(tmp_path, 3, 3, storage=8 * MIB, link=64 * MIB, slice_size="256k") as fleet:
        fleet.publish(SMALL)
        half = when(lambda: egress(fleet, SMALL) > 0.5, lambda: kill(fleet.gateways[:1]))
        fleet.wait(60, half)
        checked(fleet, SMALL)
        assert egress(fleet, SMALL) < 1.6


@pytest.fixture
def _many_files() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


stress = [pytest.mark.stress, pytest.mark.timeout(3600), pytest.mark.usefixtures("_many_files")]


def told(what: str, fleet: Fleet, seconds: float) -> None:
    boxes, gateways = len(fleet.agents), len(fleet.gateways)
    print(f"{what}: {boxes} boxes, {gateways} gateways: {seconds:.1f} s, egress {egress(fleet, LARGE):.4f}x")


class TestMany:
    pytestmark = stress

    def test_a_ring_against_one_box_alone_and_one_gateway(self, tmp_path: Path) -> None:
        times: dict[int, float] = {}
        for boxes, gateways in ((1, 0), (BOXES, BOXES), (BOXES, 1)):
            with Fleet(tmp_path / f"{gateways}", boxes, gateways, storage=STORAGE, link=LINK, slice_size="512k") as fleet:
                fleet.publish(LARGE)
                times[gateways] = fleet.wait(PATIENCE)
                told("cold", fleet, times[gateways])
                checked(fleet, LARGE)
                assert gateways == 0 or egress(fleet, LARGE) <= 1.02
        assert times[BOXES] <= 1.5 * times[0]

    def test_a_quarter_of_the_gateways_dies_half_way(self, tmp_path: Path) -> None:
        with Fleet(tmp_path, BOXES, BOXES, storage=STORAGE, link=LINK, slice_size="512k") as fleet:
            fleet.publish(LARGE)
            half = when(lambda: egress(fleet, LARGE) > 0.5, lambda: kill(fleet.gateways[: BOXES // 4]))
            told("a quarter killed", fleet, fleet.wait(PATIENCE, half))
            checked(fleet, LARGE)
            assert egress(fleet, LARGE) <= 1.35

    def test_storage_that_gives_a_connection_1_mb_a_second(self, tmp_path: Path) -> None:
        with Fleet(tmp_path, BOXES, BOXES, storage=64 * MIB, link=LINK, connection=1e6) as fleet:
            fleet.publish(LARGE)
            told("1 MB/s a connection", fleet, fleet.wait(PATIENCE))
            checked(fleet, LARGE)
            assert egress(fleet, LARGE) <= 1.02

    def test_links_that_live_5_seconds(self, tmp_path: Path) -> None:
        with Fleet(tmp_path, BOXES, BOXES, storage=STORAGE, link=LINK, lifetime=5, slice_size="512k") as fleet:
            fleet.publish(LARGE)
            told("links of 5 s", fleet, fleet.wait(PATIENCE))
            checked(fleet, LARGE)

    def test_all_objects_are_replaced_in_the_run(self, tmp_path: Path) -> None:
        fresh = {rel: Content(content.size, seed=100 + content.seed) for rel, content in LARGE.items()}
        with Fleet(tmp_path, BOXES, BOXES, storage=STORAGE, link=LINK, slice_size="512k") as fleet:
            model = fleet.publish(LARGE)

            def replace() -> None:
                for rel, content in fresh.items():
                    fleet.server.replace(fleet.server.key_of(model, rel), content)

            told("replaced", fleet, fleet.wait(PATIENCE, when(lambda: egress(fleet, LARGE) > 0.25, replace)))
            checked(fleet, fresh)
