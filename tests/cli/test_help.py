"""The list of verbs."""

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
