"""`axomsync doctor`: what works, what does not and what to do, against a console and a storage that can misbehave."""

import errno
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from axomsync.config import Settings
from axomsync.core.errors import LocalFault
from axomsync.ops import access
from axomsync.ops.doctor import environment, far_side, folders, views, watching
from axomsync.ops.doctor.findings import Finding, Verdict, standing_alone
from axomsync.ops.doctor.installation import Installation
from axomsync.transport.proxies import Proxies
from tests.rig.agent import AgentProcess
from tests.rig.disks import dead_disk, fill, remount, small_disk
from tests.rig.faults import FOREVER, KEY, Content, Fault, FaultyServer, http_date, s3_error

HERE = Path("/srv/x")


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        server.add_model("m", "v1", {"w": Content(1000)})
        yield server


@pytest.fixture
def agent(tmp_path: Path, server: FaultyServer) -> Iterator[AgentProcess]:
    config = {"drop": {"enabled": True}, "mirror": {"enabled": True, "reserve": "0B"}}
    with AgentProcess(tmp_path / "box", server.url, KEY, config) as agent:
        agent.state.mkdir(parents=True, exist_ok=True)
        yield agent


def examined(agent: AgentProcess, *options: str, code: int) -> dict[str, dict[str, str]]:
    done: subprocess.CompletedProcess[str] = agent.call("doctor", "--json", *options)
    assert done.returncode == code, done.stdout + done.stderr
    assert KEY not in done.stdout
    assert "X-Amz-Signature" not in done.stdout
    return {finding["subject"]: finding for finding in json.loads(done.stdout)}


def test_all_is_well(agent: AgentProcess, server: FaultyServer) -> None:
    before = set(server.objects)
    server.inject(Fault(headers={"Date": http_date(0)}), "/api/models", times=FOREVER)
    found = examined(agent, "--speed", code=0)
    assert "to measure with" in found["speed"]["found"]
    assert {subject for subject, finding in found.items() if finding["verdict"] == "fail"} == set()
    for subject in ("console", "scope models", "scope datasets", "download", "upload", "clock", "watching", "ledger"):
        assert found[subject]["verdict"] == "ok", found[subject]
    (left,) = set(server.objects) - before
    assert left in found["upload"]["found"], "it says what it leaves behind"


def test_without_writing_it_leaves_nothing(agent: AgentProcess, server: FaultyServer) -> None:
    before = set(server.objects)
    found = examined(agent, "--no-write", code=0)
    assert "upload" not in found
    assert found["scope datasets"]["verdict"] == "ok"
    assert set(server.objects) == before


@pytest.mark.parametrize(("include", "verdict"), [("*.jsonl", "ok"), ("*.JSONL.GZ", "fail")])
def test_compressed_files_need_room_beside_the_ledger(agent: AgentProcess, include: str, verdict: str) -> None:
    agent.configure({"drop": {"include": [include]}, "mirror": {"enabled": False, "reserve": "900TB"}})
    found = examined(agent, "--no-write", code=0 if verdict == "ok" else 1)
    assert found["state space"]["verdict"] == verdict
    assert ("900000.0 GB must be" in found["state space"]["found"]) is (verdict == "fail")


def test_a_refused_key_keeps_no_other_check_from_being_made(agent: AgentProcess, server: FaultyServer) -> None:
    server.inject(Fault(401, body=b'{"detail": "revoked"}'), "/api/", times=FOREVER)
    found = examined(agent, code=4)
    assert "refuses the API key (revoked)" in found["console"]["found"]
    assert found["ledger"]["verdict"] == "ok"


@pytest.mark.parametrize(
    ("method", "path", "subject", "scope"),
    [("POST", "/uploads/presign", "scope datasets", "datasets"), ("GET", "/download", "scope models", "models")],
)
def test_a_scope_that_is_missing_is_named(
    agent: AgentProcess, server: FaultyServer, method: str, path: str, subject: str, scope: str
) -> None:
    server.inject(Fault(403, body=b'{"detail": "missing scope"}'), path, method=method, times=FOREVER)
    found = examined(agent, code=1)
    assert found[subject]["verdict"] == "fail"
    assert f"lacks the scope '{scope}'" in found[subject]["found"]
    others = {"scope datasets", "scope models"} - {subject}
    assert all(found[other]["verdict"] == "ok" for other in others)


def test_storage_that_refuses_is_told_both_ways(agent: AgentProcess, server: FaultyServer) -> None:
    for method in ("GET", "PUT"):
        server.inject(s3_error(503, "SlowDown", "Reduce your rate"), "/bucket/", method=method, times=FOREVER)
    found = examined(agent, code=1)
    for subject in ("download", "upload"):
        assert "SlowDown" in found[subject]["found"]
        assert found[subject]["fix"]


