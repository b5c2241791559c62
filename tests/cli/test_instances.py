"""Two agents on one box, with a key each: nothing of one is the other's. Here as processes; as units in `tests.systemd`."""

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from axomsync import config
from axomsync.cli.verbs.status import status
from axomsync.config import Settings
from axomsync.ledger import Ledger
from axomsync.ops.doctor.findings import Verdict
from axomsync.ops.doctor.installation import Installation
from axomsync.ops.doctor.instances import shared_places
from tests.rig.agent import eventually
from tests.rig.disks import dead_disk
from tests.rig.faults import KEY, Content, FaultyServer

NAMES = ("eu", "us")


@dataclass
class Box:
    """A user's home with instances; `servers` has the far side of each."""

    home: Path
    servers: dict[str, FaultyServer]

    @property
    def environ(self) -> dict[str, str]:
        foreign = {name: value for name, value in os.environ.items() if not name.startswith(("AXOM", "XDG"))}
        return {**foreign, "HOME": str(self.home), "XDG_CONFIG_HOME": str(self.home / "c")}

    @property
    def folder(self) -> Path:
        return self.home / "c" / "axomsync"

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "axomsync", *words]
        return subprocess.run(argv, env=self.environ, capture_output=True, text=True, check=False, timeout=60)

    def json(self, *words: str) -> Any:
        done = self.call(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with ExitStack() as stack:
        servers = {name: stack.enter_context(FaultyServer()) for name in NAMES}
        box = Box(tmp_path, servers)
        box.folder.mkdir(parents=True)
        for name, server in servers.items():
            server.add_model(f"bot-of-{name}", "v1", {"a.bin": Content(1000)})
            file = box.folder / f"{name}.toml"
            quick = '[drop]\nsettle = "200ms"\n[mirror]\npoll = "1s"\nreserve = "1MiB"\n'
            key_file = box.folder / f"{name}.key"
            key_file.write_text(KEY)
            listen = config.free_listen(file, box.environ)
            console = f'[console]\nurl = "{server.url}"\nkey_file = "{key_file}"\n'
            file.write_text(f'{console}[web]\nlisten = "{listen}"\n{quick}')
        yield box


def held(pid: int) -> set[str]:
    """Files that a process has open for writing or locking, and the sockets that it listens on."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        target = os.readlink(entry)
        if target.startswith("/") and not target.startswith(("/dev/", "/proc/", "/usr/")):
            found.add(target)
    return found


def test_two_agents_have_nothing_in_common(box: Box) -> None:
    for name in NAMES:
        settings = config.load(box.folder / f"{name}.toml", box.environ).settings
        for folder in (settings.drop.folder, settings.mirror.folder):
            folder.mkdir(parents=True)
    with ExitStack() as stack:
        agents = {}
        for name in NAMES:
            argv = [sys.executable, "-m", "axomsync", "--instance", name, "run"]
            log = (box.home / f"{name}.log").open("w")
            agents[name] = stack.enter_context(subprocess.Popen(argv, env=box.environ, stderr=log, stdout=log))
            stack.callback(agents[name].kill)
        for name in NAMES:
            file = box.home / "axom" / name / "drop" / f"{name}.jsonl"
            file.write_text(json.dumps({"text": name}) + "\n")
            wait = ("wait", f"bot-of-{name}", "--instance", name, "--timeout", "20s")
            eventually("the model", lambda wait=wait: box.call(*wait).returncode == 0)
            eventually("the upload", lambda file=file: not file.exists())
        everyone = {row["instance"]: row for row in box.json("status", "--all")}
        assert set(everyone) == set(NAMES)
        first, second = (everyone[name] for name in NAMES)
        assert all(row["agent"]["running"] and row["error"] is None for row in everyone.values())
        pages = [row["agent"]["page"] for row in everyone.values()]
        assert len({first["agent"]["pid"], second["agent"]["pid"]}) == len(set(pages)) == 2
        files = [held(row["agent"]["pid"]) for row in everyone.values()]
        assert all(any(path.endswith("state.db") for path in mine) for mine in files)
        assert not files[0] & files[1]
        metrics = [httpx.get(f"{page.rstrip(chr(47))}/metrics").text for page in pages]
        assert all('axomsync_models{state="published"} 1' in text.replace(".0", "") for text in metrics), metrics[0][:3000]
        for name, other in (NAMES, NAMES[::-1]):
            status = box.json("status", "--instance", name)
            assert (status["instance"], status["mirror"]["counts"]["published"]) == (name, 1)
            assert [row["filename"] for row in box.json("--instance", name, "uploads")] == [f"{name}.jsonl"]
            assert not (box.home / "axom" / name / "models" / f"bot-of-{other}").exists()
            assert not any(name.encode() in r.body for r in box.servers[other].requests if r.method == "PUT")
        table = box.call("status", "--all").stdout
        assert [line.split()[:2] for line in table.splitlines()[1:]] == [["eu", "running"], ["us", "running"]]
        assert box.call("pause", "--instance", "eu").returncode == 0
        eventually("the pause", lambda: box.json("status", "--instance", "eu")["agent"]["paused"])
        assert not box.json("status", "--instance", "us")["agent"]["paused"]


def test_explain_names_the_commands_of_the_instance(box: Box) -> None:
    for part in ("drop", "models"):
        (box.home / "axom" / "eu" / part).mkdir(parents=True)
    box.servers["eu"].add_model("evil", "v1", {"../w": Content(1000)})
    file = box.home / "axom" / "eu" / "drop" / "same.jsonl"
    for _ in range(2):  # the second time it is a duplicate
        file.write_text('{"text": "a"}\n')
        assert box.call("--instance", "eu", "sync").returncode == 1
    (model,) = box.json("--instance", "eu", "explain", "evil")
    assert model["keeps"][0] in (
        "no agent runs: `axomsync --instance eu run`",
        "no agent runs: `systemctl start axomsync@eu`",
    )
    duplicate = box.json("--instance", "eu", "explain", "same.jsonl")[-1]
    assert "`axomsync --instance eu forget same.jsonl`" in duplicate["reason"]


def test_a_neighbour_in_trouble_hides_nobody(box: Box) -> None:
    (box.folder / "us.toml").write_text("[drop]\nnonsense = 1\n")
    done = box.call("status", "--all", "--json")
    assert done.returncode == 78
    rows = {row["instance"]: row for row in json.loads(done.stdout)}
    assert rows["eu"]["agent"] is not None
    assert "unknown key" in rows["us"]["error"]
    assert "unknown key" in box.call("status", "--all").stdout


def test_a_neighbour_whose_folders_can_not_be_reached_hides_nobody(box: Box) -> None:
    with dead_disk(box.home / "dead") as dead:
        file = box.folder / "us.toml"
        file.write_text(file.read_text().replace("[mirror]\n", f'[mirror]\nfolder = "{dead}/models"\n'))
        settings = config.load(file, box.environ).settings
        Ledger(settings.state.folder, time.time).close()
        rows = {row["instance"]: row for row in box.json("status", "--all")}
        assert rows["eu"]["agent"] is not None
        assert any("mount it anew" in problem["reason"] for problem in rows["us"]["problems"])


def test_a_failure_that_nobody_foresaw_is_in_the_line_of_its_instance(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_for_one(loaded: config.Loaded) -> dict[str, Any]:
        if loaded.settings.instance == "us":
            raise OSError(errno.EIO, "I/O error", "/somewhere")
        return {"agent": None}

    monkeypatch.setattr("axomsync.cli.verbs.status.status_of", fail_for_one)
    done = CliRunner().invoke(status, ["--all", "--json"], env=box.environ)
    assert done.exit_code == 1
    rows = {row["instance"]: row for row in json.loads(done.stdout)}
    assert rows["eu"]["error"] is None
    assert rows["us"]["error"] == "/somewhere: the disk reported an I/O error; check the kernel log"


def test_init_writes_an_instance_apart(box: Box) -> None:
    file = box.folder / "mine.toml"
    argv = ("init", "--config", str(file), "--url", box.servers["eu"].url, "--key-file", str(box.folder / "eu.key"))
    done = box.call(*argv, "--state", str(box.home / "s"), "--drop", str(box.home / "d"), "--mirror", str(box.home / "m"))
    assert done.returncode == 0, done.stderr
    assert "axomsync service install --user --instance mine" in done.stdout
    loaded = config.load(file, box.environ)
    assert (loaded.settings.instance, loaded.settings.web.listen) == ("mine", "127.0.0.1:9467")


SHARED = {
    '[state]\nfolder = "/s/a"': (Verdict.FAIL, "[state] folder /s/a is also that of"),
    '[web]\nlisten = "0.0.0.0:9999"\ntoken_file = "/t"': (Verdict.FAIL, "[web] listen 127.0.0.1:9999 is also that of"),
    '[drop]\nfolder = "/d/a"': (Verdict.WARN, "[drop] folder /d/a meets [drop] folder /d/a of"),
    '[mirror]\nfolder = "/m/a/x"': (Verdict.WARN, "[mirror] folder /m/a meets [mirror] folder /m/a/x of"),
    '[mirror]\nfolder = "/d"': (Verdict.FAIL, "[drop] folder /d/a meets [mirror] folder /d of"),
    '[state]\nfolder = "/s/a/b"': (Verdict.OK, "1 more on this machine, and nothing is used by two"),
    '[web]\nlisten = "127.0.0.2:9999"': (Verdict.OK, "1 more on this machine"),
    "nonsense": (Verdict.WARN, "b.toml:1: not valid TOML"),
}


@pytest.mark.parametrize("other", SHARED)
def test_doctor_tells_what_two_share(other: str, tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    folder = tmp_path / "axomsync"
    folder.mkdir()
    ours = '[state]\nfolder = "/s/a"\n[drop]\nfolder = "/d/a"\n[mirror]\nfolder = "/m/a"\n[web]\nlisten = "127.0.0.1:9999"\n'
    (folder / "a.toml").write_text(ours)
    (folder / "b.toml").write_text(other)
    settings: Settings = config.load(folder / "a.toml", environ).settings
    found = list(shared_places(Installation(settings, environ, [], False, folder / "a.toml")))
    verdict, words = SHARED[other]
    assert [finding.verdict for finding in found] == [verdict]
    assert words in found[0].found


def test_alone_nothing_is_said(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    assert list(shared_places(Installation(Settings(), environ, [], False, tmp_path / "x.toml"))) == []
