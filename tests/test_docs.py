"""The documents keep up with the program: what it has and they don't tell fails here, and so does an example that fails.

Metrics are compared with the documents in `tests/web/test_metrics.py`, where they are scraped; examples for root are run in
`tests/systemd/test_night_shift.py`, on a machine.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from axomsync import config
from axomsync.cli import USAGE_EXIT_CODE, cli
from axomsync.core import errors
from axomsync.core.records import ModelState, UploadState
from axomsync.sandbox.console import Sandbox
from tests.rig.documents import DOCUMENTS, LANGUAGES, Example, examples
from tests.rig.installation import CHECKOUT

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
OPERATING = (CHECKOUT / "docs/operating.md").read_text(encoding="utf-8")

_GENERAL_OPTIONS = {"--config", "--json", "--help"}  # told once for all verbs


def verbs(group: click.Group = cli, words: tuple[str, ...] = ("axomsync",)) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from verbs(command, (*words, name))
        else:
            yield " ".join((*words, name)), command


def exit_codes(kind: type[errors.AxomsyncError] = errors.AxomsyncError) -> set[int]:
    return {kind.exit_code}.union(*map(exit_codes, kind.__subclasses__()))


@pytest.mark.parametrize(("verb", "command"), list(verbs()), ids=[verb for verb, _ in verbs()])
def test_every_verb_is_in_the_table_with_its_options(verb: str, command: click.Command) -> None:
    rows = [row for row in README.splitlines() if row.startswith("| `axomsync") and re.search(rf"`{verb}[` ]", row)]
    assert rows, f"README.md has no row for {verb}"
    options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
    told = {option for option in options if any(option in row for row in rows)}
    assert options - told - _GENERAL_OPTIONS == set()


def test_every_key_is_in_the_table_with_its_default() -> None:
    rows = [
        f"| `[{section}] {key}` | `{config.as_toml(default)}` | {why} |"
        for section, keys in config.reference().items()
        for key, default, why in keys
    ]
    assert [row for row in README.splitlines() if row.startswith("| `[")] == rows


@pytest.mark.parametrize("states", [UploadState, ModelState])
def test_every_state_is_explained(states: type[UploadState | ModelState]) -> None:
    subject = "upload" if states is UploadState else "model"
    rows = re.findall(rf"^\| {subject} (.*?) \|", OPERATING, re.MULTILINE)
    explained = {state for row in rows for state in re.findall(r"`(\w+)`", row)}
    assert explained == {str(state) for state in states}


@pytest.mark.parametrize("text", [README, OPERATING], ids=["README.md", "operating.md"])
def test_every_exit_code_is_told(text: str) -> None:
    (sentence,) = re.findall(r"Exit codes: (.*?)\.\n", text, re.DOTALL)
    told = {int(code) for code in re.findall(r"(?:^|· )(\d+) ", " ".join(sentence.split()))}
    signals = {errors.interrupted_by(number) for number in (signal.SIGINT, signal.SIGTERM)}
    assert told == exit_codes() | {USAGE_EXIT_CODE} | signals


def test_every_example_says_what_it_is() -> None:
    unknown = [
        f"{e.place}: {e.language!r}" for document in DOCUMENTS for e in examples(document) if e.language not in LANGUAGES
    ]
    assert unknown == []


def test_every_link_leads_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


@pytest.mark.parametrize("example", [e for d in DOCUMENTS for e in examples(d, "toml")], ids=lambda e: e.place)
def test_configurations_are_accepted(example: Example) -> None:
    config.parse(example.text, Path("config.toml"), {})


@pytest.mark.parametrize("example", [e for d in DOCUMENTS for e in examples(d, "sh")], ids=lambda e: e.place)
def test_commands_do_what_they_say(example: Example, sandbox: Sandbox, tmp_path: Path) -> None:
    """As a user types them, one after the other. What installs and what takes minutes is only asked whether it exists."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "make").write_text(f'#!/bin/sh\nexec /usr/bin/make -n -C {CHECKOUT} "$@"\n')
    (programs / "pipx").write_text("#!/bin/sh\n")
    (programs / "axomsync").write_text(f'#!/bin/sh\nexec {sys.executable} -m axomsync "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    environ = {
        "HOME": str(tmp_path),
        "PATH": f"{programs}:{os.environ['PATH']}",
        "AXOMSYNC_CONFIG": str(tmp_path / "config.toml"),
        "AXOMSYNC_CONSOLE__URL": sandbox.url,
        # Root's are not below its home.
        **{f"AXOMSYNC_{section}__FOLDER": str(tmp_path / section) for section in ("STATE", "DROP", "MIRROR")},
    }
    script = example.text.replace("axom_live_…", sandbox.key)
    shell = ["sh", "-eu", "-c", script]
    done = subprocess.run(
        shell, cwd=tmp_path, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{example.place}:\n{done.stdout}{done.stderr}"
