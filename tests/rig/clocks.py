"""The wall clock of a process, set while it runs: libfaketime with a control file. Its monotonic clock goes on by itself."""

from pathlib import Path


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
