"""What `axomsync sandbox` says when it can't start."""

import subprocess
import sys
from pathlib import Path

import pytest

from axomsync.sandbox.console import Sandbox


def refusal(folder: Path, *options: str, code: int) -> str:
    words = [str(Path(sys.executable).parent / "axomsync"), "sandbox", "--folder", str(folder), *options]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--listen", "here", "--listen here: not host:port"),
        ("--listen", "127.0.0.1:99999", "--listen 127.0.0.1:99999: not host:port"),
        ("--listen", "0.0.0.0:0", "let it listen on 127.0.0.1"),
        ("--listen", "", "not host:port"),
        ("--url-lifetime", "100ms", "give it 1s or more"),
        ("--rate", "fast", "'fast' is not a rate"),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, option: str, value: str, told: str) -> None:
    assert told in refusal(tmp_path, option, value, code=2)


def test_an_address_that_is_taken(tmp_path: Path, sandbox: Sandbox) -> None:
    taken = sandbox.url.removeprefix("http://").removesuffix("/api")
    assert refusal(tmp_path, "--listen", taken, code=1) == f"axomsync: {taken}: Address already in use\n"


def test_a_folder_of_another_sandbox(tmp_path: Path) -> None:
    with Sandbox(tmp_path):
        assert f"{tmp_path}/store: another sandbox runs here; stop it" in refusal(tmp_path, code=1)


def test_a_state_that_something_else_has_written(tmp_path: Path) -> None:
    (tmp_path / "console.json").write_text("{")
    assert f"{tmp_path}/console.json: no sandbox has written this" in refusal(tmp_path, code=1)
