"""The moves of `current`: noticed whoever makes them, told once, put on trial, taken back; with kills at every step."""

import random
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from axomsync.config import HookSettings
from axomsync.core.records import ModelState, RemoteModel
from axomsync.core.windows import Window
from axomsync.ledger import Reader
from axomsync.mirror.publish import current
from axomsync.mirror.publish.space import Space
from axomsync.ops.health import CHECK_SECONDS
from axomsync.status.documents import model_document
from axomsync.status.promotions import trial_documents, waiting_documents
from tests.rig.disks import dead_disk
from tests.rig.promoter import CHECK, Lives, Names

HOUR = 3600.0


class Clock:
    """A wall clock and a monotonic one, which a test moves."""

    def __init__(self) -> None:
        self.wall = datetime(2026, 11, 27, 12, tzinfo=UTC).timestamp()
        self.monotonic = 1000.0

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def names(tmp_path: Path, clock: Clock) -> Iterator[Names]:
    names = Names(tmp_path, lambda: clock.wall, lambda: clock.monotonic)
    names.hooks = {"health": ["sh", "-c", CHECK], "health_for": "1m"}
    yield names.begin()
    names.end()


def again(names: Names) -> Names:
    """The next life."""
    names.end()
    return names.begin()


def trials(names: Names) -> list[dict[str, object]]:
    return trial_documents(names.ledger.read)


def rename(names: Names, version: str, to: str) -> None:
    """The console gave a version of `bot` another name or label; the folder follows, as at a poll."""
    name, _, label = to.rpartition("/")
    (row,) = (row for row in names.ledger.read.models() if row.version == version)
    remote = RemoteModel(row.id, name or row.name, label, None, None, "ready", row.created_at)
    names.ledger.record_catalog([(remote, ModelState.PUBLISHED, None)])
    place, obstacle = names.folder.follow_labels(names.ledger.read.model(row.id))
    assert obstacle is None
    names.ledger.record_moved(row.id, Path(row.path or ""), place, leads=current.is_led_to(str(place)))


def test_every_move_is_told_once_whoever_makes_it(names: Names) -> None:
    names.hooks = {}
    again(names)
    parent, scratch = names.root / "bot", names.folder.staging.scratch()
    names.publish("bot", "v1")
    names.turn()
    names.publish("bot", "v2", "v3")
    names.turn()
    assert names.told() == ["bot/v1", "bot/v3"]
    current.pin(parent, "v1", scratch)  # as `rollback` does
    names.turn()
    current.unpin(parent, scratch)
    again(names).turn()
    names.turn()
    assert names.told() == ["bot/v1", "bot/v3", "bot/v1", "bot/v3"]
    rows = {row.version: model_document(row)["current"] for row in names.ledger.read.models()}
    assert rows == {"v1": False, "v2": False, "v3": True}


def test_a_version_that_waits_for_more_files_did_not_move(names: Names) -> None:
    """`[mirror] files` selects more of its files, and storage is busy; it serves meanwhile."""
    names.publish("bot", "v1")
    names.turn()
    [row] = names.ledger.read.models()
    names.ledger.end_trial(str(names.root / "bot"), row.id)
    names.ledger.move_model(row.id, ModelState.QUEUED, reason="more files")
    names.turn()
    names.ledger.move_model(row.id, ModelState.PUBLISHED)
    names.turn()
    assert (names.told(), trials(names)) == (["bot/v1"], [])


def test_a_move_between_two_lives_is_told_and_what_an_older_version_made_is_not(names: Names) -> None:
    names.publish("bot", "v1", "v2")
    names.ledger.set_facts(currents_unknown="1")  # as the migration does for a ledger with models
    names.turn()
    assert names.told() == []
    names.end()
    current.pin(names.root / "bot", "v1", names.folder.staging.scratch())
    names.begin().turn()
    assert names.told() == ["bot/v1"]


