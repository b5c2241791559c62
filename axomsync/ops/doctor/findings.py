"""The findings of `axomsync doctor`, and its exit code.

Failures handled: any that a check did not foresee (`standing_alone` makes a finding of it; a bug's traceback is logged).
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from axomsync.core.errors import AxomsyncError, Bug
from axomsync.core.oserrors import local_fault, unforeseen

log = logging.getLogger(__name__)


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


def of_fault(subject: str, fault: AxomsyncError) -> Finding:
    """Return the finding that a failure is: the reason, and the remedy that its message names."""
    found, _, fix = str(fault).partition("; ")
    return Finding(subject, Verdict.FAIL, found, fix.removeprefix("run: "))


def standing_alone(subject: str, findings: Iterable[Finding]) -> Iterator[Finding]:
    """Yield the findings; a failure that ends them is the last one, and no other check is the worse for it."""
    try:
        yield from findings
    except OSError as error:
        yield of_fault(subject, local_fault(error))
    except Exception as failure:  # the others are made
        fault = unforeseen(failure)
        if isinstance(fault, Bug):
            log.exception("the check of %s failed in a way that was not foreseen", subject)
        yield of_fault(subject, fault)


def exit_code(findings: Iterable[Finding]) -> int:
    """Return the exit code of `axomsync doctor`: 0 when nothing failed."""
    return max((finding.exit_code for finding in findings if finding.verdict is Verdict.FAIL), default=0)
