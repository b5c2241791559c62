"""Runs many schedules, and tells each that breaks a promise, with the shortest form that still does.

    python -m tests.torture.campaign --count 600 --seed 1 [--kind kill …] [--story repair …] [--minutes 30]

`--only SEED` with `--kind` and `--story` repeats one. Each core runs schedules in a process of its own.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import shutil
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from subprocess import SubprocessError

from tests.torture.forge import Forge, forged, place_for_runs
from tests.torture.run import Run
from tests.torture.schedule import KINDS, Schedule, drawn, kind_of, simpler, story_of
from tests.torture.stories import STORIES

PROGRAM = Path(__file__).parents[2]
SHORTENING_RUNS = 40


class Bench:
    """Where one process runs schedules: a forge, a folder, and the counts of worlds that it has met."""

    def __init__(self, place: Path, forge: Forge) -> None:
        self._place, self._forge = place, forge
        self._counts: dict[str, list[tuple[int, int]]] = {}
        self._numbers = itertools.count()

    def run(self, schedule: Schedule) -> tuple[list[str], Run]:
        """Run one schedule; returns the promises that it broke, and the run."""
        run = Run(schedule, self._place / str(next(self._numbers)), self._forge, self._counts)
        try:
            return run.broken(), run
        except (OSError, SubprocessError, ValueError, AssertionError):  # a fault of the rig is told like any other
            return [f"The rig works. BUT {traceback.format_exc()}"], run

    def shortest(self, schedule: Schedule) -> Schedule:
        """The simplest schedule found that still breaks a promise."""
        left = SHORTENING_RUNS
        while True:
            for one in simpler(schedule):
                left -= 1
                if left < 0:
                    return schedule
                if self.run(one)[0]:
                    schedule = one
                    break
            else:
                return schedule


def main() -> int:
    """Run the campaign; the exit code is 1 if a promise was broken."""
    arguments = _parse()
    kinds = arguments.kind or list(KINDS)
    seeds = range(arguments.seed, arguments.seed + arguments.count)
    stories = [story.replace("none", "") for story in arguments.story or ()]
    orders = [(seed, kind_of(seed, kinds), stories[seed % len(stories)] if stories else story_of(seed)) for seed in seeds]
    if arguments.only is not None:
        orders = [(arguments.only, kind, story) for kind in kinds for story in stories or [""]]
    ends = time.monotonic() + 60 * arguments.minutes
    began, done, points, failed = time.monotonic(), Counter[str](), Counter[str](), []
    jobs = [
        (orders[n :: arguments.processes], ends, arguments.shorten, arguments.program) for n in range(arguments.processes)
    ]
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for results in pool.imap_unordered(_work, jobs):
            for kind, struck, told in results:
                done[kind] += 1
                points[kind] += struck
                if told:
                    failed.append(told)
    for told in failed:
        print(told, "\n")
    summary = {"runs": dict(done), "points": dict(points), "broken": len(failed), "seconds": round(time.monotonic() - began)}
    print(json.dumps(summary))
    return 1 if failed else 0


def _work(job: tuple[list[tuple[int, str, str]], float, bool, str]) -> list[tuple[str, int, str]]:
    orders, ends, shorten, program = job
    place = place_for_runs()
    found = []
    try:
        with forged(place, Path(program)) as forge:
            bench = Bench(place, forge)
            for seed, kind, story in orders:
                if time.monotonic() > ends:
                    break
                schedule = drawn(seed, kind, story)
                broken, run = bench.run(schedule)
                told = ""
                if broken:
                    short = bench.shortest(schedule) if shorten else schedule
                    told = f"{short}\n  struck: {[life.struck for life in run.lives]}\n  " + "\n  ".join(broken[:4])
                    print(told, file=sys.stderr, flush=True)
                found.append((f"{kind} {story}".strip(), run.struck, told))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return found


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.torture.campaign", description=__doc__)
    parser.add_argument("--count", type=int, default=600, help="schedules to run (600)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="the first seed; the others follow it")
    parser.add_argument("--only", type=int, help="one seed, to repeat it")
    parser.add_argument("--kind", action="append", choices=KINDS, help="only trouble of this kind")
    parser.add_argument(
        "--story", action="append", choices=("none", *STORIES), help="only in this story; none is one without changes"
    )
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no schedule after that")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--program", default=str(PROGRAM), help="a folder with the package axomsync")
    parser.add_argument("--shorten", action="store_true", help="look for the shortest schedule that still fails")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