def test_manual_waits_for_a_person_also_with_the_first_version(names: Names, clock: Clock) -> None:
    names.promotes = "manual"
    again(names).publish("bot", "v1")
    names.turn()
    assert names.leads("bot") == (None, None)
    current.promote(names.root / "bot", "v1", names.folder.staging.scratch())
    names.publish("bot", "v2", "v3")
    names.turn()
    assert (names.leads("bot"), names.told()) == (("v1", None), ["bot/v1"])
    waits = [(row["version"], row["until"]) for row in waiting_documents(names.ledger.read, "manual", clock.wall)]
    assert waits == [("v3", None), ("v2", None)]
    names.promotion.change("now")  # a reload
    names.turn()
    assert names.leads("bot") == ("v3", None)


def test_what_waits_is_left_out_while_the_mirror_can_not_be_reached(names: Names, clock: Clock) -> None:
    names.promotes = "manual"
    again(names).publish("bot", "v1")
    names.turn()
    assert list(waiting_documents(names.ledger.read, "manual", clock.wall))
    with dead_disk(names.root):
        assert waiting_documents(names.ledger.read, "manual", clock.wall) == []
        assert not names.folder.staging.discard("bot")


def test_a_window_promotes_the_newest_that_waits(names: Names, clock: Clock) -> None:
    local = datetime.fromtimestamp(clock.wall)  # noqa: DTZ006  # windows are about local time
    begin = (local.hour * 60 + local.minute + 60) % 1440
    names.promotes = (Window(frozenset(range(7)), begin, (begin + 60) % 1440),)
    again(names).publish("bot", "v1")
    assert names.leads("bot") == ("v1", None), "nothing runs that could be disturbed"
    names.publish("bot", "v2", "v3")
    names.turn()
    assert names.leads("bot") == ("v1", None)
    (first, _) = waiting_documents(names.ledger.read, names.promotes, clock.wall)
    assert (first["version"], first["until"]) == ("v3", datetime.fromtimestamp(clock.wall + HOUR, UTC).isoformat())
    clock.pass_by(HOUR)
    names.turn()
    assert names.leads("bot") == ("v3", None)
    names.publish("bot", "v4")
    assert names.leads("bot") == ("v4", None), "the window is open"
    names.turn()
    clock.pass_by(HOUR)
    names.publish("bot", "v5")
    names.turn()
    assert names.leads("bot") == ("v4", None)
    assert names.told() == ["bot/v1", "bot/v3", "bot/v4"]


def test_a_pinned_name_stays_when_a_window_opens(names: Names) -> None:
    names.promotes = "manual"
    again(names).publish("bot", "v1")
    current.pin(names.root / "bot", "v1", names.folder.staging.scratch())
    names.publish("bot", "v2")
    names.promotion.change("now")
    names.turn()
    assert names.leads("bot") == ("v1", "v1")
    assert waiting_documents(names.ledger.read, "manual", 0.0) == []


@pytest.mark.parametrize("promotes", ["now", "manual"])
def test_a_version_that_a_person_removed_is_not_led_to(names: Names, promotes: Any) -> None:
    names.publish("bot", "v1")
    names.promotes = promotes
    again(names).publish("bot", "v2")
    names.turn()
    parent, led = names.root / "bot", str(names.leads("bot")[0])
    shutil.rmtree(parent / led)
    fault = names.folder.tend_current(parent)
    if promotes == "manual":
        assert fault == "it leads to v1, which is not there; `axomsync promote` leads it to another version"
        assert not current.is_led_to(str(parent / led))
    else:
        assert fault is None
        assert names.leads("bot") == ("v1", None)


@pytest.mark.parametrize("first", ["v1", "v2"])
@pytest.mark.parametrize("promotes", ["manual", ()])  # () is no window at all
def test_a_new_name_promotes_nothing(names: Names, promotes: Any, first: str) -> None:
    names.publish("bot", "v1")
    names.promotes = promotes
    again(names).publish("bot", "v2")
    names.turn()
    assert names.leads("bot") == ("v1", None)
    rows = sorted(names.ledger.read.models(), key=lambda row: row.version != first)
    for row in rows:
        rename(names, row.version, f"robot/{row.version}")
    names.folder.tend_current(names.root / "robot")
    names.turn()
    assert names.leads("robot") == ("v1", None)
    assert not (names.root / "bot").exists()
    assert names.told()[-1] == "robot/v1"


