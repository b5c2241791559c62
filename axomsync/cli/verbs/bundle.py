"""`bundle`: one archive for support, without secrets.

Failures handled: a configuration, ledger, agent or console that is broken (told in the archive), a disk that can't take the
file (`LocalFault`, nothing is left there), a name that is taken.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

import click

from axomsync.cli.common import config_option, load
from axomsync.core.errors import BadConfig, LocalFault
from axomsync.core.oserrors import local_fault


@click.command()
@config_option
@click.option("-o", "--output", metavar="FILE", help="Where to write it; - is standard output.")
def bundle(config_file: str | None, output: str | None) -> None:
    """Write one archive for support: versions, configuration, doctor, status, journal, ledger, disks.

    Keys, tokens, passwords and signed URLs are removed. It works also when the agent, the ledger or the console are broken.
    """
    from axomsync import config
    from axomsync.ops.bundle import Box, write_bundle

    now, path, settings = time.time(), None, None
    try:
        path = config.find(config_file, os.environ)
        settings = load(config_file).settings
    except BadConfig as fault:
        click.echo(f"{fault}; the bundle is made without it", err=True)
    options = () if config_file is None else ("--config", config_file)
    box = Box(options, path, settings, os.environ)
    if output == "-":
        write_bundle(box, sys.stdout.buffer, now)
        return
    file = output or time.strftime("axomsync-bundle-%Y%m%dT%H%M%SZ.tar.gz", time.gmtime(now))
    with _new_file(file) as stream:
        write_bundle(box, stream, now)
    click.echo(f"{file}: look into it before you give it away; MANIFEST.txt in it lists its files")


@contextmanager
def _new_file(name: str) -> Iterator[IO[bytes]]:
    """Yield a new file that only its owner can read. Nothing is left of it if the block fails."""
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise LocalFault(f"{name}: it exists; name another file with -o") from None
    except OSError as error:
        raise local_fault(error, name) from None
    try:
        with open(descriptor, "wb") as stream:
            yield stream
    except BaseException as failure:
        with suppress(OSError):
            os.unlink(name)
        if isinstance(failure, OSError):
            raise LocalFault(f"{local_fault(failure, name)}; or write it to standard output: axomsync bundle -o -") from None
        raise
