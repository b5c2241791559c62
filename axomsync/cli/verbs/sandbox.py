"""`sandbox`: a console and an object store on loopback.

Failures handled: values that the sandbox can't take (a usage error), a sandbox that does not start (`LocalFault`).
"""

import signal
import threading
from pathlib import Path

import click

from axomsync.cli.extras import sandbox_packages
from axomsync.cli.output import print_json_line
from axomsync.core.errors import LocalFault


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("axomsync-sandbox"), show_default=True,
              help="Folder of its state and objects.")  # fmt: skip
@click.option("--listen", default="127.0.0.1:0", show_default=True, help="Address of the console, on loopback.")
@click.option("--url-lifetime", default="15m", show_default=True, help="Lifetime of presigned URLs.")
@click.option("--rate", default="", help="Speed of each storage connection, such as 10MB/s.")
def sandbox(folder: Path, listen: str, url_lifetime: str, rate: str) -> None:
    """Run an embedded console and object store, on loopback, for experiments and for CI."""
    from datetime import timedelta

    from axomsync.config.units import parse_bandwidth, parse_duration

    with sandbox_packages():
        from axomsync.sandbox.console import serve
        from axomsync.sandbox.errors import NoCatalog, ObjectStoreError
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        lifetime, rules = timedelta(seconds=parse_duration(url_lifetime)), parse_bandwidth(rate)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    address = _loopback_address(listen)
    if lifetime < timedelta(seconds=1):
        raise click.UsageError(f"--url-lifetime {url_lifetime}: S3 counts in whole seconds; give it 1s or more")
    try:
        serve(folder.absolute(), address, lifetime, rules[0].rate if rules else None, print_json_line, stop)
    except (NoCatalog, ObjectStoreError) as failure:
        raise LocalFault(str(failure)) from None


def _loopback_address(listen: str) -> tuple[str, int]:
    """Return host and port of `--listen`. Raises `click.UsageError` for any address but one on loopback."""
    from axomsync.config import is_loopback, listen_address, parse_listen

    try:
        host, port = listen_address(parse_listen(listen))
    except ValueError:
        raise click.UsageError(f"--listen {listen}: not host:port; write it like 127.0.0.1:9470") from None
    if not is_loopback(host):
        raise click.UsageError(
            f"--listen {listen}: every client of this address controls the sandbox; let it listen on 127.0.0.1"
        )
    return host, port
