"""What people install: the wheel holds what the program needs and nothing of ours, and works in an empty environment."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import axomsync
from tests.rig.installation import CHECKOUT


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", folder], cwd=CHECKOUT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (wheel,) = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, installed as pipx does it: the wheel with what it asks for, in an environment of its own."""
    home = tmp_path_factory.mktemp("installed") / "env"
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    uv = shutil.which("uv")
    make: list[str | Path]
    install: list[str | Path]
    if uv:
        make = [uv, "venv", "-q", "-p", sys.executable, home]
        install = [uv, "pip", "install", "-q", "-p", home / "bin/python", wheel]
    else:
        make = [sys.executable, "-m", "venv", "--without-pip", home]
        install = [sys.executable, "-m", "pip", "--python", home / "bin/python", "install", "-q", "--no-compile", wheel]
    subprocess.run(make, check=True, env=environ)
    subprocess.run(install, check=True, env=environ)
    return home / "bin/axomsync"


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(program.parents[2])}
    return subprocess.run(
        [program, *arguments], env=environ, cwd=program.parents[2], capture_output=True, text=True, check=False
    )


def test_the_wheel_is_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    ours = {
        str(path.relative_to(CHECKOUT))
        for path in (CHECKOUT / "axomsync").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if ".dist-info/" not in name} >= ours
    assert {name.split("/")[0] for name in names} == {"axomsync", f"axomsync-{axomsync.__version__}.dist-info"}
    assert {"axomsync/web/static/page.html", "axomsync/py.typed"} <= names


def test_the_source_distribution_has_what_it_takes_to_build_packages_and_no_tests(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as source:
        names = {name.split("/", 1)[1] for name in source.getnames()}
    assert {"Makefile", "config.example.toml", "debian/build.sh", "systemd/axomsync.service", "README.md"} <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", ".ci/"))]


def test_the_installed_program_answers(program: Path) -> None:
    assert run(program, "--version").stdout == f"axomsync, version {axomsync.__version__}\n"
    assert "mirror every ready model" in run(program, "--help").stdout


def test_the_installed_agent_has_all_it_needs_for_a_pass(program: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    text = f'[console]\nurl = "http://127.0.0.1:9/api"\nkey_file = "{tmp_path}/key"\n'
    for name in ("state", "mirror", "drop"):
        (tmp_path / name).mkdir()
        text += f'[{name}]\nfolder = "{tmp_path / name}"\n'
    config.write_text(f'{text}settle = "100ms"\n')
    (tmp_path / "key").write_text("axom_live_of_the_wheel_test\n")
    (tmp_path / "key").chmod(0o600)
    done = run(program, "sync", "--config", str(config))
    assert done.returncode == 75, done.stderr
    assert "Traceback" not in done.stderr


def test_the_installed_program_puts_a_service_in_place_that_starts_it(program: Path, tmp_path: Path) -> None:
    home = program.parents[2]
    said = run(program, "service", "install", "--user").stdout
    unit = home / ".config/systemd/user/axomsync.service"
    assert f"{unit}: written" in said
    assert f"ExecStart={program} run --config %E/axomsync/config.toml\n" in unit.read_text()
    assert f"{unit}: unchanged" in run(program, "service", "install", "--user").stdout


def test_without_its_extra_the_sandbox_says_what_to_install(program: Path) -> None:
    done = run(program, "sandbox")
    assert done.returncode == 1
    assert "pip install '.[sandbox]'" in done.stderr
