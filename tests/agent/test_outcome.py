"""What a pass leaves undone: which reason comes first, and what is told once."""

import shutil
import time
from typing import Any

from axomsync.agent.outcome import undone
from axomsync.core.errors import KeyRefused, LocalFault, Transient
from axomsync.core.records import Model, ModelState, Problem, RemoteModel
from tests.rig.agent import AgentProcess
from tests.rig.faults import Content, Fault, FaultyServer

REFUSED, DOWN = KeyRefused("the key is refused"), Transient("it answered 503")


def model(state: ModelState, reason: str | None = None) -> Model:
    return Model.listed(RemoteModel("id", "chassis", "v1", None, None, "ready", None), state, reason)


def test_a_refused_key_comes_first_whichever_direction_meets_it() -> None:
    for failures in ([("console", REFUSED), ("console", DOWN)], [("console", DOWN), ("console", REFUSED)]):
        left = undone(failures, [], [], [model(ModelState.BLOCKED, "no room")], rejected=False)
        assert [(one.code, one.words) for one in left] == [
            (4, "console: the key is refused"), (1, "chassis/v1: blocked: no room"), (75, "console: it answered 503")
        ]  # fmt: skip


def test_a_folder_that_can_not_be_read_is_told_once() -> None:
    problem = Problem("drop folder", "it is missing", time.time(), None)
    for failures, code in (([("drop folder", LocalFault("it is missing"))], 1), ([], 75)):
        left = undone(failures, [problem], [], [], rejected=False)
        assert [(one.code, one.words, one.is_listed) for one in left] == [(code, "drop folder: it is missing", False)]


def test_each_problem_asks_for_its_code() -> None:
    codes = {"drop folder": 75, "views": 1, "rights of models": 1, "bot/current": 1, "upkeep": None, "bot/v1": None}
    for subject, code in codes.items():
        left = undone([], [Problem(subject, "why", time.time(), None)], [], [], rejected=False)
        assert [(one.code, one.words) for one in left] == ([] if code is None else [(code, f"{subject}: why")])


def test_a_model_that_is_not_served_as_asked_is_for_a_person(server: FaultyServer, agent: AgentProcess) -> None:
    """Also when only the models of this pass meet the obstacle."""
    flat, current = agent.home / "flat", agent.mirror / "bot" / "current"
    off: dict[str, Any] = {"drop": {"enabled": False}}
    agent.configure({**off, "mirror": {"views": [f"flat:{flat}"]}})
    agent.sync(expect=0)  # it makes the view
    server.add_model("bot", "v1", {"a.bin": Content(10)})
    (flat / "bot").mkdir()
    (flat / "bot" / "mine").touch()
    assert "ends with 1: views: " in agent.sync(expect=1).stderr
    (flat / "bot" / "mine").unlink()
    agent.sync(expect=0)
    current.unlink()
    current.mkdir()
    assert "ends with 1: bot/current: " in agent.sync(expect=1).stderr
    current.rmdir()
    agent.sync(expect=0)
    shutil.rmtree(agent.mirror)
    current.mkdir(parents=True)
    assert "ends with 1: bot/current: " in agent.sync(expect=1).stderr


def test_a_model_that_a_failing_ledger_left_under_way_is_undone() -> None:
    for state in (ModelState.QUEUED, ModelState.DOWNLOADING, ModelState.VERIFYING):
        (one,) = undone([], [], [], [model(state)], rejected=False)
        assert (one.code, one.words, one.is_listed) == (75, f"chassis/v1: {state}", True)
    assert undone([], [], [], [model(ModelState.PUBLISHED), model(ModelState.IGNORED)], rejected=False) == []


def test_a_paused_pass_tells_the_pause_and_no_other_reason(server: FaultyServer, agent: AgentProcess) -> None:
    server.inject(Fault(status=404, body=b"{}"), "/presign", method="POST", times=2)
    (agent.drop / "a.jsonl").write_text('{"text": "a"}\n')
    assert "ends with 1: a.jsonl: failed: " in agent.call("sync").stderr
    agent.call("pause")
    paused = agent.call("sync")
    assert paused.returncode == 75
    assert "paused; run `axomsync resume` to end the pause" in paused.stderr
    assert "ends with" not in paused.stderr
