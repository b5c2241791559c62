"""Writes the man pages: one of the program, one for each verb, and axomsync.toml(5), from what the program itself says.

    python debian/manpages.py FOLDER

So nothing here can differ from `--help` and the configuration that the program takes.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from axomsync import __version__, config
from axomsync.cli import cli
from axomsync.core.errors import EXIT_CODES

_FILES = {
    "/etc/axomsync/config.toml": "The configuration; see axomsync.toml(5). Without it: ~/.config/axomsync/config.toml.",
    "/etc/axomsync/key": "The API key, as the service takes it.",
    "/etc/axomsync/NAME.toml": "The configuration of the instance NAME; NAME.key beside it is its key.",
    "/var/lib/axomsync/state.db": "The ledger.",
    "/srv/axom/drop": "Every dataset file that is put here is uploaded.",
    "/srv/axom/models": "Every model that is ready appears here as name/version.",
}
_ENVIRONMENT = {
    "AXOM_KEY": "The API key.",
    "AXOMSYNC_CONFIG": "The configuration file, where --config does not name one.",
    "AXOMSYNC_SECTION__KEY": "Overrides a key of the configuration, as in AXOMSYNC_MIRROR__POLL=30s.",
    "NO_COLOR": "When set, nothing is coloured.",
}


def pages() -> Iterator[tuple[str, str]]:
    """Every page as (file name, text)."""
    yield "axomsync.1", _program_page()
    for words, command in _verbs(cli, ("axomsync",)):
        yield f"{'-'.join(words)}.1", _verb_page(words, command)
    yield "axomsync.toml.5", _configuration_page()


def _verbs(group: click.Group, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from _verbs(command, (*words, name))
        elif not command.hidden:
            yield (*words, name), command


def _program_page() -> str:
    summaries = {" ".join(words[1:]): _first_line(command) for words, command in _verbs(cli, ("axomsync",))}
    return "".join(
        [
            _head("axomsync", 1, cli.help or ""),
            ".SH SYNOPSIS\n.B axomsync\n.I COMMAND\n[OPTIONS] [ARGUMENTS]\n",
            ".SH DESCRIPTION\n" + _paragraphs(cli.help or ""),
            ".SH COMMANDS\n",
            *(_item(name, text) for name, text in summaries.items()),
            ".PP\nEach has a page of its own, such as\n.BR axomsync-status (1).\n",
            *_section("EXIT STATUS", {str(code): text for code, text in EXIT_CODES.items()}),
            *_section("ENVIRONMENT", _ENVIRONMENT),
            *_section("FILES", _FILES),
            ".SH SEE ALSO\n.BR axomsync.toml (5)\n",
        ]
    )


def _verb_page(words: tuple[str, ...], command: click.Command) -> str:
    context = click.Context(command, info_name=" ".join(words))
    options = [parameter.get_help_record(context) for parameter in command.params]
    help_record = ("-h, --help", "Show this message and exit.")
    return "".join(
        [
            _head("-".join(words), 1, _first_line(command)),
            f".SH SYNOPSIS\n.B {_escape(' '.join(words))}\n{_escape(' '.join(command.collect_usage_pieces(context)))}\n",
            ".SH DESCRIPTION\n" + _paragraphs(command.help or ""),
            ".SH OPTIONS\n",
            *(_item(name, text) for name, text in [*filter(None, options), help_record]),
            ".SH EXIT STATUS\nAs\n.BR axomsync (1)\nlists them.\n",
            ".SH SEE ALSO\n.BR axomsync (1),\n.BR axomsync.toml (5)\n",
        ]
    )


def _configuration_page() -> str:
    text = [
        _head("axomsync.toml", 5, "configuration of axomsync"),
        ".SH SYNOPSIS\n.I /etc/axomsync/config.toml\n",
        ".SH DESCRIPTION\n",
        _paragraphs(
            'TOML. Every key has a default. Durations are written "90s", "5m", "2h"; sizes "64MiB", "5GB"; rates "100MB/s". '
            "An unknown section, key or unit is an error: axomsync config check lists all of them at once."
        ),
    ]
    for section, keys in config.reference().items():
        text.append(f".SH [{section}]\n")
        text.extend(_item(f"{key.name} = {config.as_toml(key.default)}", key.why) for key in keys)
    text.append(".SH SEE ALSO\n.BR axomsync (1)\n")
    return "".join(text)


def _head(name: str, section: int, summary: str) -> str:
    title = f'.TH "{name.upper()}" "{section}" "" "axomsync {__version__}"\n'
    return f"{title}.SH NAME\n{_escape(name)} \\- {_escape(_one_line(summary).rstrip('.'))}\n"


def _section(title: str, items: dict[str, str]) -> list[str]:
    return [f".SH {title}\n", *(_item(name, text) for name, text in items.items())]


def _item(name: str, text: str) -> str:
    return f".TP\n.B {_escape(name)}\n{_escape(_one_line(text))}\n"


def _paragraphs(text: str) -> str:
    return ".PP\n".join(f"{_escape(_one_line(part))}\n" for part in text.replace("\b", "").split("\n\n"))


def _first_line(command: click.Command) -> str:
    return (command.help or "").split("\n\n")[0]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _escape(text: str) -> str:
    """As roff reads it: a hyphen stays one that can be copied, and no line is taken for a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace('"', "\\(dq").replace("…", "...")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for file_name, page in pages():
        (folder / file_name).write_text(page, encoding="utf-8")
