"""The import contract of pyproject.toml, as a test; and that what people wait for every day does not load the heavy half."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


def test_imports_point_one_way() -> None:
    """In a process of its own: it silences all loggers of the one that it runs in, and other tests read the log."""
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def loaded_by(*arguments: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "axomsync", *arguments],
        env={name: value for name, value in os.environ.items() if not name.startswith("AXOM")},
        capture_output=True,
        text=True,
        check=False,
    )
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (("--help",), {"pydantic", "httpx", "sqlite_utils", "rich", "ssl", "asyncio"}),
        (("status", "--json", "--config", "config.example.toml"), {"httpx", "watchdog", "apscheduler", "pyreqwest", "ssl"}),
    ],
)
def test_what_is_asked_often_loads_little(
    arguments: tuple[str, ...], heavy: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CHECKOUT)
    loaded = loaded_by(*arguments)
    assert "axomsync.cli" in loaded
    assert not loaded & heavy
