"""`service install` and `service uninstall`: the agent as a service of systemd."""

import os
import sys

import click

for_user = click.option("--user", "for_user", is_flag=True, help="A service of your own, without root.")


@click.group()
def service() -> None:
    """Install the agent as a service of systemd, or uninstall it."""


@service.command()
@for_user
def install(for_user: bool) -> None:
    """Install units, user, folders and a configuration, and print each step."""
    from axomsync.ops.service import install_for_machine, install_for_user, running_program

    program = running_program(sys.argv[0])
    if for_user:
        install_for_user(program, os.environ, click.echo)
    else:
        install_for_machine(program, click.echo)


@service.command()
@for_user
def uninstall(for_user: bool) -> None:
    """Stop the service and remove its units. Configuration, key, ledger and data stay."""
    from axomsync.ops.service import uninstall_for_machine, uninstall_for_user

    if for_user:
        uninstall_for_user(os.environ, click.echo)
    else:
        uninstall_for_machine(click.echo)
