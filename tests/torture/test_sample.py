"""A seeded sample of the campaigns, and each schedule that once found a fault. `make stress` runs them by the thousand."""

import errno
import shutil
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.torture.campaign import PROGRAM, Bench
from tests.torture.disk import COMMANDS
from tests.torture.forge import LOOKS, forged, place_for_runs
from tests.torture.schedule import ALWAYS, KINDS, Schedule, drawn, kind_of, story_of
from tests.torture.steps import Blow, Happening, Step, Wire
from tests.torture.stories import STORIES, told
from tests.torture.worlds import WORLDS, world_of

SAMPLE = 3  # seeds of each kind
SAMPLED = [kind for kind in KINDS if kind != "oom"]  # containers of CI may make no control group
REPAIR_OF_SEVERAL = Step(
    Blow(0.138, errno.EDQUOT, lasts=3),
    verb=("verify", "--repair"),
    happens=tuple(Happening("damage", of, place, "zero") for of, place in ((1, 0.76), (2, 0.33), (1, 0.46), (8, 0.67))),
    like=1,
)
FOUND = {
    "a killed life left what it was writing in the state folder": Schedule(
        0, "kill", 0, "", (Step(Blow(0.02, -1)),), ALWAYS
    ),
    "claims of files that stay outlived a kill": Schedule(5, "kill", 5, "", (Step(Blow(0.85, -1)),), ALWAYS),
    "a read error of a moment left the ledger's old state for good": Schedule(
        1076, "error", 20, "", (Step(Blow(0.09, errno.EIO, LOOKS, 3)),), ALWAYS
    ),
    "a second pass ended with 1 and said nothing": Schedule(
        51, "wire", 3, "", (Step(wire=(Wire(69, 0, 5),)), Step()), ALWAYS
    ),
    "too few descriptors were a traceback": Schedule(19, "limits", 11, "", (Step(descriptors=13),), ALWAYS),
    "retention removed and fetched an old version in turn, beside a newer one that the console removed": Schedule(
        0, "calm", 6, "", told(6, "retention")[1], ALWAYS, "retention"
    ),
    "a model that was listed again after its removal was fetched and removed in turn": Schedule(
        0, "calm", 16, "", told(16, "retention")[1], ALWAYS, "retention"
    ),
    "a folder that was damaged before its ledger knew it could not be repaired": Schedule(
        5, "kill", 5, "", (Step(Blow(0.875, -1)), *told(5, "repair")[1][1:]), ALWAYS, "repair"
    ),
    "a repair that could not begin kept the state folder, for which the next one waited": Schedule(
        1201713, "error", 33, "", (Step(), REPAIR_OF_SEVERAL), ALWAYS, "repair"
    ),
    "no certificates were found, as no descriptor was free": Schedule(1, "limits", 41, "", (Step(descriptors=14),), ALWAYS),
}


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    place = place_for_runs()
    try:
        with forged(place, PROGRAM) as forge:
            yield Bench(place, forge)
    finally:
        shutil.rmtree(place)


@pytest.mark.parametrize("kind", SAMPLED)
@pytest.mark.parametrize("seed", range(SAMPLE))
def test_no_promise_is_broken(bench: Bench, kind: str, seed: int) -> None:
    _demand(bench, drawn(seed, kind))


@pytest.mark.parametrize("kind", ["kill", "power"])
@pytest.mark.parametrize("story", STORIES)
def test_no_promise_is_broken_in_a_story(bench: Bench, kind: str, story: str) -> None:
    _demand(bench, drawn(1, kind, story))


def _demand(bench: Bench, schedule: Schedule) -> None:
    if schedule.disk not in ("", "ext4"):  # the tools of the other disks are installed for `make stress`
        schedule = replace(schedule, disk="ext4")
    broken, run = bench.run(schedule)
    assert not broken, f"{schedule}\n" + "\n".join(broken)
    assert run.lives


@pytest.mark.parametrize("schedule", FOUND.values(), ids=FOUND)
def test_what_was_found_once_stays_mended(bench: Bench, schedule: Schedule) -> None:
    broken, _ = bench.run(schedule)
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("kind", KINDS)
def test_a_campaign_meets_files_and_models_with_each_kind(kind: str) -> None:
    orders = [seed for seed in range(600) if kind_of(seed, KINDS) == kind]
    worlds = [world_of(drawn(seed, kind).world) for seed in orders]
    assert any(world.dropped for world in worlds)
    assert any(world.published for world in worlds)
    assert len({world.number for world in worlds}) > WORLDS // 2


def test_a_seed_means_the_same_schedule_again() -> None:
    for kind in KINDS:
        assert drawn(7, kind) == drawn(7, kind) != drawn(8, kind)
        for story in STORIES:
            assert drawn(7, kind, story) == drawn(7, kind, story) != drawn(8, kind, story)
    assert {story_of(seed) for seed in range(100)} == {"", *STORIES}
    assert {drawn(seed, "power").disk for seed in range(50)} == set(COMMANDS)
