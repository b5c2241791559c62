"""The verbs that put axomsync in place as a service: `service install`, `service uninstall`."""

import os
import sys

import click

for_user = click.option("--user", "for_user", is_flag=True, help="A service of your own, without root.")


@click.group("service")
def service_group() -> None:
    """Have systemd run the agent."""


@service_group.command("install")
@for_user
def install(for_user: bool) -> None:
    """Put units, user, folders and a configuration in place, and say each thing that is done."""
    from axomsync.ops import service

    program = service.running_program(sys.argv[0])
    if for_user:
        service.install_for_user(program, os.environ, click.echo)
    else:
        service.install_for_machine(program, click.echo)


@service_group.command("uninstall")
@for_user
def uninstall(for_user: bool) -> None:
    """Stop the service and take its units away. Configuration, key, ledger and data stay."""
    from axomsync.ops import service

    if for_user:
        service.uninstall_for_user(os.environ, click.echo)
    else:
        service.uninstall_for_machine(click.echo)
