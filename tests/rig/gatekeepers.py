"""Gates for tests: small programs in Python, which are asked as the agent asks."""

import sys
from pathlib import Path
from typing import Any

from axomsync.config import HookSettings
from axomsync.ops.hooks import gates
from axomsync.runtime.gates import Gates

_EVENT = """
import json, os, signal, sys, time
event = json.load(sys.stdin)
place = event["model"]["path"] if "model" in event else event["file"]
open({log!r}, "a").write(event["event"] + "\\n")
"""


class Gatekeeper:
    """Makes gates whose program has `event` and `place` at hand, and notes each time when one is asked."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "asked"

    def command(self, program: str) -> list[str]:
        """The command of a gate."""
        return [sys.executable, "-S", "-c", _EVENT.format(log=str(self._log)) + program]

    def gates(self, program: str, **settings: Any) -> Gates:
        """Both gates with this program."""
        command: Any = self.command(program)
        return gates(HookSettings(before_upload=command, before_publish=command, **settings), {})

    def asked(self) -> list[str]:
        """The events so far."""
        return self._log.read_text().split() if self._log.exists() else []