def test_a_new_label_of_the_version_that_leads_is_told_and_is_no_trial(names: Names) -> None:
    names.publish("bot", "v1", "v2")
    names.turn()
    names.ledger.end_trial(str(names.root / "bot"), "id-0001")
    rename(names, "v1", "v1.0")
    names.turn()
    assert names.told() == ["bot/v2"], "it does not lead"
    rename(names, "v2", "v2.0")
    names.turn()
    names.turn()
    assert names.told() == ["bot/v2", "bot/v2.0"]
    assert names.leads("bot") == ("v2.0", None)
    assert trials(names) == []


def test_a_move_that_was_not_noticed_before_the_new_label_is_told_once(names: Names) -> None:
    names.publish("bot", "v1")
    rename(names, "v1", "v1.0")
    names.turn()
    names.turn()
    assert names.told() == ["bot/v1.0"]


def test_a_new_name_tells_that_the_old_one_is_gone(names: Names) -> None:
    gone = names.root.parent / "gone"
    names.hooks = {"model_removed": ["sh", "-c", f'echo "$AXOMSYNC_NAME/$AXOMSYNC_VERSION $AXOMSYNC_PATH" >>{gone}']}
    again(names).publish("bot", "v1")
    names.turn()
    rename(names, "v1", "v1.0")
    names.turn()
    assert not gone.exists()
    rename(names, "v1.0", "a%b/v2")
    names.turn()
    assert gone.read_text() == f"bot/v1.0 {names.root}/bot/v1.0\n"
    rename(names, "v2", "chat/v2")
    names.turn()
    assert gone.read_text().splitlines()[1:] == [f"a%b/v2 {names.root}/a%25b/v2"]
    assert names.told() == ["bot/v1", "bot/v1.0", "a%b/v2", "chat/v2"]


def test_a_healthy_version_is_checked_again_and_again_then_its_trial_is_over(names: Names, clock: Clock) -> None:
    counted = names.root.parent / "checks"
    names.hooks |= {"health": ["sh", "-c", f"echo x >>{counted}"]}
    again(names).publish("bot", "v1", "v2")
    for _ in range(7):
        names.turn()
        names.turn()
        clock.pass_by(CHECK_SECONDS)
    assert counted.read_text().count("x") == 7, "every ten seconds, at the beginning and at the end of a minute"
    assert trials(names) == []
    assert names.leads("bot") == ("v2", None)


def test_a_version_that_fails_goes_back_and_is_not_promoted_again(names: Names, clock: Clock) -> None:
    names.publish("bot", "v1")
    names.turn()
    clock.pass_by(61)
    names.turn()
    names.publish("bot", "v2-bad")
    names.turn()
    assert names.leads("bot") == ("v1", "v1")
    again_and_again = (
        "its health check ended with 1; it said: answers nonsense; current went back to v1, which is pinned; to let newer "
        "versions lead again: `axomsync unpin bot`; to try this one again, then: `axomsync promote bot v2-bad`"
    )
    assert names.problems() == {"health of bot/v2-bad": again_and_again}
    again(names).turn()
    assert names.problems() == {"health of bot/v2-bad": again_and_again}, "a restart does not forget it"
    names.turn()
    assert names.told() == ["bot/v1", "bot/v2-bad", "bot/v1"]
    names.publish("bot", "v3")
    names.turn()
    assert names.leads("bot") == ("v1", "v1")
    parent, scratch = names.root / "bot", names.folder.staging.scratch()
    shutil.rmtree(parent / "v3")
    current.unpin(parent, scratch, names.folder.choose)
    names.turn()
    assert (names.leads("bot"), names.problems()) == (("v1", None), {})
    names.publish("bot", "v4")
    names.turn()
    assert names.leads("bot") == ("v4", None)


def test_a_failed_version_is_tried_again_when_a_person_says_so(names: Names) -> None:
    names.publish("bot", "v1")
    names.turn()
    names.publish("bot", "v2-bad")
    names.turn()
    parent, scratch = names.root / "bot", names.folder.staging.scratch()
    current.unpin(parent, scratch, names.folder.choose)
    current.promote(parent, "v2-bad", scratch)
    names.hooks |= {"health": ["true"]}
    again(names).turn()
    assert names.leads("bot") == ("v2-bad", None)
    assert [trial["version"] for trial in trials(names)] == ["v2-bad"]


