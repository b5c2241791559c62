"""What the marker `rig` finds: whoever names one of the rig's starting points, and whoever reaches one that does."""

import json
import subprocess
from functools import partial

import pytest

from tests.rig import browser
from tests.rig.needs import reaches_rig


def pure() -> str:
    return json.dumps(1)


def direct() -> None:
    subprocess.run(["true"], check=True)


def nested() -> None:
    (lambda: direct())()


class Helper:
    @property
    def started(self) -> None:
        return direct()


def by_class() -> object:
    return Helper()


def by_module() -> object:
    return browser.chromium


def by_name(request: pytest.FixtureRequest) -> object:
    return request.getfixturevalue("sandbox")


@pytest.mark.parametrize("code", [direct, nested, by_class, by_module, by_name, partial(direct)])
def test_rig_is_found_wherever_it_is_reached(code: object) -> None:
    assert reaches_rig([code], set())


@pytest.mark.parametrize("code", [pure, partial(pure), json, 3])
def test_rig_is_not_found_in_what_is_pure(code: object) -> None:
    assert not reaches_rig([code], set())
