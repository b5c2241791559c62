"""Clocks that a test sets: one to hand over as a function, and the wall clock of a process while it runs.

The second is libfaketime with a control file; the monotonic clock of the process goes on by itself.
"""

from pathlib import Path


class HandClock:
    """A clock that stands at `now` until a test moves it."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class WallClock:
    """`prefix` is a command to run a process under that lives by this clock, which `set` puts off by so many seconds."""

    def __init__(self, folder: Path) -> None:
        self._control = folder / "faketime"
        self.set(0)
        library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        self.prefix = (
            "env", f"LD_PRELOAD={library}", f"FAKETIME_TIMESTAMP_FILE={self._control}", "FAKETIME_NO_CACHE=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
        )  # fmt: skip

    def set(self, seconds: float) -> None:
        """At once, so that nobody reads half of it."""
        fresh = self._control.with_suffix(".new")
        fresh.write_text(f"{seconds:+.0f}\n")
        fresh.rename(self._control)
