"""The findings of `axomsync doctor`, and its exit code."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """The state of a part."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One line of the report; `fix` is the remedy. A failure gives the exit code, and the largest counts."""

    subject: str
    verdict: Verdict
    found: str
    fix: str = ""
    exit_code: int = 1

    def document(self) -> dict[str, str]:
        """Return one row of `axomsync doctor --json`."""
        return {"subject": self.subject, "verdict": str(self.verdict), "found": self.found, "fix": self.fix}


def exit_code(findings: Iterable[Finding]) -> int:
    """Return the exit code of `axomsync doctor`: 0 when nothing failed."""
    return max((finding.exit_code for finding in findings if finding.verdict is Verdict.FAIL), default=0)
