"""The verbs that need no account: `demo` and `sandbox`."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from axomsync.cli.output import print_json_line
from axomsync.core.errors import LocalFault


@click.command()
@click.option("--keep", is_flag=True, help="Leave everything running afterwards.")
def demo(keep: bool) -> None:
    """A tour against an embedded sandbox: upload, download, crash, resume."""
    with _sandbox_packages():
        from axomsync.sandbox.demo import tour
    sys.exit(tour(keep=keep))


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("axomsync-sandbox"), show_default=True,
              help="Where its state and objects are kept.")  # fmt: skip
@click.option("--listen", default="127.0.0.1:0", show_default=True, help="Address of the console, on loopback.")
@click.option("--url-lifetime", default="15m", show_default=True, help="How long presigned URLs live.")
@click.option("--rate", default="", help="Speed of each storage connection, such as 10MB/s.")
def sandbox(folder: Path, listen: str, url_lifetime: str, rate: str) -> None:
    """An embedded console and object store, on loopback, for trying things and for CI."""
    import signal
    from datetime import timedelta

    from axomsync.config import is_loopback, listen_address, parse_listen
    from axomsync.config.units import parse_bandwidth, parse_duration

    with _sandbox_packages():
        from axomsync.sandbox.catalog import NoCatalog
        from axomsync.sandbox.console import serve
        from axomsync.sandbox.objectstore import ObjectStoreError
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        lifetime, rules = timedelta(seconds=parse_duration(url_lifetime)), parse_bandwidth(rate)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    try:
        host, port = listen_address(parse_listen(listen))
    except ValueError:
        raise click.UsageError(f"--listen {listen}: not host:port; write it like 127.0.0.1:9470") from None
    if not is_loopback(host):
        raise click.UsageError(
            f"--listen {listen}: whoever reaches this address controls the sandbox; let it listen on 127.0.0.1"
        )
    if lifetime < timedelta(seconds=1):
        raise click.UsageError(f"--url-lifetime {url_lifetime}: S3 counts in whole seconds; give it 1s or more")
    try:
        serve(folder.absolute(), (host, port), lifetime, rules[0].rate if rules else None, print_json_line, stop)
    except (NoCatalog, ObjectStoreError) as failure:
        raise LocalFault(str(failure)) from None


@contextmanager
def _sandbox_packages() -> Iterator[None]:
    """Turns a missing extra into a message."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise LocalFault(f"{error.name} is missing; in a checkout of axomsync, run: pip install '.[sandbox]'") from None
