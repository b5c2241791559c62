"""`axomsync logs` without systemd: the file that the agent's errors go to. `tests/systemd` has the journal."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from axomsync.core.errors import LocalFault
from axomsync.ops.log_sources import LogFile, Wanted, time_in
from tests.rig.agent import AgentProcess, eventually
from tests.rig.faults import KEY

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC).timestamp()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    with AgentProcess(tmp_path / "box", "http://127.0.0.1:9/api", KEY) as agent:
        yield agent


@pytest.mark.parametrize(
    ("line", "at"),
    [
        ("2026-11-27T12:00:00+00:00 info    a", NOON),
        ("2026-11-27T13:00:00+01:00 info    a", NOON),
        ('{"time": "2026-11-27T12:00:00.000+00:00", "message": "a"}', NOON),
        ("Traceback (most recent call last):", None),
        ("{not JSON", None),
        ('{"message": "a"}', None),
        ('{"time": []}', None),
        ("", None),
    ],
)
def test_time_of_a_line(line: str, at: float | None) -> None:
    assert time_in(line) == at


def test_lines_are_chosen_by_time_and_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "log"
    file.write_text(
        "of an older life\n2026-11-27T11:00:00+00:00 info    one\n2026-11-27T12:00:00+00:00 error   two\nTraceback\n"
        "  deep\n2026-11-27T13:00:00+00:00 info    three\n"
    )

    def shown(wanted: Wanted) -> list[str]:
        assert LogFile(file).show(wanted) == 0
        return [line.rpartition(" ")[2] for line in capsys.readouterr().out.splitlines()]

    assert shown(Wanted()) == ["life", "one", "two", "Traceback", "deep", "three"]
    assert shown(Wanted(since=NOON)) == ["two", "Traceback", "deep", "three"]
    assert shown(Wanted(since=NOON, most=2)) == ["deep", "three"]
    assert shown(Wanted(most=0)) == []
    with pytest.raises(LocalFault, match="gone"):
        LogFile(tmp_path / "gone").show(Wanted())


def test_the_log_file_of_a_running_agent_is_shown_and_followed(agent: AgentProcess) -> None:
    none_runs = agent.call("logs")
    assert (none_runs.returncode, "no agent holds" in none_runs.stderr) == (1, True)
    agent.start()
    eventually("the console's problem", lambda: "can't connect" in agent.log())
    assert "works with" in agent.call("logs", "--since", "1h").stdout
    assert agent.call("logs", "--since", "2126-01-01").stdout == ""
    assert agent.call("logs", "--since", "soon").returncode == 2
    following = subprocess.Popen(agent.command("logs", "--follow", "-n", "0"), env=agent.environ, stdout=subprocess.PIPE)
    output = following.stdout
    assert output is not None

    def a_line_came() -> bool:
        agent.hangup()
        return bool(select.select([output], [], [], 0.2)[0])

    eventually("a line while it is followed", a_line_came)
    assert b"reload" in output.readline()  # the first line of a reload, or the last one when it began before the following
    following.send_signal(signal.SIGINT)
    assert following.wait(10) == 130


def test_a_log_that_goes_nowhere_is_told(tmp_path: Path, agent: AgentProcess) -> None:
    with open(os.devnull, "w") as nowhere:
        agent.process = subprocess.Popen(agent.command("run"), env=agent.environ, stdout=nowhere, stderr=nowhere)
    eventually("a running agent", lambda: agent.status()["agent"]["running"])
    done = agent.call("logs")
    assert (done.returncode, "logs to /dev/null; look there, or start it" in done.stderr) == (1, True)


def test_a_journal_that_may_not_be_read_is_told() -> None:
    program = (
        "import os; os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534);"
        "from axomsync.ops.log_sources import Journal, Wanted; from axomsync.ops.managed import ManagedUnit;"
        "Journal([ManagedUnit('axomsync.service', True, False)]).show(Wanted())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "may read it; run: sudo axomsync logs" in done.stderr or "no journal is kept here" in done.stderr
