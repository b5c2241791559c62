"""`axomsync init`: a configuration, folders, and a key that is tried."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from axomsync import config
from tests.rig.faults import KEY, Fault, FaultyServer


class Newcomer:
    """Somebody with a home folder, a console and a key, and nothing else."""

    def __init__(self, home: Path, url: str) -> None:
        home.mkdir()
        self.home, self.url = home, url
        self.file = home / "etc" / "axomsync" / "config.toml"
        foreign = {name: value for name, value in os.environ.items() if not name.startswith(("AXOM", "XDG"))}
        self.environ = foreign | {"HOME": str(home), "AXOM_KEY": KEY, "AXOMSYNC_CONFIG": str(self.file)}

    def init(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        folders = [f"--{name}={self.home}/{name}" for name in ("drop", "mirror", "state")]
        return self.call("init", "--url", self.url, *folders, *arguments)

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "axomsync", *arguments],
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=self.home,
            check=False,
        )
        assert "Traceback" not in done.stderr
        assert KEY not in done.stdout + done.stderr
        return done


@pytest.fixture
def newcomer(tmp_path: Path, server: FaultyServer) -> Newcomer:
    return Newcomer(tmp_path / "home", server.url)


def test_it_writes_a_configuration_that_works_at_once(newcomer: Newcomer) -> None:
    done = newcomer.init()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:3] == [
        f"wrote {newcomer.file}",
        f"datasets go into {newcomer.home}/drop, models come into {newcomer.home}/mirror",
        "the key works: the console lists 0 models",
    ]
    written = newcomer.file.read_text()
    assert KEY not in written
    assert tomllib.loads(written)["drop"]["folder"] == f"{newcomer.home}/drop"
    assert written.count("  # ") == config.example().count("  # "), "the reasons are missing"
    assert newcomer.call("config", "check").stdout == f"{newcomer.file}: good\n"
    assert newcomer.call("sync").returncode == 0
    assert (newcomer.home / "state").stat().st_mode & 0o777 == 0o750


def test_it_never_overwrites_without_force(newcomer: Newcomer) -> None:
    newcomer.file.parent.mkdir(parents=True)
    newcomer.file.write_text("# mine\n")
    done = newcomer.init()
    assert done.returncode == 78
    assert f"{newcomer.file} exists already; --force overwrites it" in done.stderr
    assert newcomer.file.read_text() == "# mine\n"
    assert not (newcomer.home / "drop").exists(), "folders were made all the same"
    assert newcomer.init("--force").returncode == 0
    assert "[mirror]" in newcomer.file.read_text()


@pytest.mark.parametrize(
    ("place", "words"), [("folder", "it is a folder; name a file"), ("/proc/x.toml", "no file can be made there; name")]
)
def test_a_place_that_takes_no_file_is_told(place: str, words: str, newcomer: Newcomer) -> None:
    newcomer.environ["AXOMSYNC_CONFIG"] = str(newcomer.home / place)
    (newcomer.home / "folder").mkdir()
    done = newcomer.init("--force")
    assert (done.returncode, words in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_nothing_is_written_through_what_somebody_planted(force: tuple[str, ...], newcomer: Newcomer) -> None:
    newcomer.file.parent.mkdir(parents=True)
    victim = newcomer.home / "victim"
    victim.write_text("mine")
    newcomer.file.with_name(".config.toml.new").symlink_to(victim)
    if force:
        newcomer.file.symlink_to(victim)
    assert newcomer.init(*force).returncode == 0
    assert victim.read_text() == "mine"
    assert not newcomer.file.is_symlink()
    assert "[mirror]" in newcomer.file.read_text()


def test_a_configuration_that_would_be_bad_is_not_written(newcomer: Newcomer) -> None:
    newcomer.url = "http://console.example/api"
    done = newcomer.init()
    assert done.returncode == 78
    assert "plain http would show the key to the network" in done.stderr
    assert not newcomer.file.exists()


def test_a_refused_key_is_4_and_the_configuration_stays(newcomer: Newcomer) -> None:
    newcomer.environ["AXOM_KEY"] = "axom_live_wrong"
    done = newcomer.init()
    assert done.returncode == 4
    assert "the configuration is written, but the console refuses the API key" in done.stderr
    assert newcomer.file.exists()


def test_no_key_is_4_and_says_where_to_put_it(newcomer: Newcomer) -> None:
    del newcomer.environ["AXOM_KEY"]
    done = newcomer.init()
    assert done.returncode == 4
    assert "the configuration is written, but no API key: set $AXOM_KEY" in done.stderr
    assert newcomer.file.exists()


def test_a_console_that_is_down_is_75_and_the_configuration_stays(newcomer: Newcomer, server: FaultyServer) -> None:
    server.inject(Fault(status=503), "/api/")
    done = newcomer.init()
    assert done.returncode == 75
    assert "the configuration is written, but the key could not be tested: " in done.stderr
    assert newcomer.file.exists()
    assert newcomer.call("sync").returncode == 0


def test_a_key_file_is_named_in_the_configuration_and_used(newcomer: Newcomer) -> None:
    (newcomer.home / "key").write_text(KEY + "\n")
    del newcomer.environ["AXOM_KEY"]
    done = newcomer.init("--key-file", "key")
    assert done.returncode == 0, done.stderr
    assert tomllib.loads(newcomer.file.read_text())["console"]["key_file"] == f"{newcomer.home}/key"


def test_paths_with_all_kinds_of_characters_survive(newcomer: Newcomer) -> None:
    odd = f'{newcomer.home}/a "quoted" \\ back\u007f ünd\ttab'
    done = newcomer.init(f"--drop={odd}")
    assert done.returncode == 0, done.stderr
    assert tomllib.loads(newcomer.file.read_text())["drop"]["folder"] == odd
    assert Path(odd).is_dir()


@pytest.mark.parametrize("place", ["file", "folder"])
def test_what_is_in_the_way_is_named(place: str, newcomer: Newcomer) -> None:
    (newcomer.home / "blocked").touch()
    if place == "file":
        newcomer.environ["AXOMSYNC_CONFIG"] = f"{newcomer.home}/blocked/config.toml"
        done = newcomer.init()
    else:
        done = newcomer.init(f"--mirror={newcomer.home}/blocked/models")
    assert done.returncode == 1
    assert re.search(
        rf"{newcomer.home}/blocked\S*: (a part of the path is not a folder|something else is in its)", done.stderr
    )


def test_a_user_without_a_home_folder_gets_folders_beside_the_file(server: FaultyServer) -> None:
    with TemporaryDirectory() as volume:
        os.chmod(volume, 0o777)
        environ = {"PATH": os.environ["PATH"], "AXOM_KEY": KEY}

        def call(*arguments: str) -> subprocess.CompletedProcess[str]:
            nameless = ("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", sys.executable, "-m", "axomsync")
            return subprocess.run([*nameless, *arguments], env=environ, cwd="/", capture_output=True, text=True, check=False)

        homeless = call("init")
        assert homeless.returncode == 78
        assert "no home folder; name the configuration with --config FILE, or do without it" in homeless.stderr
        assert "run `axomsync init --config FILE`, or set variables" in call("status").stderr
        done = call("init", "--config", f"{volume}/axom.toml", "--url", server.url)
        assert done.returncode == 0, done.stderr
        assert f"datasets go into {volume}/axom/drop, models come into {volume}/axom/models" in done.stdout
        assert f"next: `axomsync run --config {volume}/axom.toml`" in done.stdout
        assert "wins over it" not in done.stdout
