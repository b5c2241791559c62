"""Hooks: what they are told, that none is forgotten, and that none holds anything up."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from axomsync.config import HookSettings
from axomsync.core.errors import LocalFault
from axomsync.core.records import ModelState, RemoteModel, Stamp, UploadState
from axomsync.ledger import Ledger
from axomsync.ops.hooks import TRIES, Hooks
from axomsync.runtime.programs import OUTPUT_LIMIT
from tests.rig.agent import AgentProcess, eventually
from tests.rig.contexts import worker_context
from tests.rig.disks import locked
from tests.rig.faults import KEY, Content, FaultyServer

REPOSITORY = Path(__file__).parents[2]
TELL = (
    "import json, os, sys; print(json.dumps([sys.argv[1:], json.load(sys.stdin), dict(os.environ)]), file=open({!r}, 'a'))"
)


class Installation:
    """A ledger, and the hooks that are run for it; `later` moves the clock on."""

    def __init__(self, folder: Path) -> None:
        self.now, self.folder = 1e9, folder
        self.ledger = Ledger(folder / "state", lambda: self.now, patience=0.05)
        self.told_file = folder / "told"
        self.stop = threading.Event()

    def hooks(self, environ: dict[str, str] | None = None, **settings: Any) -> Hooks:
        context = worker_context(self.ledger, stop=self.stop, random=lambda: 1.0, now=lambda: self.now)
        return Hooks(HookSettings(**settings), context, {**os.environ, **(environ or {})})

    def run(self, environ: dict[str, str] | None = None, **settings: Any) -> None:
        self.hooks(environ, **settings).run_due()

    def teller(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", TELL.format(str(self.told_file)), *arguments]

    def told(self) -> list[Any]:
        return [json.loads(line) for line in self.told_file.read_text().splitlines()] if self.told_file.exists() else []

    def model(self, *states: ModelState, reason: str | None = None) -> None:
        if not self.ledger.read.models():
            remote = RemoteModel("id-1", "$(name) ü", "v1", 7, None, "ready", None)
            self.ledger.record_catalog([(remote, ModelState.QUEUED, None)])
        for state in states:
            self.ledger.move_model("id-1", state, reason=reason)

    def publish(self) -> None:
        self.model(ModelState.DOWNLOADING, ModelState.VERIFYING, ModelState.PUBLISHED)

    def output(self) -> list[tuple[int, int, str]]:
        rows = self.ledger.write(lambda db: db.conn.execute("SELECT attempts, done, output FROM events").fetchall())
        return [tuple(row) for row in rows]


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Installation]:
    installation = Installation(tmp_path)
    yield installation
    installation.ledger.close()


def test_as_the_first_process_the_agent_reaps_what_hooks_leave(tmp_path: Path) -> None:
    leaves = ["sh", "-c", "setsid sleep 0.2 & sleep 0.1 & exit 0"]
    with FaultyServer() as server:
        server.add_model("m", "v1", {"w": Content(1000)})
        config = {"hooks": {"model_published": leaves}, "drop": {"enabled": False}}
        with AgentProcess(tmp_path, server.url, KEY, config) as agent:
            agent.start("unshare", "--fork", "--kill-child", "--pid", "--mount-proc")
            assert agent.process is not None
            (first,) = children(agent.process.pid)
            eventually("a hook", lambda: "hook model_published: done" in agent.log())
            eventually("nobody left", lambda: children(first) == [])
            os.kill(first, signal.SIGTERM)
            assert agent.wait() == 0


def children(pid: int) -> list[int]:
    """Of a process, the dead that nobody has waited for among them."""
    return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


def test_a_hook_is_told_what_happened_and_not_the_key(here: Installation) -> None:
    here.publish()
    here.run(
        {"AXOM_KEY": KEY, "CREDENTIALS_DIRECTORY": "/run/x", "RUNTIME_DIRECTORY": "/run/x"},
        model_published=here.teller("$(touch x)", "; false"),
    )
    ((arguments, document, environment),) = here.told()
    assert arguments == ["$(touch x)", "; false"]
    assert (document["event"], document["at"]) == ("model_published", "2001-09-09T01:46:40+00:00")
    assert (document["model"]["name"], document["model"]["state"]) == ("$(name) ü", "published")
    assert environment["AXOMSYNC_EVENT"] == "model_published"
    assert (environment["AXOMSYNC_NAME"], environment["AXOMSYNC_ID"]) == ("$(name) ü", "id-1")
    assert not {"AXOM_KEY", "CREDENTIALS_DIRECTORY", "RUNTIME_DIRECTORY"} & set(environment)
    here.run(model_published=here.teller())
    assert len(here.told()) == 1


def test_an_upload_and_its_failure_are_told(here: Installation) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        here.ledger.see_uploads([(name.encode(), name, Stamp(1, 2, 3, 4, 5))])
    first, second = (row.id for row in here.ledger.read.uploads())
    for state in (UploadState.CHECKING, UploadState.QUEUED, UploadState.UPLOADING, UploadState.UPLOADED):
        here.ledger.move_upload(first, state).result()
    for state in (UploadState.CHECKING, UploadState.REJECTED):
        here.ledger.move_upload(second, state, reason="line 1").result()
    here.run(upload_done=here.teller("done"), failed=here.teller("failed"))
    told = {tuple(arguments): document["upload"] for arguments, document, _ in here.told()}
    assert told["done",]["filename"] == "a.jsonl"
    assert (told["failed",]["filename"], told["failed",]["reason"]) == ("b.jsonl", "line 1")


def test_a_removed_model_is_told_with_the_folder_that_it_had(here: Installation) -> None:
    here.model(ModelState.DOWNLOADING, ModelState.VERIFYING)
    here.ledger.record_published("id-1", "/srv/models/bot/v1", [], [], None)
    here.ledger.record_pruned("id-1", "[mirror] keep")
    here.run(model_removed=here.teller("removed"))
    ((_, document, environment),) = here.told()
    assert (document["event"], document["model"]["state"]) == ("model_removed", "pruned")
    assert document["model"]["path"] == environment["AXOMSYNC_PATH"] == "/srv/models/bot/v1"


def test_a_failure_that_goes_on_is_told_once(here: Installation) -> None:
    for _ in range(3):
        here.model(ModelState.DOWNLOADING, ModelState.BLOCKED, reason="no room")
        here.run(failed=here.teller())
    assert len(here.told()) == 1
    here.publish()
    here.run(failed=here.teller())
    here.ledger.move_model("id-1", ModelState.QUEUED)
    here.model(ModelState.BLOCKED, reason="no room")
    here.run(failed=here.teller())
    assert len(here.told()) == 2, "after a success it may fail anew"


def test_what_happened_without_a_hook_is_not_told_later(here: Installation) -> None:
    here.publish()
    here.run()
    here.run(model_published=here.teller())
    assert here.told() == []


def test_a_hook_that_fails_is_tried_again_then_given_up(here: Installation) -> None:
    here.publish()
    failing = ["sh", "-c", "echo out; echo err >&2; exit 3"]
    here.run(model_published=failing)
    (problem,) = here.ledger.read.problems()
    assert (problem.subject, problem.reason) == ("hook model_published", "sh ended with 3; it said: out · err")
    assert here.output() == [(1, 0, "ended with 3: out · err")]
    here.run(model_published=here.teller())
    assert here.told() == [], "not before its time"
    here.now += 2.0
    here.run(model_published=here.teller())
    assert len(here.told()) == 1
    here.ledger.move_model("id-1", ModelState.QUEUED)
    here.publish()
    for _ in range(TRIES):
        here.now += 301.0
        here.run(model_published=["/nowhere"])
    assert here.output()[1][:2] == (TRIES, 1)
    assert here.output()[1][2].startswith("can't be run: No such file or directory")
    assert here.ledger.read.problems()[0].reason.endswith(f"given up after {TRIES} tries")


def test_a_hook_that_does_not_end_is_ended_with_all_that_it_started(here: Installation) -> None:
    here.publish()
    began = time.monotonic()
    script = f"sleep 987 & echo $! >{shlex.quote(str(here.told_file))}; yes; wait"
    here.run(model_published=["sh", "-c", script], timeout="300ms")
    assert time.monotonic() - began < 10
    ((attempts, done, output),) = here.output()
    assert (attempts, done) == (1, 0)
    assert output.startswith("took longer than 0.3 s: ")
    assert OUTPUT_LIMIT / 2 < len(output) < 4 * OUTPUT_LIMIT
    child = Path("/proc") / here.told_file.read_text().strip()
    eventually("the end of what it started", lambda: not child.exists() or "Z" in (child / "stat").read_text().split()[2])


def test_the_next_life_runs_a_hook_that_a_kill_cut_off(tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = 'echo begun >>"$0"; while [ ! -e "$0.go" ]; do sleep 0.05; done; echo "$AXOMSYNC_VERSION" >>"$0"'
    config = {"drop": {"enabled": False}, "hooks": {"model_published": ["sh", "-c", script, str(told)], "timeout": "1h"}}
    with FaultyServer() as server, AgentProcess(tmp_path / "box", server.url, KEY, config) as agent:
        server.add_model("chassis", "v1", {"a.bin": Content(1000, 1)})
        agent.start()
        eventually("the hook", lambda: told.exists())
        server.add_model("chassis", "v2", {"a.bin": Content(1000, 2)})
        eventually("the next model, all the same", lambda: (agent.mirror / "chassis" / "v2").exists())
        agent.kill()
        (tmp_path / "told.go").touch()
        agent.start()
        eventually("both hooks", lambda: set(told.read_text().split()) == {"begun", "v1", "v2"})
        assert agent.terminate() == 0


def test_the_shipped_example_restarts_the_server_of_the_model(tmp_path: Path) -> None:
    """Against stand-ins for systemctl, which note what they are asked."""
    for name in ("systemctl", "systemd-escape"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*" >>"{tmp_path}/asked"\necho vllm@my-model.service\n')
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "AXOMSYNC_NAME": "my-model",
        "AXOMSYNC_VERSION": "v2",
    }
    done = subprocess.run(
        [REPOSITORY / "systemd/examples/restart-vllm"], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("restarted vllm@my-model.service with v2\n")
    assert (tmp_path / "asked").read_text().splitlines() == [
        "systemd-escape --template=vllm@.service -- my-model",
        "systemctl --quiet is-active vllm@my-model.service",
        "systemctl restart vllm@my-model.service",
    ]


PEEP = """
count() { grep -zc "^AXOM_KEY=" "/proc/$PPID/environ" 2>/dev/null; }
mem() { head -c 0 "/proc/$PPID/mem" 2>/dev/null && echo open; }
echo "$(id -u):$(count):$(mem)" >"$1.new"; mv "$1.new" "$1"
"""


def test_a_hook_of_the_same_user_can_not_read_the_key_from_the_agent() -> None:
    """Nor may anything else of that user; root may read everything."""
    assert os.geteuid() == 0, "the agent is to run as another user"
    place = Path(tempfile.mkdtemp())  # pytest's own folders are root's
    try:
        told = place / "box" / "models" / "told"
        hooks = {"upload_done": ["sh", "-c", PEEP, "sh", str(told)]}
        with FaultyServer() as server, AgentProcess(place / "box", server.url, KEY, {"hooks": hooks}) as agent:
            (agent.drop / "a.jsonl").write_text('{"a": 1}\n')
            subprocess.run(["chown", "-R", "65534:65534", place], check=True)
            agent.start("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
            eventually("the hook", told.exists)
            assert told.read_text() == "65534::\n"
            assert agent.process is not None
            assert b"AXOM_KEY=" in Path(f"/proc/{agent.process.pid}/environ").read_bytes(), (
                "it was not given by the environment"
            )
            assert agent.terminate() == 0
    finally:
        shutil.rmtree(place)


def test_an_event_that_trips_a_bug_does_not_keep_the_others_waiting(here: Installation) -> None:
    columns = 'kind, "table", subject, at'
    here.ledger.execute(f"INSERT INTO events ({columns}) VALUES ('upload_done', 'uploads', 'no number', 1)").result()
    here.publish()
    here.run(model_published=here.teller(), upload_done=here.teller())
    assert [document["event"] for _, document, _ in here.told()] == ["model_published"]
    (problem,) = here.ledger.read.problems()
    assert (problem.subject, "unexpected ValueError" in problem.reason) == ("hooks", True)
    assert here.output()[0] == (1, 0, "unexpected ValueError")


@pytest.mark.parametrize("code", [0, 1])
def test_what_ran_while_the_ledger_was_locked_runs_no_second_time(here: Installation, code: int) -> None:
    here.publish()
    told = shlex.join(here.teller())
    hooks = here.hooks(model_published=["sh", "-c", f"{told}; exit {code}"])
    with locked(here.folder / "state"):
        for _ in range(3):
            with pytest.raises(LocalFault, match="keeps it locked"):
                hooks.run_due()
        assert [document["event"] for _, document, _ in here.told()] == ["model_published"]
    hooks.run_due()
    assert len(here.told()) == 1
    assert [(attempts, done) for attempts, done, _ in here.output()] == [(1, int(code == 0))]


def test_a_check_whose_verdict_could_not_be_written_is_not_made_again(here: Installation) -> None:
    here.publish()
    here.ledger.record_current("folder", "id-1", told=False, trial=True, guarded=False)
    here.ledger.drop_events(["model_published"], 0.0)
    hooks = here.hooks(health=here.teller(), health_for="60s")
    with locked(here.folder / "state"):
        for _ in range(3):
            with pytest.raises(LocalFault, match="keeps it locked"):
                hooks.run_due()
    hooks.run_due()
    assert [document["event"] for _, document, _ in here.told()] == ["health"]
    (trial,) = here.ledger.read.trials()
    assert (trial.checks, trial.ends_at) == (1, here.now + 60.0)
