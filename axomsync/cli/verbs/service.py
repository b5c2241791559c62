"""`service install` and `service uninstall`: the agent as a service of systemd."""

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

ONE_GATEWAY = "a gateway is a service of the machine, once on it: leave out --user and --instance"


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
@click.option(
    "--gateway",
    "gateway_for",
    multiple=True,
    metavar="HOST",
    help="Install a gateway instead: nginx as a cache of this host of storage, for the boxes around; may be repeated.",
)
@click.option("--listen", default="", metavar="ADDRESS:PORT", help="Where the gateway listens.  [default: 9080]")
@click.option("--near", multiple=True, metavar="NETWORK", help="Who may ask the gateway.  [default: private networks]")
@click.option("--room", default="", metavar="SIZE", help="The most that the gateway's cache takes.  [default: 50GiB]")
def install(
    for_user: bool, instance: str | None, gateway_for: tuple[str, ...], listen: str, near: tuple[str, ...], room: str
) -> None:
    """Install units, user, folders and a configuration, and print each step."""
    from axomsync.ops import gateway
    from axomsync.ops.service import install_for_machine, install_for_user, running_program

    if gateway_for and (for_user or instance):
        raise click.UsageError(ONE_GATEWAY)
    if (listen or near or room) and not gateway_for:
        raise click.UsageError("--listen, --near and --room are for a gateway: name the hosts of storage with --gateway")
    if gateway_for:
        gateway.install(gateway_for, listen, near or None, room, click.echo)
        return
    program = running_program(sys.argv[0])
    if for_user:
        install_for_user(program, os.environ, click.echo, instance)
    else:
        install_for_machine(program, click.echo, instance)


@service.command()
@options
@click.option("--gateway", is_flag=True, help="Remove the gateway instead, with its cache.")
def uninstall(for_user: bool, instance: str | None, gateway: bool) -> None:
    """Stop the service and remove its units. Configuration, key, ledger and data stay.

    With --instance, only this one; without, all.
    """
    from axomsync.ops import gateway as gateways
    from axomsync.ops.service import uninstall_for_machine, uninstall_for_user

    if gateway and (for_user or instance):
        raise click.UsageError(ONE_GATEWAY)
    if gateway:
        gateways.uninstall(click.echo)
        return
    if for_user:
        uninstall_for_user(os.environ, click.echo, instance)
    else:
        uninstall_for_machine(click.echo, instance)
