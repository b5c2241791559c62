"""What the verbs print: JSON with fixed keys in every state, tables on a terminal, plain text in a pipe."""

import csv
import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from pathlib import Path
from typing import Any

import pytest

from axomsync.cli.output import print_csv
from tests.rig.agent import AgentProcess, eventually
from tests.rig.disks import fill, small_disk
from tests.rig.faults import FOREVER, Content, Fault, FaultyServer
from tests.rig.old_ledger import old_ledger

STATUS = {
    "version": str,
    "instance": (str, None),
    "agent": {
        "running": bool,
        "pid": (int, None),
        "since": (str, None),
        "paused": bool,
        "paused_until": (str, None),
        "asked": list,
        "page": (str, None),
    },
    "console": {"url": str, "ok": (bool, None), "last_poll": (str, None), "error": (str, None)},
    "drop": {
        "folder": str,
        "observer": (str, None),
        "counts": dict,
        "orphans": int,
        "last_success": (str, None),
        "disk": str,
        "free_bytes": (int, None),
        "left_alone": list,
        "put_away": dict,
    },
    "mirror": {
        "folder": str,
        "counts": dict,
        "last_success": (str, None),
        "disk": str,
        "free_bytes": (int, None),
        "waiting": list,
        "trials": list,
        "gateways": list,
    },
    "transfers": list,
    "problems": list,
}
TRANSFER = {"direction", "name", "bytes_done", "bytes_received", "bytes_total", "rate", "eta"}
PROBLEM = {"subject", "reason", "since", "next_attempt"}
UPLOAD = {
    "path", "folder", "filename", "bytes", "sha256", "lines", "state", "reason", "upload_id", "key", "etag", "shards",
    "orphans", "created_at", "updated_at", "repeated_lines", "shape", "packed",
}  # fmt: skip
MODEL = {
    "id", "name", "version", "params", "remote_status", "state", "reason", "bytes_done", "bytes_total", "path", "created_at",
    "damage", "verified_at", "pulled", "proofs", "current", "digest", "bytes_from_gateways",
}  # fmt: skip
UPLOAD_STATES = ["settling", "checking", "queued", "uploading", "uploaded", "rejected", "duplicate", "held", "failed"]
MODEL_STATES = [
    "waiting", "ignored", "queued", "downloading", "verifying", "published", "blocked", "failed", "gone", "pruned",
]  # fmt: skip


def assert_form(document: Any, form: Any) -> None:
    if isinstance(form, dict):
        assert list(document) == list(form)
        for key, inner in form.items():
            assert_form(document[key], inner)
    elif isinstance(form, tuple):
        assert document is None or isinstance(document, form[0])
    else:
        assert isinstance(document, form)


def documents_of(agent: AgentProcess) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    status, uploads, models = agent.status(), agent.uploads(), agent.models()
    assert_form(status, STATUS)
    assert list(status["drop"]["counts"]) == UPLOAD_STATES
    assert list(status["mirror"]["counts"]) == MODEL_STATES
    for rows, keys in ((status["transfers"], TRANSFER), (status["problems"], PROBLEM), (uploads, UPLOAD), (models, MODEL)):
        for row in rows:
            assert set(row) == keys
    return status, uploads, models


def test_json_has_its_keys_whatever_the_agent_does(server: FaultyServer, agent: AgentProcess) -> None:
    server.add_model("llama", "v1", {"w": Content(5_000_000)})
    server.add_model("soon", "v2", {"w": Content(1)}, status="training")
    status, uploads, models = documents_of(agent)
    assert (status["agent"]["running"], status["console"]["ok"], uploads) == (False, None, [])
    assert {(row["name"], row["state"]) for row in models} == {("llama", "queued"), ("soon", "waiting")}

    server.inject(Fault(cut=100_000, ending="stall"), times=FOREVER)
    agent.configure({"transfer": {"stall": "1s"}})
    (agent.drop / "a.jsonl").write_text('{"text": "a"}\n')
    (agent.drop / "b.jsonl").write_text("broken\n")
    agent.start()
    eventually("a download", lambda: server.sent() > 10_000)
    eventually("the rejection", (agent.drop / "rejected" / "b.jsonl").exists)
    eventually("what the agent tells of it", lambda: agent.status()["transfers"])
    status, uploads, models = documents_of(agent)
    assert agent.process is not None
    assert (status["agent"]["running"], status["agent"]["pid"]) == (True, agent.process.pid)
    assert [transfer["direction"] for transfer in status["transfers"]] == ["down"]
    assert status["console"]["ok"] is True

    server.heal()
    eventually("the model", (agent.mirror / "llama" / "v1" / "w").exists)
    assert agent.terminate() == 0
    status, uploads, models = documents_of(agent)
    assert (status["agent"]["running"], status["agent"]["pid"], status["transfers"]) == (False, None, [])
    assert {row["path"]: row["state"] for row in uploads} == {"a.jsonl": "uploaded", "b.jsonl": "rejected"}
    assert [row["path"] for row in models if row["state"] == "published"] == [str(agent.mirror / "llama" / "v1")]