def test_without_a_version_before_current_stays_and_that_is_said(names: Names) -> None:
    names.publish("bot", "v1-bad")
    names.turn()
    names.turn()
    assert names.leads("bot") == ("v1-bad", None)
    (reason,) = names.problems().values()
    assert "there is no version before it to go back to, so current stays" in reason
    names.publish("bot", "v2")
    names.turn()
    assert (names.leads("bot"), names.problems()) == (("v2", None), {})
    shutil.rmtree(names.root / "bot" / "v1-bad")
    names.publish("bot", "v3-bad")
    shutil.rmtree(names.root / "bot" / "v2")
    names.turn()
    assert names.leads("bot") == ("v3-bad", None)


@pytest.mark.parametrize(
    ("check", "words"),
    [
        ("echo loading; exit 75", "its health check ended with 75; it said: loading; "),
        (None, "its health check can't be run: No such file or directory; "),
    ],
)
def test_not_ready_yet_is_a_failure_only_at_the_end(names: Names, clock: Clock, check: str | None, words: str) -> None:
    names.publish("bot", "v1")
    names.turn()
    names.hooks |= {"health": ["sh", "-c", check] if check else ["/nowhere"]}
    again(names).publish("bot", "v2")
    for _ in range(6):
        names.turn()
        assert names.leads("bot") == ("v2", None)
        clock.pass_by(CHECK_SECONDS)
    names.turn()
    assert names.leads("bot") == ("v1", "v1")
    assert names.problems()["health of bot/v2"].startswith(words)


def test_a_check_that_hangs_is_ended_and_is_a_failure(names: Names) -> None:
    names.publish("bot", "v1")
    names.turn()
    names.hooks |= {"health": ["sh", "-c", "echo asking; sleep 987"], "timeout": "200ms"}
    again(names).publish("bot", "v2")
    names.turn()
    assert names.leads("bot") == ("v1", "v1")
    assert "its health check took longer than 0.2 s; it said: asking" in names.problems()["health of bot/v2"]


def test_a_trial_that_ended_while_no_agent_ran_is_judged_by_one_check(names: Names, clock: Clock) -> None:
    names.publish("bot", "v1")
    names.turn()
    names.hooks |= {"health": ["sh", "-c", "exit 75"]}
    again(names).publish("bot", "v2")
    names.turn()
    assert len(trials(names)) == 1
    names.end()
    clock.pass_by(24 * HOUR)
    names.begin().turn()
    assert names.leads("bot") == ("v1", "v1")


def test_a_clock_that_is_set_does_not_end_a_trial(names: Names, clock: Clock) -> None:
    names.publish("bot", "v1", "v2")
    names.turn()
    clock.wall += 24 * HOUR
    clock.monotonic += CHECK_SECONDS
    names.turn()
    (trial,) = trials(names)
    assert trial["checks"] == 2
    clock.monotonic += 60 - CHECK_SECONDS
    names.turn()
    assert trials(names) == []


def test_a_person_who_pins_or_moves_current_ends_the_trial(names: Names) -> None:
    parent, scratch = names.root / "bot", names.folder.staging.scratch()
    names.publish("bot", "v1", "v2")
    names.turn()
    assert len(trials(names)) == 1
    current.pin(parent, "v2", scratch)
    names.turn()
    assert trials(names) == []
    current.pin(parent, "v1", scratch)
    names.turn()
    assert (trials(names), names.leads("bot")) == ([], ("v1", "v1"))


def test_retention_keeps_the_version_to_go_back_to(names: Names, clock: Clock) -> None:
    from axomsync.config import MirrorSettings

    names.publish("bot", "v1")
    names.turn()
    clock.pass_by(61)
    names.turn()
    settings = MirrorSettings(folder=names.root, keep=1)
    space = Space(settings, names.folder, names.ledger, names.now)
    names.publish("bot", "v2")
    assert space.retain() == [], "its successor leads, and nobody has looked yet"
    names.turn()
    assert space.retain() == [], "its successor is on trial"
    clock.pass_by(61)
    names.turn()
    assert space.retain() == ["bot/v1: removed, not among the newest 1 of its name ([mirror] keep)"]


