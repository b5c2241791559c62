"""The state that the chapters of the tour share: its parts, and the claims that were checked so far."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from axomsync.sandbox.console import Sandbox
from axomsync.sandbox.demo.installation import Installation
from axomsync.sandbox.demo.recording_relay import RecordingRelay
from axomsync.sandbox.demo.sample import Sample
from axomsync.sandbox.demo.voice import Voice

CONNECTIONS = 4  # of the agent
VERSION = "1"


@dataclass
class Story:
    """The parts of the tour, the claims that were checked, and figures for the summary."""

    voice: Voice
    sandbox: Sandbox
    agent: Installation
    sample: Sample
    checks: list[tuple[str, bool]] = field(default_factory=list)
    figures: list[tuple[str, str]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @property
    def relay(self) -> RecordingRelay:
        return cast(RecordingRelay, self.sandbox.relay)

    @property
    def published(self) -> Path:
        """The folder in which the model is to appear."""
        return self.agent.mirror / self.sample.name / VERSION

    def check(self, claim: str, holds: bool) -> None:
        """Note whether a claim holds, and tell one that does not at once."""
        self.checks.append((claim, holds))
        if not holds:
            self.voice.say(f"FAILED: {claim}", style="red")

    def summary(self) -> int:
        """Print figures and checks; returns how many checks failed."""
        self.voice.step("Summary")
        self.voice.table([*self.figures, ("time", f"{time.monotonic() - self.began:.0f} s")])
        self.voice.table([("ok" if holds else "failed", claim) for claim, holds in self.checks])
        failed = sum(not holds for _, holds in self.checks)
        self.voice.say(f"{failed} of {len(self.checks)} checks failed" if failed else f"all {len(self.checks)} checks hold")
        return failed