def test_without_an_agent_status_looks_at_the_folders_itself(server: FaultyServer, agent: AgentProcess) -> None:
    server.add_model("m", "v1", {"w": Content(1)}, status="training")
    agent.sync()
    for folder in (agent.drop, agent.mirror):
        folder.rename(folder.with_name(f"{folder.name}-away"))
    agent.mirror.touch()
    told = {problem["subject"]: problem["reason"] for problem in agent.status()["problems"]}
    assert told == {
        "drop folder": f"{agent.drop}: it is not there; create it, or correct [drop] folder",
        "mirror folder": f"{agent.mirror}: it is not a folder; move it away, or correct [mirror] folder",
    }
    assert f"{agent.drop}  nothing yet  (missing)" in agent.call("status").stdout


def test_between_an_upgrade_and_the_first_start_status_says_what_to_do(agent: AgentProcess) -> None:
    old_ledger(agent.state)
    status = agent.status()
    assert status["agent"]["running"] is False
    (problem,) = status["problems"]
    assert problem["subject"] == "ledger"
    assert "state.db: of an older version; start the agent anew" in problem["reason"]


def test_what_the_ledger_knows_is_listed_even_when_the_console_does_not_answer(
    server: FaultyServer, agent: AgentProcess
) -> None:
    server.add_model("llama", "v1", {"w": Content(10)})
    agent.sync()
    agent.environ["AXOM_KEY"] = "axom_live_wrong"
    refused = agent.call("models", "--json")
    server.inject(Fault(status=503), "/api/", times=9)
    down = agent.call("models", "--json")
    assert (refused.returncode, down.returncode) == (4, 75)
    for done in (refused, down):
        assert [row["state"] for row in json.loads(done.stdout)] == ["published"]
        assert "this list is what the ledger knows" in done.stderr


# Pipes


def test_in_a_pipe_it_is_plain_text_however_long(server: FaultyServer, agent: AgentProcess) -> None:
    name = "a-model-with-a-name-that-goes-on-" * 5
    server.add_model(name, "v1", {"w": Content(10)})
    agent.sync()
    done = agent.call("models")
    assert "\x1b" not in done.stdout
    heads, row = done.stdout.splitlines()
    assert heads.split() == ["STATE", "NAME", "VERSION", "CONSOLE", "SIZE", "PATH", "FILES", "REASON"]
    assert row.split() == ["published", name, "v1", "ready", "10", "B", str(agent.mirror / name / "v1"), "1", "proven"]


def test_a_reader_that_goes_away_is_no_error(server: FaultyServer, agent: AgentProcess) -> None:
    for number in range(2000):
        server.models.append({"id": f"m-{number}", "name": "n" * 60, "version": f"v{number}", "status": "training"})
    for verb in (("models",), ("models", "--json")):
        command = " ".join(f"'{word}'" for word in agent.command(*verb))
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command} | head -1"],
            env=agent.environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0
        assert len(done.stdout.splitlines()) == 1
        assert done.stderr == ""


def test_a_full_device_is_told_without_a_traceback(agent: AgentProcess) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            agent.command("status", "--json"), env=agent.environ, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    words = "axomsync: standard output: the disk is full; free some space where it goes to, or write elsewhere\n"
    assert done.stderr == words


def test_a_command_that_ends_on_a_full_disk_promises_nothing_of_an_agent(agent: AgentProcess, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "size=64k") as small:
        fill(small)
        done = agent.call("bundle", "-o", str(small / "b.tar.gz"))
        assert done.returncode == 1
        assert f"the disk is full; free some space on {small}; or write it to standard output" in done.stderr


