"""The list of verbs, and the module of each."""

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from axomsync import __version__
from axomsync.cli import cli, verbs
from axomsync.ledger import Ledger


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


def test_version_tells_all_that_has_one(tmp_path: Path) -> None:
    file, state = tmp_path / "a.toml", tmp_path / "state"
    file.write_text(f'[state]\nfolder = "{state}"\n')
    by_option = CliRunner().invoke(cli, ["--version"]).output
    assert CliRunner().invoke(cli, ["version", "--config", str(file)]).output.startswith(by_option)
    told = json.loads(CliRunner().invoke(cli, ["version", "--config", str(file), "--json"]).output)
    assert (told["version"], told["config"], told["schema"]) == (__version__, str(file), None)
    assert told["remarks"] == [f"{state / 'state.db'}: no agent has run here yet"]
    assert set(told["libraries"]) >= {"httpx", "pydantic", "watchdog"}
    assert all(told[part] for part in ("python", "sqlite", "openssl", "platform", "newest_schema"))
    Ledger(state, lambda: 1.0).close()
    told = json.loads(CliRunner().invoke(cli, ["version", "--config", str(file), "--json"]).output)
    assert (told["schema"], told["remarks"]) == (told["newest_schema"], [])


@pytest.mark.parametrize("damage", ["configuration", "ledger", "none at all"])
def test_version_is_told_when_other_things_are_broken(damage: str, tmp_path: Path) -> None:
    file, state = tmp_path / "a.toml", tmp_path / "state"
    file.write_text("[drop\n" if damage == "configuration" else f'[state]\nfolder = "{state}"\n')
    if damage == "ledger":
        state.mkdir()
        (state / "state.db").write_bytes(b"no ledger" * 1000)
    path = tmp_path / "nowhere" if damage == "none at all" else file
    done = CliRunner().invoke(cli, ["version", "--config", str(path), "--json"])
    told = json.loads(done.output)
    assert (done.exit_code, told["version"], told["schema"], len(told["remarks"])) == (0, __version__, None, 1)


def test_config_check_names_a_proxy_that_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("[drop]\nenabled = false\n")
    environ = {"http_proxy": "http://proxy..lan:3128"}
    done = CliRunner().invoke(cli, ["config", "check", "--config", str(file)], env=environ)
    remark, verdict = done.output.splitlines()
    assert remark.startswith("$http_proxy: left out: this is not the address of a proxy: its host name has a dot too many")
    assert (verdict, done.exit_code) == (f"{file}: good", 0)


def test_the_general_options_may_stand_before_the_verb(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("[drop]\nenabled = false\n")
    before = CliRunner().invoke(cli, ["--config", str(file), "--json", "config", "check"])
    assert (before.exit_code, json.loads(before.output)["path"]) == (0, str(file))
    assert CliRunner().invoke(cli, ["config", "check", "--config", str(file), "--json"]).output == before.output
    nowhere = ["--config", "/nowhere", "config", "show", "--config", str(file)]
    assert CliRunner().invoke(cli, nowhere).exit_code == 0, "what stands nearer to the verb wins"
    assert json.loads(CliRunner().invoke(cli, ["--json", "version"]).output)["version"] == __version__
    for option, verb in ((["--json"], ["demo"]), (["--config", str(file)], ["service", "install"])):
        refused = CliRunner().invoke(cli, [*option, *verb])
        assert (refused.exit_code, f"{verb[0]} takes no {option[0]}; leave it away" in refused.output) == (2, True)
