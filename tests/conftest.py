"""Fixtures for every test; what they do is in `tests/rig`."""

import signal

import pytest

from tests.rig import anything
from tests.rig.needs import mark_those_that_need_the_rig

pytest_plugins = ["tests.rig.fixtures"]

# Started by `nohup`, by `&` in a script and by some CI, the suite has these ignored, and would hand that on to every process
# that it starts; there a signal that is sent would never come. A handler is reset by exec, and goes on ignoring here.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--few", action="store_true", help="random searches try a tenth of their cases")


def pytest_configure(config: pytest.Config) -> None:
    anything.few = config.getoption("--few")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_those_that_need_the_rig(items)
