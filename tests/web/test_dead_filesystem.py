"""A folder on a filesystem that never answers: the page, `status` and probes answer, and uploads go on."""

import json
import subprocess
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.rig.agent import AgentProcess, eventually
from tests.rig.disks import OWN_MOUNTS, beside, on_dead_disk, silent_disk
from tests.rig.faults import Content, FaultyServer

SCRAPES = 45  # more than the page has threads
IN_USE = "mirror folder's filesystem"
PROMPT = 4.0  # seconds; half of what a client waits
SILENT = "its filesystem does not answer"


def status_beside(agent: AgentProcess) -> dict[str, Any]:
    """What `status` tells where the agent runs, which has mounts of its own."""
    assert agent.process is not None
    done = call(agent, *beside(agent.process.pid), *agent.command("status", "--json"))
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def call(agent: AgentProcess, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=agent.environ, cwd=agent.home, capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize("mirrors", [False, True])
def test_a_dead_filesystem_of_the_mirror_holds_up_nobody_else(
    mirrors: bool, server: FaultyServer, agent: AgentProcess
) -> None:
    server.add_model("llama", "v1", {"w": Content(10)})
    agent.sync()
    agent.configure({"mirror": {"enabled": mirrors, "poll": "1h"}, "web": {"listen": "127.0.0.1:0"}})
    agent.start(*OWN_MOUNTS)
    page = str(eventually("a page", lambda: agent.status()["agent"]["page"]))
    if mirrors:
        assert agent.call("poll").returncode == 0
    eventually("readiness", lambda: httpx.get(page + "readyz").status_code == 200)
    assert agent.process is not None

    def get(path: str) -> tuple[int, str, float]:
        began = time.monotonic()
        answer = httpx.get(page + path, timeout=8)
        return answer.status_code, answer.text, time.monotonic() - began

    assert ('axomsync_free_bytes{folder="mirror"}' in get("metrics")[1]) is mirrors
    with silent_disk(agent.mirror, agent.process.pid):
        with ThreadPoolExecutor(SCRAPES) as clients:
            scrapes = [clients.submit(get, "metrics") for _ in range(SCRAPES)]
            time.sleep(0.3)
            for probe in ("healthz", "readyz"):
                code, _, seconds = get(probe)
                assert (code, seconds < PROMPT) == (200, True), f"{probe} waited for the disk"
            assert {scrape.result()[0] for scrape in scrapes} == {200}

        code, metrics, seconds = get("metrics")
        assert (code, seconds < PROMPT) == (200, True)
        assert f'axomsync_problem{{subject="{IN_USE}"}} {float(mirrors)}' in metrics
        assert 'axomsync_free_bytes{folder="mirror"}' not in metrics
        assert 'axomsync_free_bytes{folder="drop"}' in metrics
        assert f'current="{str(mirrors).lower()}"' in metrics, "the last known link"
        for told in (json.loads(get("api/status")[1]), status_beside(agent)):
            assert (told["mirror"]["disk"], told["mirror"]["free_bytes"]) == ("silent" if mirrors else "off", None)
            assert told["drop"]["disk"] == "ok"
            reasons = [problem["reason"] for problem in told["problems"] if problem["subject"] == IN_USE]
            assert [reason.partition(";")[0] for reason in reasons] == [f"{agent.mirror}: {SILENT}"] * mirrors

        (agent.drop / "a.jsonl").write_text('{"text": "a"}\n')
        eventually("the upload", (agent.drop / "uploaded" / "a.jsonl.receipt.json").exists)
        assert agent.terminate() == 0
    assert "Traceback" not in agent.log()


def test_an_agent_starts_and_uploads_though_the_mirror_does_not_answer(server: FaultyServer, agent: AgentProcess) -> None:
    agent.start(*OWN_MOUNTS, *on_dead_disk(agent.mirror))
    (agent.drop / "a.jsonl").write_text('{"text": "a"}\n')
    eventually("the upload", (agent.drop / "uploaded" / "a.jsonl.receipt.json").exists)
    assert agent.process is not None
    doctor = call(agent, *beside(agent.process.pid), *agent.command("doctor"))
    assert f"{agent.mirror}: {SILENT}" in doctor.stdout
    assert agent.terminate() == 0


# Verbs that need the folder, and what they end with.
NEED: dict[str, dict[str, int | None]] = {
    "state": {"uploads": 1, "wait llama": 1, "retry": 1, "run": 1, "doctor --no-write": 1, "version": 0},
    "drop": {"explain a.jsonl": 1, "doctor --no-write": 1, "uploads": None},
    "mirror": {"models": 1, "wait llama": 1, "explain llama": 1, "warm llama": 1, "pin llama": 1, "uploads": None},
}  # fmt: skip


@pytest.mark.parametrize("section", NEED)
def test_no_command_waits_for_a_folder_that_does_not_answer(section: str, server: FaultyServer, agent: AgentProcess) -> None:
    folder = {"state": agent.state, "drop": agent.drop, "mirror": agent.mirror}[section]
    server.add_model("llama", "v1", {"w": Content(10)})
    agent.sync()

    def done(verb: str) -> subprocess.CompletedProcess[str]:
        return call(agent, *OWN_MOUNTS, *on_dead_disk(folder), *agent.command(*verb.split()))

    with ThreadPoolExecutor() as callers:
        ended = {verb: callers.submit(done, verb) for verb in NEED[section]}
    for verb, code in NEED[section].items():
        told = ended[verb].result()
        assert told.returncode == (code or 0), (verb, told)
        assert (f"{folder}: {SILENT}" in told.stdout + told.stderr) is (code is not None), (verb, told)


def test_doctor_tells_of_the_other_folders_when_one_does_not_answer(agent: AgentProcess) -> None:
    agent.state.mkdir()
    done = call(agent, *OWN_MOUNTS, *on_dead_disk(agent.mirror), *agent.command("doctor", "--no-write", "--json"))
    found = {finding["subject"]: finding["verdict"] for finding in json.loads(done.stdout)}
    assert found["mirror folder"] == "fail"
    assert {found[f"{name} space"] for name in ("state", "drop")} == {"ok"}


def test_what_needs_no_folder_of_a_direction_that_is_off_does_not_wait_for_it(agent: AgentProcess) -> None:
    agent.state.mkdir()
    (agent.drop / "a.jsonl").write_text('{"text": "a"}\n')
    agent.configure({"mirror": {"enabled": False}})
    for verb in (["explain", "a.jsonl"], ["wait", "llama", "--timeout", "0s"]):
        done = call(agent, *OWN_MOUNTS, *on_dead_disk(agent.mirror), *agent.command(*verb))
        assert SILENT not in done.stdout + done.stderr, done


def test_a_bundle_is_made_though_a_folder_does_not_answer(agent: AgentProcess) -> None:
    agent.state.mkdir()
    file = agent.home / "bundle.tar.gz"
    done = call(agent, *OWN_MOUNTS, *on_dead_disk(agent.state), *agent.command("bundle", "-o", str(file)))
    assert done.returncode == 0, done
    with tarfile.open(file) as archive:
        texts = {member.name.partition("/")[2]: archive.extractfile(member) for member in archive}
        assert texts["disks.txt"] is not None
        disks = texts["disks.txt"].read().decode()
    assert f"{agent.state}: {SILENT}" in disks
    assert "Filesystem" in disks, "what df tells of the others"
    assert "ledger/error.txt" in texts
