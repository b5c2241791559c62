"""Started once more, the program runs its own modules, whatever lies in the folder where somebody calls."""

import re
import subprocess
from pathlib import Path

import pytest

import axomsync
from axomsync.core.own_program import own_program
from axomsync.ops.service import running_program
from tests.rig.planted import modules_planted, ran

SOURCES = Path(axomsync.__file__).parent


@pytest.mark.parametrize("command", [own_program(), running_program("__main__.py")])
def test_modules_in_the_working_folder_are_not_run(command: list[str], tmp_path: Path) -> None:
    modules_planted(tmp_path)
    done = subprocess.run([*command, "--version"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, ran(tmp_path)) == (0, []), done.stderr
    assert axomsync.__version__ in done.stdout


def test_nobody_else_starts_python_without_that() -> None:
    """Each command that begins with our Python says -P next."""
    begun = {
        (file.name, following)
        for file in SOURCES.rglob("*.py")
        for following in re.findall(r"sys\.executable,\s*(\S+)", file.read_text())
    }
    assert {following for _, following in begun} == {'"-P",'}, begun