def test_no_check_runs_before_the_engine_was_told(names: Names) -> None:
    order = names.root.parent / "order"
    names.hooks |= {
        "health": ["sh", "-c", f"echo check >>{order}"],
        "current_moved": ["sh", "-c", f"echo told >>{order}; exit 75"],
    }
    again(names).publish("bot", "v1")
    names.turn()
    names.turn()
    assert order.read_text().split() == ["told", "check"]


def test_health_needs_a_command(names: Names) -> None:
    names.publish("bot", "v1", "v2")
    names.turn()
    assert len(trials(names)) == 1
    names.hooks = {}
    again(names).turn()
    assert trials(names) == []
    assert HookSettings().health == ()


def test_a_kill_at_any_step_leaves_the_old_or_the_new_version_and_the_way_back_is_taken(tmp_path: Path) -> None:
    with Lives() as lives:
        steps = 0
        while steps < 100:
            steps += 1
            names = Names(tmp_path / f"{steps}")
            names.hooks = {"health": ["sh", "-c", CHECK], "health_for": "1h"}
            names.begin().publish("bot", "v1")
            names.turn()
            names.publish("bot", "v2-bad")
            names.end()
            killed = lives.live(names.state.parent, "one turn", kill_before=steps)
            assert killed in (0, -9)
            assert names.leads("bot")[0] in ("v1", "v2-bad")
            assert names.incomplete() == []
            assert lives.live(names.state.parent, "one turn") == 0
            assert names.leads("bot") == ("v1", "v1")
            assert "answers nonsense" in names.problems()["health of bot/v2-bad"]
            assert lives.live(names.state.parent, "one turn") == 0
            assert names.told()[-1] == "bot/v1", "the engine was told to go back"
            if killed == 0:
                break
        assert 5 < steps < 100


@pytest.mark.parametrize(
    ("names_count", "versions", "promotions", "ill"),
    [(2, 10, 10, 0), pytest.param(40, 25, 500, 100, marks=[pytest.mark.stress, pytest.mark.timeout(1800)])],
)
def test_promotions_and_failures_with_kills_at_random(
    tmp_path: Path, names_count: int, versions: int, promotions: int, ill: int
) -> None:
    """Every fifth version is ill. There are at least so many `promotions` of versions, and `ill` ones among them."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    names = Names(tmp_path)
    names.promotes = "manual"
    names.begin()
    for number in range(names_count):
        called = (f"v{n}{'-bad' if n % 5 == 0 else ''}" for n in range(1, versions + 2))
        names.publish(f"bot{number}", *called)
        current.promote(names.root / f"bot{number}", "v1", names.folder.staging.scratch())
    names.turn()
    names.end()
    kills = 0
    with Lives() as lives:
        while (code := lives.live(tmp_path, "busy", kill_after=dice.uniform(0.05, 0.4), seed=dice.randrange(1 << 32))) != 0:
            assert code == -9
            kills += 1
            assert names.incomplete() == []
    told = names.told()
    for number in range(names_count):
        mine = [line.partition("/")[2] for line in told if line.startswith(f"bot{number}/")]
        assert names.leads(f"bot{number}")[0] == f"v{versions + 1}" == mine[-1]
    failures = sum(line.endswith("-bad") for line in told)
    assert len(told) - failures >= promotions  # each failure is told again as a way back
    assert failures >= ill
    print(f"{kills} kills, {len(told)} moves told, {failures} of versions that are ill")
    reader = Reader(names.state / "state.db")
    assert [trial for trial in reader.trials() if trial.verdict is None] == []
    reader.close()


def test_nothing_is_made_in_the_place_of_a_mirror_that_is_not_mounted(names: Names) -> None:
    names.publish("bot", "v1", "v2")
    names.turn()
    away = names.root.rename(names.root.with_name("away"))
    names.root.mkdir()
    again(names).turn()
    assert list(names.root.iterdir()) == []
    names.root.rmdir()
    away.rename(names.root)
    names.publish("bot", "v3")
    current.promote(names.root / "bot", "v2", names.folder.staging.scratch())
    away = names.root.rename(names.root.with_name("away"))
    names.turn()
    away.rename(names.root)
    names.turn()
    assert names.leads("bot") == ("v3", None), "what was due meanwhile is done"
