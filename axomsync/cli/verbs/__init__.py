"""One module for each verb, with the name of the verb; and the list of all verbs.

The module of `base-models` is `base_models.py`; a name that Python reserves gets `_` at its end. Each module defines a
command of the same name. It is imported only when its verb is asked for, so that each verb waits for its own imports alone.
"""

from collections import UserDict
from collections.abc import Iterator
from importlib import import_module

import click

MODULES = (  # in the order of `--help`
    "push",
    "run",
    "sync",
    "status",
    "uploads",
    "explain",
    "check",
    "models",
    "datasets",
    "base_models",
    "retry",
    "pause",
    "resume",
    "poll",
    "reload",
    "forget",
    "pull",
    "import_",
    "wait",
    "verify",
    "pin",
    "unpin",
    "rollback",
    "promote",
    "prune",
    "warm",
    "tell",
    "gate",
    "config",
    "init",
    "doctor",
    "logs",
    "bundle",
    "service",
    "demo",
    "sandbox",
    "version",
)
_MODULE_OF = {module.rstrip("_").replace("_", "-"): module for module in MODULES}


class Verbs(UserDict[str, click.Command]):
    """Commands by the name of their verb, each imported when it is first looked up."""

    def __missing__(self, name: str) -> click.Command:
        module = _MODULE_OF[name]
        command: click.Command = getattr(import_module(f"{__name__}.{module}"), module)
        self.data[name] = command
        return command

    def __contains__(self, name: object) -> bool:
        return name in _MODULE_OF

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULE_OF)

    def __len__(self) -> int:
        return len(_MODULE_OF)
