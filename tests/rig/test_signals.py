"""The suite itself, started as `nohup`, `&` in a script and some CI start it: with signals ignored."""

import subprocess
import sys

from tests.rig.installation import CHECKOUT

TOLD = "import signal; print(*(signal.getsignal(number) is signal.SIG_IGN for number in (signal.SIGINT, signal.SIGHUP)))"


def test_what_tests_start_does_not_ignore_the_signals_that_the_suite_was_started_with_ignored() -> None:
    """Else an agent that a test interrupts would never end, and the test would wait for it."""
    started = f"import subprocess, sys; import tests.conftest; subprocess.run([sys.executable, '-c', {TOLD!r}], check=True)"
    ignoring = "trap '' INT HUP; exec \"$@\""
    for told, expected in ((TOLD, "True True"), (started, "False False")):
        done = subprocess.run(
            ["sh", "-c", ignoring, "sh", sys.executable, "-c", told],
            cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        assert done.stdout.split() == expected.split()
