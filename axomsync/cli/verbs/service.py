"""`service install` and `service uninstall`: the agent as a service of systemd."""

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def options(function: F) -> F:
    """Add what both verbs take."""
    instance = click.option("--instance", metavar="NAME", help="A further agent, with key, folders and page of its own.")
    for_user = click.option("--user", "for_user", is_flag=True, help="A service of your own, without root.")
    return for_user(instance(function))


@click.group()
def service() -> None:
    """Install the agent as a service of systemd, or uninstall it."""


@service.command()
@options
def install(for_user: bool, instance: str | None) -> None:
    """Install units, user, folders and a configuration, and print each step."""
    from axomsync.ops.service import install_for_machine, install_for_user, running_program

    program = running_program(sys.argv[0])
    if for_user:
        install_for_user(program, os.environ, click.echo, instance)
    else:
        install_for_machine(program, click.echo, instance)


@service.command()
@options
def uninstall(for_user: bool, instance: str | None) -> None:
    """Stop the service and remove its units. Configuration, key, ledger and data stay.

    With --instance, only this one; without, all.
    """
    from axomsync.ops.service import uninstall_for_machine, uninstall_for_user

    if for_user:
        uninstall_for_user(os.environ, click.echo, instance)
    else:
        uninstall_for_machine(click.echo, instance)
