"""Mark the tests that need the rig: a server, another process, a booted system or a browser. `make check` leaves them out.

Nobody marks a test by hand. A test needs the rig when its code reaches something in `STARTS`: through its fixtures, its
parameters, or functions and classes of `tests`. The names in compiled code tell; nothing is run. A fixture that asks for
another one by its name at run time counts as one of the rig, since nobody can know which it will be.
"""

import inspect
import subprocess
import types
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import cast

import pytest

from axomsync.sandbox.console import Sandbox, serve
from axomsync.sandbox.objectstore import ObjectStore
from tests.rig.agent import AgentProcess
from tests.rig.browser import chromium
from tests.rig.container import Container
from tests.rig.faults import FaultyServer

STARTS: tuple[object, ...] = (subprocess, Sandbox, serve, ObjectStore, AgentProcess, Container, FaultyServer, chromium)


def mark_those_that_need_the_rig(items: Iterable[pytest.Item]) -> None:
    """Add the marker `rig` to each test that needs it."""
    clean: set[int] = set()
    for item in items:
        if isinstance(item, pytest.Function) and reaches_rig(_pieces(item), clean):
            item.add_marker("rig")


def _pieces(test: pytest.Function) -> list[object]:
    """The code that runs for a test: itself, its fixtures, and its parameters as far as they are code."""
    fixtures = [definitions[-1].func for definitions in test._fixtureinfo.name2fixturedefs.values()]
    call = getattr(test, "callspec", None)
    return [test.function, *fixtures, *(call.params.values() if call is not None else ())]


def reaches_rig(pieces: Iterable[object], clean: set[int]) -> bool:
    """Whether code among `pieces` reaches the rig. `clean` holds the ids of what is known not to, and is added to."""
    seen: set[int] = set()
    left = list(pieces)
    while left:
        thing = left.pop()
        if any(thing is start for start in STARTS):
            return True
        if id(thing) not in seen and id(thing) not in clean:
            seen.add(id(thing))
            left += _named_in(thing)
    clean |= seen
    return False


def _named_in(thing: object) -> Iterator[object]:
    """What the code of tests names: of a function its globals, of a class its methods and bases."""
    if isinstance(thing, partial):
        yield thing.func
    elif isinstance(thing, property):
        yield thing.fget
    elif isinstance(thing, staticmethod | classmethod | types.MethodType):
        yield thing.__func__
    elif not (getattr(thing, "__module__", None) or "").startswith("tests."):
        return
    elif isinstance(thing, type):
        yield from thing.__bases__
        yield from vars(thing).values()
    elif isinstance(function := inspect.unwrap(cast("Callable[..., object]", thing)), types.FunctionType):
        names = set(_names(function.__code__))
        if "getfixturevalue" in names:
            yield subprocess
        for name in names:
            named = function.__globals__.get(name)
            yield named
            if isinstance(named, types.ModuleType) and named.__name__.startswith("tests."):
                yield from (vars(named).get(attribute) for attribute in names)


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
