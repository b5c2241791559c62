"""The command line: one small function a verb, a module a group of verbs. Exit codes are mapped in `main`, and nowhere else.

What is heavy is imported inside the verb that needs it, so that `--help` and `status` answer at once.

Failures handled: every expected failure (one line a problem, without secrets, and the exit code that `interface.md`
fixes), a reader of the output that goes away, an output that can't show every character.
"""

import io
import os
import sys
from contextlib import suppress
from typing import Any

import click

from axomsync import __version__
from axomsync.cli import catalogs, mirroring, service, setting_up, showing, steering, trying, working
from axomsync.cli.context import config_option, json_option
from axomsync.cli.output import print_json
from axomsync.core.errors import AxomsyncError, LocalFault
from axomsync.core.oserrors import local_fault

USAGE_EXIT_CODE = 2


def main() -> None:
    """Run the command line and end the process with the exit code that `interface.md` fixes."""
    _fill_descriptors()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = cli(prog_name="axomsync", standalone_mode=False)
        sys.stdout.flush()
    except AxomsyncError as error:
        from axomsync.ops.logs import redact

        _say("\n".join(f"axomsync: {line}" for line in redact(str(error)).splitlines()))
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = USAGE_EXIT_CODE
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except BrokenPipeError:  # the reader of our output has gone, as in `axomsync uploads | head`
        code = 0
        _give_up_output()
    except OSError as error:
        code = LocalFault.exit_code
        _say(f"axomsync: {local_fault(error, error.filename or 'standard output')}")
        _give_up_output()
    sys.exit(code)


def _say(text: str) -> None:
    """What could not be written to standard error is in the exit code all the same."""
    with suppress(OSError):
        click.echo(text, err=True)


def _fill_descriptors() -> None:
    """Whoever starts this may have closed 0, 1 or 2: no file that is opened later may become what is printed into."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, "r" if name == "stdin" else "w", closefd=False))  # noqa: SIM115


def _give_up_output() -> None:
    """So that the interpreter's last flush does not fail too: what is left in the buffer has somewhere to go."""
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


class _Verbs(click.Group):
    """Its help says of each verb all that there is to say in a sentence, over as many lines as that takes."""

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        sentences = [(name, (command.help or "").partition("\n\n")[0]) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl([(name, " ".join(sentence.split())) for name, sentence in sentences])


def _defaults(verb: click.Command, given: dict[str, Any]) -> dict[str, Any]:
    """`given` as defaults of those parameters that a verb has, or each verb of a group."""
    if isinstance(verb, click.Group):
        return {name: inner for name, one in verb.commands.items() if (inner := _defaults(one, given))}
    return {parameter.name: given[parameter.name] for parameter in verb.params if parameter.name in given}


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@config_option
@json_option
@click.version_option(__version__, prog_name="axomsync")
@click.pass_context
def cli(context: click.Context, /, **_: object) -> None:
    """Uploads what is dropped into a folder, and mirrors every ready model to disk."""
    name = context.invoked_subcommand or ""
    verb = cli.commands[name]
    for option, parameter in (("--config", "config_file"), ("--json", "as_json")):
        if context.params[parameter] and not _defaults(verb, {parameter: True}):
            raise click.UsageError(f"{name} takes no {option}; leave it away", context)
    context.default_map = {name: _defaults(verb, {key: value for key, value in context.params.items() if value})}


@click.command()
@json_option
def version(as_json: bool) -> None:
    """The version of this program."""
    if as_json:
        print_json({"version": __version__})
    else:
        click.echo(f"axomsync, version {__version__}")


for verb in (
    working.push,
    working.run,
    working.sync,
    showing.status,
    showing.uploads,
    showing.explain,
    catalogs.models,
    catalogs.datasets,
    catalogs.base_models,
    steering.retry,
    steering.pause,
    steering.resume,
    steering.poll,
    steering.forget,
    mirroring.pull,
    mirroring.wait,
    mirroring.verify,
    mirroring.pin,
    mirroring.unpin,
    mirroring.rollback,
    mirroring.prune,
    setting_up.config_group,
    setting_up.init,
    setting_up.doctor,
    service.service_group,
    trying.demo,
    trying.sandbox,
    version,
):
    cli.add_command(verb)
