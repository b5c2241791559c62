"""The list of verbs, and the module of each."""

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from axomsync import __version__
from axomsync.cli import cli, verbs


def test_the_list_of_verbs_is_cut_nowhere() -> None:
    shown = " ".join(CliRunner().invoke(cli, ["--help"]).output.split())
    assert "..." not in shown.partition("Commands:")[2]
    for command in cli.commands.values():
        assert " ".join((command.help or "").partition("\n\n")[0].split()) in shown


def test_every_module_of_a_verb_is_listed_and_defines_its_command() -> None:
    assert {module.name for module in pkgutil.iter_modules(verbs.__path__)} == set(verbs.MODULES)
    assert [command.name for command in cli.commands.values()] == list(cli.commands)


def test_a_verb_loads_no_module_of_another() -> None:
    program = (
        "import sys; from click.testing import CliRunner; from axomsync.cli import cli;"
        "CliRunner().invoke(cli, sys.argv[1:]);"
        "print(*sorted(name for name in sys.modules if name.startswith('axomsync.cli.verbs.')))"
    )
    for arguments, loaded in (("--version", ""), ("status --help", "axomsync.cli.verbs.status")):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments.split()], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == loaded


def test_version_is_a_verb_too() -> None:
    by_option = CliRunner().invoke(cli, ["--version"]).output
    assert CliRunner().invoke(cli, ["version"]).output == by_option
    assert CliRunner().invoke(cli, ["version", "--json"]).output == f'{{\n  "version": "{__version__}"\n}}\n'


def test_the_general_options_may_stand_before_the_verb(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("[drop]\nenabled = false\n")
    before = CliRunner().invoke(cli, ["--config", str(file), "--json", "config", "check"])
    assert (before.exit_code, json.loads(before.output)["path"]) == (0, str(file))
    assert CliRunner().invoke(cli, ["config", "check", "--config", str(file), "--json"]).output == before.output
    nowhere = ["--config", "/nowhere", "config", "show", "--config", str(file)]
    assert CliRunner().invoke(cli, nowhere).exit_code == 0, "what stands nearer to the verb wins"
    assert CliRunner().invoke(cli, ["--json", "version"]).output == f'{{\n  "version": "{__version__}"\n}}\n'
    for option, verb in ((["--json"], ["demo"]), (["--config", str(file)], ["service", "install"])):
        refused = CliRunner().invoke(cli, [*option, *verb])
        assert (refused.exit_code, f"{verb[0]} takes no {option[0]}; leave it away" in refused.output) == (2, True)
