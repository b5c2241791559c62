"""The verbs that need no account: `demo` and `sandbox`."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from axomsync.cli.output import print_json_line
from axomsync.errors import LocalFault


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

    from axomsync.config import parse_bandwidth, parse_duration

    with _sandbox_packages():
        from axomsync.sandbox.console import serve
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        lifetime, rules = timedelta(seconds=parse_duration(url_lifetime)), parse_bandwidth(rate)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    serve(folder.absolute(), listen, lifetime, rules[0].rate if rules else None, print_json_line, stop)


@contextmanager
def _sandbox_packages() -> Iterator[None]:
    """Turns a missing extra into a message."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise LocalFault(f"{error.name} is missing; run: pip install 'axomsync[sandbox]'") from None
