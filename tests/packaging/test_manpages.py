"""The man pages: one for every verb, and roff has nothing to say about them."""

import subprocess
import sys
from pathlib import Path

import pytest

from axomsync import config
from axomsync.cli import cli
from tests.rig.installation import CHECKOUT


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("man")
    subprocess.run([sys.executable, CHECKOUT / "debian/manpages.py", folder], check=True)
    return folder


def test_every_verb_has_its_page(pages: Path) -> None:
    names = {page.name for page in pages.iterdir()}
    for name, command in cli.commands.items():
        verbs = [f"{name}-{verb}" for verb in command.commands] if hasattr(command, "commands") else [name]
        assert {f"axomsync-{verb}.1" for verb in verbs} <= names


def test_roff_takes_them_without_a_warning(pages: Path) -> None:
    said = subprocess.run(
        ["groff", "-mandoc", "-ww", "-z", "-Tutf8", "-Kutf8", *sorted(pages.iterdir())],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stderr == ""


def test_the_page_of_the_configuration_names_every_key_with_its_default(pages: Path) -> None:
    text = subprocess.run(
        ["groff", "-mandoc", "-Tascii", "-P-cbou", "-rLL=200n", pages / "axomsync.toml.5"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for keys in config.reference().values():
        for key in keys:
            assert f"{key.name} = {config.as_toml(key.default)}" in text
