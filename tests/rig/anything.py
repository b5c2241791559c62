"""Arbitrary documents, and how many a test takes: a tenth in `make check`, twenty thousand in `make stress`."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

few = False  # as `pytest --few` asks for


def some(count: int) -> int:
    """How many random cases a search takes that has `count` in `make test`."""
    return max(1, count // 10) if few else count


def how_many(quick: int = 300) -> pytest.MarkDecorator:
    """`examples`: so many in `make test`."""
    return pytest.mark.parametrize(
        "examples", [some(quick), pytest.param(20_000, marks=[pytest.mark.stress, pytest.mark.timeout(3600)])]
    )


NUMBERS = st.sampled_from([0, -1, 2**31, 2**63 - 1, 2**63, 2**64, 2**70, 10**400, 1.5, 1e308, float("inf"), float("nan")])
TEXTS = st.text(max_size=20) | st.sampled_from(
    ["", "\0", "\ud800", "../../etc/passwd", "/etc/passwd", "a/../b", "x" * 100_000, "0001-01-01T00:00:00+23:59", "a" * 64,
     "9999-12-31T23:59:59-23:59", "2026-01-01", "2026-W01-1T00:00:00+00:00", "\\x00\\", "=1+1", "\x1b[2J"]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | NUMBERS | st.integers() | st.floats() | TEXTS
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def nearly(draw: st.DrawFn, good: Any) -> Any:
    """What is like `good`, but for a few of its parts: each may be something else, or missing."""
    return _changed(draw, good, draw(st.integers(1, 3)))


def _changed(draw: st.DrawFn, good: Any, changes: int) -> Any:
    for _ in range(changes):
        good = _change(draw, good)
    return good


def _change(draw: st.DrawFn, good: Any) -> Any:
    """Go down into the document, and put something else where the way ends."""
    if isinstance(good, dict) and good and draw(st.booleans()):
        name = draw(st.sampled_from(sorted(good)))
        if draw(st.integers(0, 3)) == 0:
            return {key: value for key, value in good.items() if key != name}
        return good | {name: _change(draw, good[name])}
    if isinstance(good, list) and good and draw(st.booleans()):
        place = draw(st.integers(0, len(good) - 1))
        return [*good[:place], _change(draw, good[place]), *good[place + draw(st.integers(0, 1)) :]]
    return draw(ANYTHING)


def for_any(documents: st.SearchStrategy[Any], examples: int, holds: Callable[[Any], object]) -> None:
    """`holds` is called with each of `examples` documents; the smallest that fails is shown."""

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(documents)
    def test(document: Any) -> None:
        holds(document)

    test()
