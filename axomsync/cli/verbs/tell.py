"""`tell`: tell an engine about a new version; to be named in `[hooks]`.

Failures handled: what the engines' modules handle; a token that can't be read; options that make no sense.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from axomsync.engines.client import Client
    from axomsync.engines.events import Load, Naming, Unload

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def tell() -> None:
    """Tell an engine about the event on standard input: load this version.

    For [hooks] current_moved and model_removed. Telling an engine twice does no harm. The exit code is 75 when the engine
    does not answer or is not ready in time, and 1 when it refuses.
    """


def _checked(parse: Callable[[str], Any], value: str) -> Any:
    try:
        return parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _duration(_: click.Context, __: click.Parameter, value: str) -> float:
    from axomsync.config.units import parse_duration

    seconds: float = _checked(parse_duration, value)
    return seconds


def _url(_: click.Context, __: click.Parameter, value: str) -> str:
    from axomsync.engines.client import check_url

    url: str = _checked(check_url, value)
    return url


def _naming(_: click.Context, __: click.Parameter, value: str) -> "Naming":
    from axomsync.engines.events import Naming

    naming: Naming = _checked(Naming, value)
    return naming


def _common_options(function: F, *, needs_only: bool = False) -> F:
    options = (
        click.option(
            "--only", multiple=True, required=needs_only, metavar="GLOB",
            help="Only models of this name; may be given several times.",
        ),
        click.option(
            "--wait", default="5m", show_default=True, callback=_duration, metavar="DURATION",
            help="How long loading may take, and how long the engine may need to be ready afterwards.",
        ),
        click.option(
            "--timeout", default="30s", show_default=True, callback=_duration, metavar="DURATION",
            help="How long a question to the engine may take.",
        ),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def _http_options(default: str, *, needs_only: bool = False) -> Callable[[F], F]:
    """Add the options of an engine that is told over HTTP, at this URL by default."""
    url = click.option("--url", default=default, show_default=True, callback=_url, help="Where the engine listens.")
    token = click.option(
        "--token-file", metavar="FILE", help="File with the bearer token that the engine asks for.", type=click.Path()
    )
    return lambda function: url(token(_common_options(function, needs_only=needs_only)))


def _name_option(default: str | None = "{name}") -> Callable[[F], F]:
    return click.option(
        "--name", "naming", default=default, required=default is None, show_default=True, callback=_naming, metavar="TEXT",
        help="What the engine calls the model; {name}, {version} and {id} are filled in.",
    )  # fmt: skip


@tell.command("vllm-lora")
@_name_option()
@_http_options("http://localhost:8000")
def vllm_lora(naming: "Naming", **options: Any) -> None:
    """vLLM: load a LoRA adapter, and unload what it replaces."""
    from axomsync.engines import vllm_lora as engine

    _over_http(lambda c, task: engine.load(c, task, naming), engine.unload, **options)


@tell.command()
@_http_options("http://localhost:30000", needs_only=True)
def sglang(**options: Any) -> None:
    """SGLang: read the weights from disk."""
    from axomsync.engines import sglang as engine

    _over_http(engine.load, engine.unload, **options)


@tell.command()
@_name_option()
@_http_options("http://localhost:8000")
def v2(naming: "Naming", **options: Any) -> None:
    """Triton, MLServer, KServe: load a model by the repository API."""
    from axomsync.engines import v2 as engine

    _over_http(lambda c, task: engine.load(c, task, naming), lambda c, task: engine.unload(c, task, naming), **options)


@tell.command()
@_name_option()
@click.option(
    "--store", metavar="FOLDER", type=click.Path(), help="Ollama's OLLAMA_MODELS; on the same filesystem no file is copied."
)
@_http_options("http://localhost:11434")
def ollama(naming: "Naming", store: str | None, **options: Any) -> None:
    """Ollama: create a model from the folder."""
    from axomsync.engines import ollama as engine

    _over_http(
        lambda c, task: engine.load(c, task, naming, store), lambda c, task: engine.unload(c, task, naming), **options
    )


@tell.command()
@_name_option(None)
@click.option("--reload", is_flag=True, help="Reload the unit if it can be reloaded.")
@click.option("--user", is_flag=True, help="Ask the user's service manager.")
@_common_options
def unit(naming: "Naming", *, reload: bool, user: bool, timeout: float, wait: float, only: tuple[str, ...]) -> None:
    """systemd: restart a unit, such as vllm@{name}.service."""
    from axomsync.engines import unit as engine

    manager = engine.Manager(user=user, timeout=timeout, wait=wait)
    _act(lambda task: engine.load(manager, task, naming, reload=reload), engine.unload, only)


def _over_http(
    load: "Callable[[Client, Load], str]",
    unload: "Callable[[Client, Unload], str]",
    *,
    url: str,
    token_file: str | None,
    timeout: float,
    wait: float,
    only: tuple[str, ...],
) -> None:
    from axomsync.config import read_token
    from axomsync.engines.client import Client

    client = Client(url, token=None if token_file is None else read_token(Path(token_file)), timeout=timeout, wait=wait)
    try:
        _act(lambda task: load(client, task), lambda task: unload(client, task), only)
    finally:
        client.close()


def _act(load: "Callable[[Load], str]", unload: "Callable[[Unload], str]", only: tuple[str, ...]) -> None:
    """Read the event, do what it asks for, and print what was done."""
    from axomsync.engines.events import Load, Unload, among, read_task

    if sys.stdin.isatty():
        raise click.UsageError("this reads the event of a hook from standard input; name it in [hooks] current_moved")
    task = among(read_task(sys.stdin.buffer), only)
    if isinstance(task, Load):
        click.echo(load(task))
    elif isinstance(task, Unload):
        click.echo(unload(task))
    else:
        click.echo(task.reason)
