"""`python -m benchmarks`: runs the cases that are named, or all, and writes what they found."""

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from benchmarks import downloads, endurance, ingestion, report, resting, uploads
from benchmarks.bench import CASES, Bench

MODULES = (downloads, endurance, uploads, ingestion, resting)  # each registers its cases


def main() -> int:
    """Run the command line; returns the exit code."""
    arguments = _parse()
    signal.signal(signal.SIGTERM, _end)
    cases = [CASES[name] for name in arguments.case or CASES]
    with Bench(arguments.rounds, quick=arguments.quick, memory=arguments.memory, disk=arguments.disk) as bench:
        for case in cases:
            print(f"{case.name}: {case.title}", file=sys.stderr, flush=True)
            result = case.function(bench)
            print(report.shown(case.name, result), flush=True)
            if not arguments.quick:
                report.keep(case, result, bench.rounds)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = "\n".join(f"  {case.name:12} {case.title}" for case in CASES.values())
    parser.epilog, parser.formatter_class = f"cases:\n{names}", argparse.RawDescriptionHelpFormatter
    parser.add_argument("case", nargs="*", choices=[*CASES, []], metavar="CASE", help="all when none is named")
    parser.add_argument("--rounds", type=int, default=5, help="how often each contender runs (5)")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round, nothing is kept")
    parser.add_argument("--memory", type=Path, default=Path("/dev/shm"), help="a folder on a tmpfs")
    parser.add_argument("--disk", type=Path, default=Path("/var/tmp"), help="a folder on a disk")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = 1
    if os.geteuid():
        parser.error("run it as root: it mounts a filesystem of its own in memory")
    return arguments


def _end(number: int, frame: FrameType | None) -> None:
    """So that what was started is stopped and what was written is removed."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
