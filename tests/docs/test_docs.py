"""The documents match the program: a missing description fails here, and so does an example that fails.

`tests/web/test_metrics.py` compares the metrics of a real scrape with the reference;
`tests/systemd/test_night_shift.py` runs the examples for root on a machine.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import axomsync
from axomsync import config
from axomsync.cli import USAGE_EXIT_CODE
from axomsync.core import errors
from axomsync.runtime.problems import SUBJECTS
from axomsync.sandbox.console import Sandbox
from docs.generate import FOLDER, SUBJECT_WORDS, pages
from tests.rig.documents import DOCUMENTS, LANGUAGES, Example, examples
from tests.rig.installation import CHECKOUT


def exit_codes(kind: type[errors.AxomsyncError] = errors.AxomsyncError) -> set[int]:
    return {kind.exit_code}.union(*map(exit_codes, kind.__subclasses__()))


def test_reference_equals_the_generated_pages() -> None:
    written = {page.name: page.read_text(encoding="utf-8") for page in FOLDER.iterdir()}
    assert written == pages(), "run: make docs"


def test_subjects_of_problems_are_explained() -> None:
    assert list(SUBJECT_WORDS) == list(SUBJECTS)


def test_exit_codes_are_those_of_the_program() -> None:
    signals = {errors.interrupted_by(number) for number in (signal.SIGINT, signal.SIGTERM)}
    assert set(errors.EXIT_CODES) == exit_codes() | {USAGE_EXIT_CODE} | signals


def test_changelog_has_the_version_dated() -> None:
    released = re.findall(r"^## (\S+) - \d{4}-\d{2}-\d{2}$", (CHECKOUT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == axomsync.__version__


def test_examples_name_their_language() -> None:
    unknown = [
        f"{e.place}: {e.language!r}" for document in DOCUMENTS for e in examples(document) if e.language not in LANGUAGES
    ]
    assert unknown == []


def test_links_lead_to_existing_targets() -> None:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", text):
            place = document.parent / target if target else document
            assert place.exists(), f"{document.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", place.read_text(encoding="utf-8"), re.MULTILINE)
                anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
                assert anchor in anchors, f"{document.name}: {target}#{anchor}"


def test_named_modules_exist() -> None:
    for document in DOCUMENTS:
        for name in re.findall(r"`([a-z][\w/]*/\w+\.(?:py|sh|md|toml))`", document.read_text(encoding="utf-8")):
            assert any((folder / name).exists() for folder in (CHECKOUT, CHECKOUT / "axomsync")), f"{document.name}: {name}"


@pytest.mark.parametrize("example", [e for d in DOCUMENTS for e in examples(d, "toml")], ids=lambda e: e.place)
def test_configurations_are_accepted(example: Example) -> None:
    config.parse(example.text, Path("config.toml"), {})


@pytest.mark.parametrize("example", [e for d in DOCUMENTS for e in examples(d, "sh")], ids=lambda e: e.place)
def test_commands_of_the_examples_work(example: Example, sandbox: Sandbox, tmp_path: Path) -> None:
    """Run the examples in order, like a user. Installations and commands of minutes are only checked for existence."""
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
        # Root's folders are not below its home.
        **{f"AXOMSYNC_{section}__FOLDER": str(tmp_path / section) for section in ("STATE", "DROP", "MIRROR")},
    }
    script = example.text.replace("axom_live_…", sandbox.key)
    shell = ["sh", "-eu", "-c", script]
    done = subprocess.run(
        shell, cwd=tmp_path, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{example.place}:\n{done.stdout}{done.stderr}"
