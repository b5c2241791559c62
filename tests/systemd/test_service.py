"""The shipped unit under a real systemd, installed by `axomsync service install`."""

import json
import time
from collections.abc import Callable

import pytest

from tests.rig.agent import PATIENCE
from tests.rig.container import Container
from tests.rig.inside import SandboxInside
from tests.rig.installation import PREFIX, PROGRAM
from tests.systemd.conftest import CONFIG, DROP_IN, GOOD_CONFIG, KEY, UNIT, WHEELS, install

PASS, TIMER, INSTANCE = "axomsync-sync.service", "axomsync-sync.timer", "axomsync@eu.service"


def until(condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {patience} s"
        time.sleep(0.05)


def is_running(machine: Container) -> bool:
    return machine.show(UNIT, "SubState") == "running"


def exists(machine: Container, path: str) -> bool:
    return machine.run("test", "-e", path, check=False).returncode == 0


def test_systemd_has_nothing_to_say_about_the_units(machine: Container) -> None:
    verdict = machine.run("systemd-analyze", "verify", "--man=no", UNIT, PASS, TIMER, INSTANCE)
    assert verdict.stdout + verdict.stderr == ""


@pytest.mark.parametrize("unit", [UNIT, PASS, INSTANCE])
def test_the_service_is_locked_in(machine: Container, unit: str) -> None:
    machine.run("systemd-analyze", "security", "--no-pager", "--threshold=20", "--offline=yes", unit)


def test_who_wants_no_daemon_has_a_pass_every_five_minutes(machine: Container, sandbox: SandboxInside) -> None:
    machine.write(CONFIG, f'[console]\nurl = "{sandbox.url}"\n[drop]\nsettle = "500ms"\n')
    machine.write(KEY, sandbox.key + "\n", mode=0o600)
    machine.write("/srv/axom/drop/pass.jsonl", '{"text": "a"}\n')
    machine.run("chown", "axomsync:", "/srv/axom/drop/pass.jsonl")
    machine.systemctl("start", PASS)  # returns at its end
    assert machine.show(PASS, "Result") == "success"
    machine.run("test", "-f", "/srv/axom/drop/uploaded/pass.jsonl.receipt.json")
    machine.systemctl("start", TIMER)
    assert machine.show(TIMER, "SubState") in ("waiting", "running")
    machine.systemctl("stop", TIMER, PASS)


def test_start_returns_when_the_agent_is_ready(machine: Container) -> None:
    machine.systemctl("start", UNIT)
    assert machine.show(UNIT, "ActiveState") == "active"
    assert machine.show(UNIT, "StatusText") != ""
    pid = machine.show(UNIT, "MainPID")
    assert machine.run("ps", "-o", "user=", pid).stdout.strip() == "axomsync"


def test_reload_keeps_the_process(machine: Container) -> None:
    machine.systemctl("start", UNIT)
    pid = machine.show(UNIT, "MainPID")
    machine.write(CONFIG, GOOD_CONFIG + '[log]\nlevel = "debug"\n')
    machine.systemctl("reload", UNIT)
    until(lambda: is_running(machine), "running after the reload")
    assert machine.show(UNIT, "MainPID") == pid


def test_a_key_is_rotated_by_a_reload(machine: Container, sandbox: SandboxInside) -> None:
    def console_is(ok: bool) -> Callable[[], bool]:
        return lambda: json.loads(machine.run(PROGRAM, "status", "--json").stdout)["console"]["ok"] is ok

    machine.write(CONFIG, f'[console]\nurl = "{sandbox.url}"\n[mirror]\npoll = "500ms"\n')
    machine.write(KEY, sandbox.key + "\n", mode=0o600)
    machine.systemctl("start", UNIT)
    pid = machine.show(UNIT, "MainPID")
    until(console_is(True), "a console that takes the key")
    sandbox.steer("keys/revoke", key=sandbox.key)
    until(console_is(False), "the refusal")
    fresh = sandbox.steer("keys", scopes=["read", "models", "datasets"])["key"]
    machine.write(KEY, fresh + "\n", mode=0o600)
    machine.systemctl("reload", UNIT)
    until(console_is(True), "a console that takes the new key")
    assert machine.show(UNIT, "MainPID") == pid
    assert (
        machine.run("stat", "-c", "%U %a", "/run/axomsync", "/run/axomsync/axom_key").stdout
        == "axomsync 700\naxomsync 600\n"
    )
    machine.systemctl("stop", UNIT)
    assert not exists(machine, "/run/axomsync"), "a start must hand over what lies there then"


def test_reload_with_a_bad_configuration_keeps_the_old_one_and_says_why(machine: Container) -> None:
    machine.systemctl("start", UNIT)
    pid = machine.show(UNIT, "MainPID")
    machine.write(CONFIG, GOOD_CONFIG + '[drop]\nsettel = "5s"\n')
    done = machine.systemctl("reload", UNIT, check=False)
    assert done.returncode != 0, "whoever asked must see it"
    assert f"journalctl -xeu {UNIT}" in done.stderr
    until(lambda: "settel" in machine.journal(UNIT), "the reason in the journal")
    until(lambda: is_running(machine), "running after the reload")
    assert machine.show(UNIT, "MainPID") == pid


def test_the_verbs_reload_and_logs_know_the_unit(machine: Container, sandbox: SandboxInside) -> None:
    machine.write(CONFIG, f'[console]\nurl = "{sandbox.url}"\n')
    machine.systemctl("start", UNIT)
    fresh = sandbox.steer("keys", scopes=["read", "models", "datasets"])["key"]
    machine.write(KEY, fresh + "\n", mode=0o600)
    machine.write(CONFIG, f'[console]\nurl = "{sandbox.url}"\n[log]\nlevel = "debug"\n')
    said = machine.run(PROGRAM, "reload").stdout
    assert said == f"{CONFIG} is in use: {UNIT} was reloaded\n", "the unit's own reload came first, which hands the key over"
    assert machine.run("cat", "/run/axomsync/axom_key").stdout == fresh + "\n"
    assert "reloaded" in machine.run(PROGRAM, "logs", "--since", "1h").stdout
    assert len(machine.run(PROGRAM, "logs", "-n", "1").stdout.splitlines()) == 1
    machine.write(CONFIG, GOOD_CONFIG + '[drop]\nsettel = "5s"\n')
    bad = machine.run(PROGRAM, "reload", check=False)
    assert (bad.returncode, "did you mean settle?" in bad.stderr) == (78, True)
    machine.write(CONFIG, GOOD_CONFIG)
    stranger = machine.run("setpriv", "--reuid=nobody", "--clear-groups", PROGRAM, "logs", check=False)
    assert (stranger.returncode, f"run: sudo journalctl --unit={UNIT}" in stranger.stderr) == (1, True), stranger.stderr


def test_a_reload_hands_the_key_to_whomever_the_unit_runs_as(machine: Container) -> None:
    machine.run("sh", "-c", "id runner >/dev/null 2>&1 || useradd --system runner")
    machine.write(DROP_IN, "[Service]\nUser=runner\nGroup=runner\nStateDirectory=runner\n")
    machine.write(CONFIG, GOOD_CONFIG + '[state]\nfolder = "/var/lib/runner"\n')
    machine.systemctl("daemon-reload")
    machine.systemctl("start", UNIT)
    machine.systemctl("reload", UNIT)
    told = machine.run("stat", "-c", "%U:%G %a", "/run/axomsync/axom_key").stdout
    assert told == "runner:runner 600\n"
    until(lambda: is_running(machine), "running after the reload")


def test_folders_that_the_sandbox_hides_are_told_with_the_line_that_opens_them(
    machine: Container, sandbox: SandboxInside
) -> None:
    machine.run("install", "-d", "-o", "axomsync", "-m", "755", "/data/drop", "/home/shared")
    machine.write("/var/tmp/small/config.json", "{}")
    sandbox.steer("models", name="small", version="v1", folder="/var/tmp/small")
    config = f'[console]\nurl = "{sandbox.url}"\n[drop]\nfolder = "/data/drop"\nsettle = "300ms"\n'
    machine.write(CONFIG, config + '[mirror]\nfolder = "/home/shared/models"\npoll = "1s"\n')
    machine.write(KEY, sandbox.key + "\n", mode=0o600)
    machine.run("install", "-d", "-o", "axomsync", "/home/shared/models")
    machine.write("/data/drop/a.jsonl", "broken\n")
    found = json.loads(machine.run(PROGRAM, "doctor", "--json", "--no-write", check=False).stdout)
    fixes = " ".join(f["fix"] for f in found if f["subject"] == "unit")
    edit = "systemctl edit axomsync, add below [Service]: "
    assert edit + "ReadWritePaths=/data/drop" in fixes
    assert edit + "ProtectHome=no, and ReadWritePaths=/home/shared/models" in fixes

    machine.systemctl("start", UNIT)

    def told(line: str) -> Callable[[], bool]:
        return lambda: f"run: systemctl edit axomsync, add below [Service]: {line}" in machine.run(PROGRAM, "status").stdout

    until(told("ReadWritePaths=/data/drop"), "what opens the drop folder")
    until(told("ProtectHome=no"), "what opens the mirror")
    opened = "[Service]\nReadWritePaths=/data/drop /home/shared/models\nProtectHome=no\n"
    machine.write(DROP_IN, opened)
    machine.systemctl("daemon-reload")
    machine.systemctl("restart", UNIT)
    until(lambda: machine.run("test", "-e", "/data/drop/rejected/a.jsonl", check=False).returncode == 0, "it")
    found = json.loads(machine.run(PROGRAM, "doctor", "--json", "--no-write", check=False).stdout)
    assert [f["verdict"] for f in found if f["subject"] == "unit"] == ["ok"]


def test_an_agent_that_was_killed_comes_back(machine: Container) -> None:
    machine.systemctl("start", UNIT)
    pid = machine.show(UNIT, "MainPID")
    machine.systemctl("kill", "--signal=KILL", UNIT)
    until(lambda: is_running(machine) and machine.show(UNIT, "MainPID") != pid, "a new process")


def test_the_watchdog_spares_an_idle_agent_and_replaces_a_frozen_one(machine: Container) -> None:
    machine.write(DROP_IN, "[Service]\nWatchdogSec=3\nTimeoutAbortSec=1\nRestartSec=0\n")
    machine.systemctl("daemon-reload")
    machine.systemctl("start", UNIT)
    pid = machine.show(UNIT, "MainPID")
    time.sleep(5)
    assert machine.show(UNIT, "MainPID") == pid, "an idle agent was taken for a frozen one"
    machine.systemctl("kill", "--signal=STOP", UNIT)
    until(lambda: is_running(machine) and machine.show(UNIT, "MainPID") != pid, "a new process")


def test_stop_is_clean_and_takes_less_than_ten_seconds(machine: Container) -> None:
    machine.systemctl("start", UNIT)
    begun = time.monotonic()
    machine.systemctl("stop", UNIT)
    assert time.monotonic() - begun < 10
    assert machine.show(UNIT, "Result") == "success"
    assert machine.show(UNIT, "ExecMainStatus") == "0"


def test_a_bad_configuration_stops_the_service_for_good_and_says_why(machine: Container) -> None:
    machine.write(CONFIG, GOOD_CONFIG + '[mirror]\npol = "1m"\n[nonsense]\n')
    assert machine.systemctl("start", UNIT, check=False).returncode != 0
    assert machine.show(UNIT, "ExecMainStatus") == "78"
    assert machine.show(UNIT, "SubState") == "failed", "it would be restarted"
    journal = machine.journal(UNIT)
    assert "did you mean poll?" in journal
    assert "nonsense" in journal


def test_a_newer_ledger_stops_the_service_for_good_and_says_why(machine: Container) -> None:
    machine.run("rm", "-rf", "/var/lib/axomsync")
    assert "takes effect when one starts" in machine.run(PROGRAM, "pause").stdout
    machine.systemctl("start", UNIT)  # what root has made there is the service's
    assert json.loads(machine.run(PROGRAM, "status", "--json").stdout)["agent"]["paused"]
    machine.systemctl("stop", UNIT)
    script = """import sqlite3; l = sqlite3.connect("/var/lib/axomsync/state.db"); l.execute(
        "INSERT INTO _sqlite_migrations VALUES (99, 'axomsync', 'm999_from_the_future', '2031-01-01')"); l.commit()"""
    machine.run("python3", "-c", script)
    assert machine.systemctl("start", UNIT, check=False).returncode != 0
    assert machine.show(UNIT, "ExecMainStatus") == "78"
    assert machine.show(UNIT, "SubState") == "failed", "it would be restarted"
    assert "written by a newer axomsync" in machine.journal(UNIT)
    machine.run("rm", "-rf", "/var/lib/axomsync")


def test_without_a_key_the_service_runs_and_says_what_it_lacks(machine: Container) -> None:
    before = machine.journal(UNIT)
    machine.run("rm", KEY)
    machine.systemctl("start", UNIT)
    until(lambda: "API key" in machine.journal(UNIT).removeprefix(before), "the complaint in the journal")
    assert is_running(machine)


def test_the_folders_are_for_whom_they_are_for(machine: Container) -> None:
    listing = machine.run("stat", "-c", "%n %a %U:%G", "/srv/axom", "/srv/axom/drop", "/srv/axom/models").stdout
    assert listing.splitlines() == [
        "/srv/axom 755 root:root",
        "/srv/axom/drop 2770 axomsync:axomsync",
        "/srv/axom/models 755 axomsync:axomsync",
    ]


def test_the_installer_may_run_again(machine: Container) -> None:
    said = install(machine).splitlines()
    assert [line for line in said if not line.endswith(": unchanged")] == [f"{CONFIG}: kept"]
    assert f"/usr/local/lib/systemd/system/{UNIT}: unchanged" in said
    assert machine.run("cat", CONFIG).stdout == GOOD_CONFIG


def test_the_wheel_in_an_environment_of_its_own_is_all_it_takes(machine: Container) -> None:
    home = "/opt/axomsync"
    machine.run(f"{PREFIX}/bin/python", "-m", "venv", "--without-pip", home)
    install_it = f"{PREFIX}/bin/python -m pip --python {home}/bin/python install -q --no-index --no-deps {WHEELS}/*.whl"
    machine.run("sh", "-c", install_it)
    # What it requires, which the network that this machine lacks would bring.
    site = machine.run(f"{home}/bin/python", "-c", "import site; print(site.getsitepackages()[0])").stdout.strip()
    machine.write(f"{site}/requirements.pth", site.replace(home, PREFIX) + "\n")

    def install_again() -> list[str]:
        return machine.run(f"{home}/bin/axomsync", "service", "install").stdout.splitlines()

    try:
        assert f"/usr/local/lib/systemd/system/{UNIT}: written" in install_again()
        assert f"/usr/local/lib/systemd/system/{UNIT}: unchanged" in install_again()
        assert f"path={home}/bin/axomsync ;" in machine.show(UNIT, "ExecStart")
        machine.systemctl("start", UNIT)
        assert machine.show(UNIT, "ActiveState") == "active"
    finally:
        install(machine)


@pytest.mark.parametrize(("folder", "mode", "why"), [("/home", "755", "home folders"), ("/opt/mine", "700", "can't run it")])
def test_a_program_that_the_service_could_not_run_is_refused(machine: Container, folder: str, mode: str, why: str) -> None:
    machine.run("install", "-d", "-m", mode, folder)
    machine.run("cp", PROGRAM, folder)
    done = machine.run(f"{folder}/axomsync", "service", "install", check=False)
    assert done.returncode == 1
    assert why in done.stderr
    assert "where everybody may read it" in done.stderr
    assert "written" not in done.stdout


def test_a_user_has_a_service_of_their_own(machine: Container, sandbox: SandboxInside) -> None:
    machine.run("useradd", "--create-home", "bob")
    home, runtime = "/home/bob", "/run/bob"
    machine.run("install", "-d", "-m", "700", "-o", "bob", runtime)
    # A user's manager without a login: nobody logs in here.
    manager = ("--uid=bob", "-p", "Type=notify", "-p", "Delegate=yes", f"--setenv=XDG_RUNTIME_DIR={runtime}")
    machine.run("systemd-run", "--quiet", "--unit=manager-of-bob", *manager, "/lib/systemd/systemd", "--user")

    def as_bob(*argv: str, stdin: str = "") -> str:
        words = ("runuser", "-u", "bob", "--", "env", f"HOME={home}", f"XDG_RUNTIME_DIR={runtime}", *argv)
        return machine.run(*words, stdin=stdin).stdout

    said = as_bob(PROGRAM, "service", "install", "--user")
    assert f"{home}/.config/systemd/user/{UNIT}: written" in said
    assert "systemd: has read the units" in said
    assert "written" not in as_bob(PROGRAM, "service", "install", "--user")
    verdict = as_bob("sh", "-c", f"systemd-analyze verify --man=no --user {home}/.config/systemd/user/*.* 2>&1")
    assert verdict == ""
    as_bob("sed", "-i", f's,^url = .*,url = "{sandbox.url}",', f"{home}/.config/axomsync/config.toml")
    as_bob("sh", "-c", f"umask 077; cat > {home}/.config/axomsync/key", stdin=f"{sandbox.key}\n")
    as_bob("systemctl", "--user", "start", UNIT)  # returns when it is ready
    status = json.loads(as_bob(PROGRAM, "status", "--json", "--config", f"{home}/.config/axomsync/config.toml"))
    assert status["agent"]["running"]
    assert status["drop"]["folder"] == f"{home}/axom/drop"
    pid = as_bob("systemctl", "--user", "show", "--value", "--property=MainPID", UNIT).strip()
    assert "Seccomp:\t2\n" in machine.run("cat", f"/proc/{pid}/status").stdout, "no filter of system calls"
    of_bob = ("--config", f"{home}/.config/axomsync/config.toml")
    assert f"is in use: {UNIT} was reloaded" in as_bob(PROGRAM, "reload", *of_bob)
    machine.run("usermod", "-aG", "systemd-journal", "bob")
    # The journal knows the unit of the agent's own lines only below user@.service: this manager runs elsewhere.
    assert "Reloaded axomsync.service" in as_bob(PROGRAM, "logs", *of_bob)
    assert "stopped and disabled" in as_bob(PROGRAM, "service", "uninstall", "--user")
    machine.systemctl("stop", "manager-of-bob")


def test_uninstalling_keeps_the_data(machine: Container) -> None:
    machine.systemctl("enable", "--now", UNIT)
    machine.systemctl("enable", "--now", TIMER)  # not with it: its pass may be the first to take the state folder
    machine.write("/srv/axom/models/m/1/config.json", "{}")
    machine.run(PROGRAM, "service", "uninstall")
    try:
        for unit in (UNIT, PASS, TIMER):
            assert machine.show(unit, "LoadState") == "not-found"
            assert machine.show(unit, "ActiveState") == "inactive"
        machine.run("test", "-f", "/srv/axom/models/m/1/config.json", "-a", "-f", CONFIG, "-a", "-f", KEY)
        machine.run("test", "-d", "/var/lib/axomsync")
    finally:
        install(machine)
    for unit in (UNIT, TIMER):
        assert machine.show(unit, "UnitFileState") == "disabled", "a later installation begins anew"


def test_a_persons_dataset_goes_up_and_a_model_comes_down(machine: Container, sandbox: SandboxInside) -> None:
    """The whole way under all the hardening: a member of the group drops, another user of the machine reads."""
    machine.write(CONFIG, f'[console]\nurl = "{sandbox.url}"\n[drop]\nsettle = "500ms"\n[mirror]\npoll = "1s"\n')
    machine.write(KEY, sandbox.key + "\n", mode=0o600)
    machine.run("useradd", "--groups", "axomsync", "alice")
    machine.write("/var/tmp/model/config.json", "{}")
    machine.run("sh", "-c", "head -c 8000000 /dev/urandom > /var/tmp/model/weights.bin")
    sandbox.steer("models", name="tiny", version="v1", folder="/var/tmp/model")

    machine.systemctl("start", UNIT)
    machine.run("runuser", "-u", "alice", "--", "tee", "/srv/axom/drop/chat.jsonl", stdin='{"text": "hello"}\n')
    writing = 'exec 3>/srv/axom/drop/slow.jsonl; echo "{}" >&3; exec sleep 1000'
    machine.run("systemd-run", "--quiet", "--unit=slow-writer", "--uid=alice", "sh", "-c", writing)
    until(lambda: exists(machine, "/srv/axom/models/tiny/current"), "the model", patience=30)
    until(lambda: exists(machine, "/srv/axom/drop/uploaded/chat.jsonl"), "the upload")

    # CAP_LEASE: that this user still has it open is known, though nothing was written for long.
    why = "a program still has it open for writing"
    until(lambda: why in machine.run(PROGRAM, "explain", "slow.jsonl", check=False).stdout, why)
    (upload,) = sandbox.steer("uploads")
    assert upload["filename"] == "chat.jsonl"
    machine.systemctl("stop", "slow-writer")
    until(lambda: exists(machine, "/srv/axom/drop/uploaded/slow.jsonl"), "the other upload", patience=90)
    assert upload["stored"]
    machine.run("runuser", "-u", "alice", "--", "cat", "/srv/axom/drop/uploaded/chat.jsonl.receipt.json")
    original, mirrored = "/var/tmp/model", "/srv/axom/models/tiny/current/"
    machine.run("runuser", "-u", "nobody", "--", "diff", "-r", "--exclude=.axomsync.json", original, mirrored)


@pytest.mark.stress
def test_a_large_file_is_parsed_by_processes_under_all_the_hardening(machine: Container, sandbox: SandboxInside) -> None:
    machine.write(CONFIG, f'[console]\nurl = "{sandbox.url}"\n[drop]\nsettle = "500ms"\n')
    machine.write(KEY, sandbox.key + "\n", mode=0o600)
    large = "/srv/axom/drop/large.jsonl"
    machine.run(
        "sh", "-c", f'seq -f \'{{"text": "example number %.0f"}}\' 9000000 > /var/tmp/large && mv /var/tmp/large {large}'
    )
    machine.systemctl("start", UNIT)
    working = ("pgrep", "--full", "--uid", "axomsync", "drop.line_worker")
    until(lambda: machine.run(*working, check=False).returncode == 0, "processes that parse", patience=60)
    until(lambda: exists(machine, "/srv/axom/drop/uploaded/large.jsonl"), "the upload", patience=120)
    journal = machine.run("journalctl", "--unit", UNIT, "--no-pager").stdout
    assert "can't be begun" not in journal
    assert "was lost" not in journal
    [upload] = sandbox.steer("uploads")
    assert upload["stored"]
    until(lambda: machine.run(*working, check=False).returncode == 1, "the end of idle processes", patience=30)
