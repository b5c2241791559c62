"""`gate`: judge a model or a file; to be named in `[hooks]`.

Failures handled: what the gates' modules handle; options that make no sense; and all others, which are no judgement: a file
that can't be read now, too little memory, a bug, an output that takes nothing (`Transient`).
"""

import sys
import traceback
from pathlib import Path
from typing import Any

import click

from axomsync.core.errors import Bug, Rejected, Transient
from axomsync.core.oserrors import local_fault, unforeseen


class _Judging(click.Group):
    """A group in which only `Rejected` is a no: the exit code of any other failure would be taken for one."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (Rejected, click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:  # noqa: BLE001  # told by this exit code
            failure = local_fault(error, error.filename or "a file") if isinstance(error, OSError) else unforeseen(error)
            if isinstance(failure, Bug):
                traceback.print_exception(error)
            raise Transient(str(failure)) from None


@click.group(cls=_Judging)
def gate() -> None:
    """Judge what the event on standard input names: exit code 0 lets it pass.

    For [hooks] before_publish and before_upload. The exit code is 1 for a no, whose reason is the last line, and 75 when
    nothing could be judged, so that the agent asks again.
    """


@gate.command("no-pickle")
@click.option("--allow", multiple=True, metavar="GLOB", help="Files that may hold one; may be given several times.")
def no_pickle(allow: tuple[str, ...]) -> None:
    """No file may hold a pickle, by its content."""
    from fnmatch import fnmatchcase

    from axomsync.gates.no_pickle import findings

    found = [each for each in findings(_place()) if not any(fnmatchcase(each.file, glob) for glob in allow)]
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise Rejected(f"{found[0]}{more}")
    click.echo("no pickle")


@gate.command()
@click.option("--public-key", metavar="FILE", type=click.Path(), help="The signer's public key.")
@click.option("--certificates", metavar="FILE", type=click.Path(), help="Certificates that the signer's must lead to.")
@click.option("--identity", metavar="NAME", help="The signer's identity, as Sigstore knows it.")
@click.option("--identity-provider", metavar="URL", help="Who vouches for that identity.")
@click.option("--signature", default="model.sig", show_default=True, metavar="REL", help="The signature, in the model.")
@click.option("--command", default="model_signing", show_default=True, metavar="FILE", help="The program that verifies.")
def signed(
    public_key: str | None,
    certificates: str | None,
    identity: str | None,
    identity_provider: str | None,
    signature: str,
    command: str,
) -> None:
    """The model must be signed, by the OpenSSF's model signing.

    Whose signature counts: --public-key, --certificates, or --identity with --identity-provider.
    """
    from axomsync.gates.signed import verify

    ways = {
        "key": (public_key is not None, ["--public_key", public_key]),
        "certificate": (certificates is not None, ["--certificate_chain", certificates]),
        "sigstore": (identity is not None, ["--identity", identity, "--identity_provider", identity_provider]),
    }
    chosen = [(method, trust) for method, (is_given, trust) in ways.items() if is_given]
    if len(chosen) != 1 or (identity is None) != (identity_provider is None):
        raise click.UsageError("name one: --public-key, --certificates, or --identity together with --identity-provider")
    method, trust = chosen[0]
    click.echo(verify(command, _place(), signature, method, [text for text in trust if text is not None]))


def _place() -> Path:
    from axomsync.gates.event import read_place

    if sys.stdin.isatty():
        raise click.UsageError("this reads the event of a gate from standard input; name it in [hooks] before_publish")
    return read_place(sys.stdin.buffer)
