"""The list of verbs."""

import json
from pathlib import Path

from click.testing import CliRunner

from axomsync import __version__
from axomsync.cli import cli


def test_the_list_of_verbs_is_cut_nowhere() -> None:
    shown = " ".join(CliRunner().invoke(cli, ["--help"]).output.split())
    assert "..." not in shown.partition("Commands:")[2]
    for command in cli.commands.values():
        assert " ".join((command.help or "").partition("\n\n")[0].split()) in shown


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
