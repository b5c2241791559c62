"""A call for whose result nobody waits longer than he wants, such as a read that can't be ended from outside.

Failures handled: a call that never ends (its thread goes on, and ends with the process), no room for one more thread.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

T = TypeVar("T")


class Late(Exception):
    """The result has not come in time."""


def begun(call: Callable[[], T], name: str) -> Future[T]:
    """Begin a call in a thread of this name; the future gets what it returns or raises, also that no thread is left."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as failure:  # noqa: BLE001  # `result` raises it
            future.set_exception(failure)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as refused:
        future.set_exception(refused)
    return future


class BoundedCall(Generic[T]):
    """A call that begins at once, in a thread of its own, and has so many `seconds`."""

    def __init__(self, call: Callable[[], T], seconds: float, name: str) -> None:
        self._future, self._ends = begun(call, name), time.monotonic() + seconds

    def result(self) -> T:
        """Return what the call returned. Raises what it raised, and `Late`."""
        wait([self._future], max(0.0, self._ends - time.monotonic()))  # not its `result`: the call may raise TimeoutError
        if not self._future.done():
            raise Late
        return self._future.result()