def test_an_answer_that_confirms_nothing_is_no_upload(agent: AgentProcess, server: FaultyServer) -> None:
    for answer in (
        Fault(200, {"ETag": None}, b""),
        Fault(200, {}, b"<Error><Code>InternalError</Code></Error>"),
        Fault(200, {"ETag": '"hello"'}, b'{"error": "blocked"}'),
    ):
        server.inject(answer, "/bucket/", method="PUT")
        found = examined(agent, code=1)["upload"]
        assert (found["verdict"], bool(found["fix"])) == ("fail", True), found
        assert "confirmed" in found["found"]


def test_a_clock_that_is_off_is_measured_by_the_consoles(agent: AgentProcess, server: FaultyServer) -> None:
    server.inject(Fault(headers={"Date": http_date(3600)}), "/api/models", times=FOREVER)
    found = examined(agent, code=1)
    assert found["clock"]["verdict"] == "fail"
    assert re.match(r"3[56][0-9]{2} s behind the console's", found["clock"]["found"])
    assert "synchronisation" in found["clock"]["fix"]


def test_a_state_folder_that_the_first_start_makes_is_no_fault(agent: AgentProcess) -> None:
    state = agent.state / "new"
    agent.configure({"state": {"folder": str(state)}})
    found = examined(agent, code=0)["state folder"]
    assert (found["verdict"], found["found"]) == ("ok", f"{state} is made by the first start")
    assert not state.exists()


def test_what_is_wrong_on_this_machine_is_told(agent: AgentProcess) -> None:
    agent.drop.rmdir()
    agent.mirror.rmdir()
    agent.mirror.touch()
    (agent.state / "state.db").write_bytes(b"no database at all" * 1000)
    found = examined(agent, code=1)
    assert found["drop folder"]["verdict"] == "fail"
    assert "is not there" in found["drop folder"]["found"]
    assert (found["mirror folder"]["found"], found["mirror folder"]["fix"]) == (
        f"{agent.mirror} is no folder",
        "move it away, or correct [mirror] folder",
    )
    assert found["watching"]["verdict"] == "warn"
    assert found["ledger"]["verdict"] == "fail"
    assert "rebuilt from receipts" in found["ledger"]["fix"]
    said = agent.call("doctor", "--no-write").stdout
    assert "create it, or correct [drop] folder" in said


def test_where_files_are_put_away_is_tried_too(agent: AgentProcess) -> None:
    uploaded, rejected = agent.drop / "uploaded", agent.drop / "rejected"
    with small_disk(uploaded, "size=64k"), small_disk(rejected, "size=1m"), small_disk(agent.mirror, "size=1m"):
        fill(uploaded)
        for folder in (rejected, agent.mirror):
            remount(folder, "ro")
        found = examined(agent, "--no-write", code=1)
        tried = examined(agent, code=1)
    for each in (found, tried):
        assert [each[name]["fix"] for name in ("drop rejected/", "mirror folder")] == ["remount it read-write"] * 2
        assert "rights" not in {name for name, finding in each.items() if finding["verdict"] == "fail"}
    assert found["drop uploaded/ space"]["verdict"] == "fail"
    assert tried["drop uploaded/"]["fix"].startswith(f"free some space on {uploaded}")


def test_a_folder_that_can_not_be_reached_hides_no_other_finding(agent: AgentProcess, tmp_path: Path) -> None:
    with dead_disk(tmp_path / "dead") as dead:
        view = tmp_path / "view"
        mirror = {"folder": str(dead / "models"), "views": [f"flat:{view}"], "promote": "manual"}
        agent.configure({"drop": {"folder": str(dead / "drop")}, "mirror": mirror})
        for options in ((), ("--no-write",)):
            found = examined(agent, *options, code=1)
            for part in ("drop", "mirror"):
                finding = found[f"{part} folder"]
                assert finding["found"].startswith(f"{dead / ('drop' if part == 'drop' else 'models')}: the program that")
                assert (finding["verdict"], finding["fix"]) == ("fail", "mount it anew")
            assert {found[name]["verdict"] for name in ("console", "ledger", "state space")} == {"ok"}


