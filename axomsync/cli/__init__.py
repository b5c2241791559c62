"""The command line. Its verbs are in `verbs`, a module each. Exit codes are mapped in `main`, and nowhere else.

Heavy modules are imported inside the verb that needs them, so that `--help` and `status` answer at once.

Failures handled: every expected failure (one line a problem, without secrets, and the exit code of
`core/errors`), an output whose reader goes away, an output that can't show every character.
"""

import errno
import io
import os
import sys
from contextlib import suppress
from typing import Any

import click

from axomsync import __version__
from axomsync.cli.common import INSTANCE, config_option, json_option
from axomsync.cli.verbs import Verbs
from axomsync.core.errors import AxomsyncError, LocalFault
from axomsync.core.oserrors import GOES_ON, foreseen, local_fault

USAGE_EXIT_CODE = 2


def main() -> None:
    """Run the command line and end the process with the exit code of the error that ended it."""
    _fill_descriptors()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = cli(prog_name="axomsync", standalone_mode=False)
        sys.stdout.flush()
    except AxomsyncError as error:
        from axomsync.ops.logs import redact

        _echo_error("\n".join(f"axomsync: {line}" for line in redact(_of_a_command(error)).splitlines()))
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = USAGE_EXIT_CODE
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except BrokenPipeError:  # the reader of our output has gone, as in `axomsync uploads | head`
        code = 0
        _give_up_output()
    except (MemoryError, RuntimeError) as error:
        failure = foreseen(error)
        if failure is None:
            raise
        _echo_error(f"axomsync: {failure}")
        code = failure.exit_code
    except OSError as error:
        code = LocalFault.exit_code
        if error.filename is None and error.errno == errno.ENOSPC:  # a redirection: nobody knows which disk it is on
            fault = LocalFault("standard output: the disk is full; free some space where it goes to, or write elsewhere")
        else:
            fault = local_fault(error, error.filename or "standard output")
        _echo_error(f"axomsync: {_of_a_command(fault)}")
        _give_up_output()
    sys.exit(code)


def _of_a_command(failure: AxomsyncError) -> str:
    """The message of the failure that ends this process: nothing of it goes on."""
    return str(failure).replace(GOES_ON, "")


def _echo_error(text: str) -> None:
    """Write to standard error if that is possible; the exit code tells the failure in any case."""
    with suppress(OSError):
        click.echo(text, err=True)


def _fill_descriptors() -> None:
    """Open 0, 1 and 2 if the caller has closed them: no file that is opened later may get the printed text."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, "r" if name == "stdin" else "w", closefd=False))  # noqa: SIM115


def _give_up_output() -> None:
    """Lead standard output to nowhere, so that the interpreter's last flush of the buffer does not fail too."""
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _defaults(verb: click.Command, given: dict[str, Any]) -> dict[str, Any]:
    """Return `given` as defaults for those parameters that a verb has, or each verb of a group."""
    if isinstance(verb, click.Group):
        return {name: inner for name, one in verb.commands.items() if (inner := _defaults(one, given))}
    return {parameter.name: given[parameter.name] for parameter in verb.params if parameter.name in given}


class _Group(click.Group):
    """A group whose help shows the whole first sentence of each verb, over as many lines as needed."""

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        sentences = [(name, (command.help or "").partition("\n\n")[0]) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl([(name, " ".join(sentence.split())) for name, sentence in sentences])


@click.group(
    cls=_Group, commands=Verbs(), context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@config_option
@json_option
@click.version_option(__version__, prog_name="axomsync")
@click.pass_context
def cli(context: click.Context, /, **_: object) -> None:
    """Upload files from a drop folder, and mirror every ready model to disk."""
    name = context.invoked_subcommand or ""
    verb = cli.commands[name]
    given = {key: value for key, value in context.params.items() if value}
    naming = ("--config", "config_file")
    if INSTANCE in context.meta:
        naming, given["instance"] = ("--instance", "instance"), context.meta[INSTANCE]
    for option, parameter in (naming, ("--json", "as_json")):
        if parameter in given and not _defaults(verb, {parameter: True}):
            raise click.UsageError(f"{name} takes no {option}; leave it away", context)
    context.default_map = {name: _defaults(verb, given)}