def test_an_output_that_knows_only_ascii_is_no_error(server: FaultyServer, agent: AgentProcess) -> None:
    server.add_model("größe", "v1", {"w": Content(1)}, status="training")
    agent.environ |= {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = agent.call("models")
    assert done.returncode == 0, done.stderr
    assert "gr\\xf6\\xdfe" in done.stdout


def test_names_from_elsewhere_can_not_steer_the_terminal(server: FaultyServer, agent: AgentProcess) -> None:
    server.add_model("\x1b[31mred\x07\n", "v1", {"w": Content(1)}, status="training\x1b]0;x\x07")
    done = agent.call("models")
    assert "\x1b" not in done.stdout
    assert "\\x1b[31mred\\x07\\n" in done.stdout
    assert agent.models()[0]["name"] == "\x1b[31mred\x07\n", "JSON has its own escapes"


# Terminals


def on_a_terminal(agent: AgentProcess, *verb: str, width: int, height: int = 40, until: str = "", **environ: str) -> str:
    """What appears there; a verb that does not end by itself gets Ctrl-C as soon as `until` is seen."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    with subprocess.Popen(
        agent.command(*verb),
        env=agent.environ | {"TERM": "xterm-256color"} | environ,
        stdin=child,
        stdout=child,
        stderr=child,
    ) as process:
        os.close(child)
        output = b""
        while True:
            try:
                piece = os.read(parent, 65536)
            except OSError:
                break
            if not piece:
                break
            output += piece
            if until and until in output.decode(errors="replace"):
                process.send_signal(signal.SIGINT)
                until = ""
        assert process.wait() == 0, output
    os.close(parent)
    return output.decode().replace("\r\n", "\n")


@pytest.fixture
def worked(server: FaultyServer, agent: AgentProcess) -> AgentProcess:
    """An installation with something to show of every kind."""
    for name in agent.environ.copy():
        if name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "CLICOLOR"):
            del agent.environ[name]
    server.add_model("llama", "v1", {"w": Content(10)})
    server.add_model("evil", "v1", {"../w": Content(10)})
    (agent.drop / "a.jsonl").write_text('{"text": "a"}\n')
    (agent.drop / "broken.jsonl").write_text("broken\n")
    agent.sync(expect=1)
    return agent


@pytest.mark.parametrize("verb", [("status",), ("models",), ("uploads",), ("config", "show")])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_tables_fit_the_terminal_and_lose_nothing(verb: tuple[str, ...], width: int, worked: AgentProcess) -> None:
    shown = on_a_terminal(worked, *verb, width=width)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert max(map(len, plain.splitlines())) <= width
    words = {"status": "running", "models": "published", "uploads": "rejected", "config": "drop.settle"}
    letters = "".join(plain.split())
    if width >= 80:
        assert words[verb[0]] in letters


def test_colour_is_for_terminals_that_want_it(worked: AgentProcess) -> None:
    assert "\x1b[32mpublished" in on_a_terminal(worked, "models", width=200)
    assert "\x1b[3" not in on_a_terminal(worked, "models", width=200, NO_COLOR="1")
    assert "\x1b" not in on_a_terminal(worked, "models", width=200, TERM="dumb")


def test_status_is_one_screen_that_names_each_problem(worked: AgentProcess) -> None:
    shown = worked.call("status").stdout
    assert "not running" in shown
    assert "1 published, 1 blocked" in shown
    assert "evil/v1" in shown
    assert Path(worked.drop).name in shown


def test_a_reason_can_be_read_on_a_narrow_terminal(worked: AgentProcess) -> None:
    shown = on_a_terminal(worked, "status", width=40, NO_COLOR="1")
    words = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", shown).split())
    assert "'../w' would leave the model's folder; publish the model again in the console" in words
    assert "correct it, and move it from rejected/ back into the drop folder" in words


def test_watching_says_when_not_all_fits(worked: AgentProcess) -> None:
    seen = on_a_terminal(worked, "status", "--watch", width=40, height=12, until="more lines")
    assert re.search(r"… \d+ more lines: axomsync status", seen)
    assert "more lines" not in on_a_terminal(worked, "status", "--watch", width=120, until="next try")


def test_watching_on_a_terminal_that_can_not_write_over_anything(worked: AgentProcess) -> None:
    assert "\x1b" not in on_a_terminal(worked, "status", "--watch", width=60, until="PROBLEMS", TERM="dumb")


def test_csv_has_no_formulas_and_no_escape_sequences(capsys: pytest.CaptureFixture[str]) -> None:
    told = ["=1+1", "+1", "-1", "@SUM(A1)", "plain", "a\x1b[2J\r\nb", "\t=1", "\x9b2J", "\udcff"]
    print_csv(("text", "number"), [{"text": text, "number": -1} for text in told])
    cells = [row["text"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))]
    assert cells == [
        "'=1+1", "'+1", "'-1", "'@SUM(A1)", "plain", "a\\x1b[2J\\r\\nb", "\\t=1", "\\x9b2J", "\\xff"
    ]  # fmt: skip