def test_what_lies_below_a_folder_that_one_may_not_enter_is_told(place: Path, server: FaultyServer) -> None:
    folders = {"drop": {"folder": str(place / "srv/drop")}, "mirror": {"folder": str(place / "srv/models")}}
    for folder in folders.values():
        Path(folder["folder"]).mkdir(parents=True)
    (place / "srv").chmod(0o750)
    with AgentProcess(place / "box", server.url, KEY, folders) as agent:
        agent.home.chmod(0o755)
        nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        command = [*nobody, *agent.command("doctor", "--no-write", "--json")]
        done = subprocess.run(command, env=agent.environ, cwd="/", capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1, done.stderr
    found = {finding["subject"]: finding for finding in json.loads(done.stdout)}
    for name in ("drop folder", "mirror folder"):
        assert f"may not look into {place / 'srv'}" in found[name]["found"], found[name]
    assert found["console"]["verdict"] == "ok"


def test_a_check_that_fails_in_any_way_is_a_finding(caplog: pytest.LogCaptureFixture) -> None:
    def check(failure: Exception) -> Iterator[Finding]:
        yield Finding("first", Verdict.OK, "well")
        raise failure

    for failure, words in (
        (LocalFault("/x: it is closed; run: chmod u+x /x"), "/x: it is closed"),
        (OSError(errno.EIO, "I/O error"), "local file: the disk reported an I/O error"),
        (ValueError("a bug"), "unexpected ValueError: a bug"),
    ):
        first, second = standing_alone("part", check(failure))
        assert first.subject == "first"
        assert (second.subject, second.verdict, second.found) == ("part", Verdict.FAIL, words)
        assert second.fix
    assert len([record for record in caplog.records if record.exc_info]) == 1, "the bug"


def proxy(environ: dict[str, str]) -> Finding:
    return next(environment.proxies(Proxies.of(environ)))


@pytest.mark.parametrize(
    ("finding", "verdict", "words"),
    [
        (far_side.skew(2.0), Verdict.OK, "agrees"),
        (far_side.skew(-45.0), Verdict.WARN, "45 s ahead of the console's"),
        (environment.clock(synchronised=False), Verdict.WARN, "nothing synchronises"),
        (folders.filesystem("state", HERE, "nfs4"), Verdict.FAIL, "is on nfs4"),
        (folders.filesystem("drop", HERE, "nfs4"), Verdict.WARN, "polling"),
        (folders.filesystem("mirror", HERE, "xfs"), Verdict.OK, "xfs"),
        (folders.space("mirror", HERE, 10**9, 2 * 10**9), Verdict.FAIL, "2.0 GB must be"),
        (folders.space("mirror", HERE, 3 * 10**9, 2 * 10**9), Verdict.OK, "3.0 GB free"),
        (folders.inodes("drop", HERE, 12), Verdict.WARN, "12 left"),
        (folders.archive(300 * 10**9, 5 * 10**9, 10**9), Verdict.WARN, "hold 300.0 GB, and 5.0 GB are free"),
        (folders.archive(300 * 10**9, 50 * 10**9, 10**9), Verdict.OK, "50.0 GB are free"),
        (folders.archive(10**9, 2 * 10**9, 10**9), Verdict.OK, "2.0 GB are free"),
        (watching.watches(900, 1000), Verdict.WARN, "900 folders"),
        (watching.watches(10, 1000), Verdict.OK, "10 folders"),
        (
            proxy({"HTTPS_PROXY": "http://me:secret@proxy.example:3128"}),
            Verdict.OK,
            "the proxy proxy.example:3128 ($HTTPS_PROXY)",
        ),
        (proxy({"all_proxy": "me:secret@proxy.example:nine"}), Verdict.WARN, "$all_proxy: left out"),
    ],
)
def test_verdicts(finding: Finding, verdict: Verdict, words: str) -> None:
    assert finding.verdict is verdict
    assert words in finding.found
    assert "secret" not in finding.found
    assert bool(finding.fix) == (verdict is not Verdict.OK)


def test_root_is_told_that_the_service_is_somebody_else() -> None:
    assert [finding.verdict for finding in environment.user(0, "axomsync")] == [Verdict.WARN]
    assert list(environment.user(1000, "axomsync")) == []


def test_views_are_checked(tmp_path: Path) -> None:
    def found(*texts: str, **unit: str) -> list[tuple[Verdict, str, str]]:
        settings = Settings.model_validate({"mirror": {"folder": tmp_path / "models", "views": list(texts)}})
        units: list[access.Unit] = [{"Id": "axomsync.service", **unit}] if unit else []
        findings = views.views(Installation(settings, {}, units, write=False))
        return [(finding.verdict, finding.found, finding.fix) for finding in findings]

    (tmp_path / "models").mkdir()
    place = tmp_path / "serving"
    assert found(f"flat:{place}") == [(Verdict.OK, f"flat:{place}", "")], "it will be made"
    assert not place.exists()
    place.mkdir()
    (place / "mine").touch()
    ((verdict, told, fix),) = found(f"flat:{place}")
    assert (verdict, told) == (Verdict.FAIL, f"{place}: it holds mine, which the agent did not make")
    assert fix == "name an empty folder in [mirror] views, or empty this one"
    ((verdict, told, fix),) = found("hf:/nowhere/hf")
    assert (verdict, told[:50]) == (Verdict.FAIL, "/nowhere/hf: the folder of this view is not there,")
    assert "install -d" in fix
    (place / "mine").unlink()
    ((verdict, told, fix),) = found(f"flat:{place}", ProtectSystem="strict", ReadWritePaths="/srv/axom")
    assert (verdict, told) == (Verdict.FAIL, f"[mirror] views: {place}: axomsync.service makes it read-only")
    assert f"ReadWritePaths={place}" in fix
