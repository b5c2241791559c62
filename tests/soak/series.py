"""What is measured of an agent from outside, and whether it stays flat. Pure, but for the reading of /proc and of folders.

A series is flat when two things hold. Over the lives: the median life of the last third of all lives has no more than the
largest of the first third, and a bound. Within the long lives: the last third of a life has, in the median, no more than the
most in its first third, and the same bound. A transfer of a moment is no leak, so a later median is compared with an
earlier most. The first transfers of a life begin threads and fill caches that stay (80 MB became 133 in 13 minutes, 140 in
33): so a long life is looked at from its sixteenth minute on.
"""

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

WARM_SECONDS = 20.0  # of a life; what its start takes is not counted
FULL_SECONDS = 900.0  # after so much of a life its threads and caches are there: what grows from then on is lost
FEWEST, FEWEST_WITHIN = 6, 80  # samples of a life after the one, to be judged; after the other, to be looked at within
MIB = 1 << 20
# How much more is still flat: so much, or so large a share of what there was.
BOUNDS: dict[str, tuple[float, float]] = {
    "descriptors": (4, 0.1),
    "threads": (4, 0.1),
    "memory": (6 * MIB, 0.1),
    "children": (8 * MIB, 0.1),
    "wal": (4 * MIB, 0.0),  # SQLite's own limit, at which it begins again from the front
    "staging": (8 * MIB, 0.0),
    "state_files": (2, 0.0),
}


@dataclass(frozen=True)
class Sample:
    """One look from outside. `at`: seconds of the soak, `age`: of the life; sizes in bytes."""

    at: float
    life: int
    age: float
    descriptors: int
    threads: int
    memory: int
    children: int  # memory of processes that the agent began
    wal: int
    staging: int
    state_files: int
    files: int  # dropped until now
    versions: int


def looked_at(process: int, state: Path, mirror: Path) -> dict[str, int]:
    """What is measured now. Raises `OSError` when the process has ended."""
    status = _status(process)
    wal = state / "state.db-wal"
    return {
        "descriptors": len(os.listdir(f"/proc/{process}/fd")),
        "threads": int(status["Threads"]),
        "memory": _memory(status),
        "children": sum(_memory(_status(child)) for child in _children(process)),
        "wal": wal.stat().st_size if wal.exists() else 0,
        "staging": _size(mirror / ".axomsync"),
        "state_files": sum(len(names) for _, _, names in os.walk(state)),
    }


def written(samples: Path, sample: Sample) -> None:
    """Append a sample to a file of CSV."""
    new = not samples.exists()
    with samples.open("a", newline="", encoding="ascii") as file:
        rows = csv.writer(file)
        if new:
            rows.writerow([field.name for field in fields(Sample)])
        rows.writerow(astuple(sample))


def read(samples: Path) -> list[Sample]:
    """The samples of a file of CSV."""
    with samples.open(newline="", encoding="ascii") as file:
        return [_sample(row) for row in csv.DictReader(file)]


def growth(samples: Iterable[Sample]) -> dict[str, dict[str, Any]]:
    """For each series: its first and last value over the lives, the growth within them, and `flat`."""
    lives = [
        warm
        for _, life in groupby(samples, key=lambda sample: sample.life)
        if len(warm := [asdict(sample) for sample in life if sample.age >= WARM_SECONDS]) >= FEWEST
    ]
    found: dict[str, dict[str, Any]] = {}
    for name, (most, share) in BOUNDS.items() if lives else ():
        full = [[sample[name] for sample in life if sample["age"] >= FULL_SECONDS] for life in lives]
        long = [life for life in full if len(life) >= FEWEST_WITHIN]
        within = median([median(_last(life)) - max(_first(life)) for life in long] or [0])
        middles = [median(sample[name] for sample in life) for life in lives]
        first, last = max(_first(middles)), median(_last(middles))
        bound = max(most, share * first)
        flat = within <= bound and last - first <= bound
        found[name] = {
            "lives": len(lives), "first": first, "last": last, "long lives": len(long), "within": within,
            "most": max(sample[name] for life in lives for sample in life), "bound": bound, "flat": flat,
        }  # fmt: skip
    return found


def plot(samples: Sequence[Sample]) -> str:
    """The series over time as SVG, one above the other, each with its largest value."""
    width, height, ends = 1000, 90, max(sample.at for sample in samples)
    lines = []
    for row, name in enumerate(BOUNDS):
        values = [float(getattr(sample, name)) for sample in samples]
        most, below = max(values), height * (row + 1) - 10
        points = " ".join(
            f"{width * sample.at / ends:.1f},{below - (height - 25) * value / (most or 1.0):.1f}"
            for sample, value in zip(samples, values, strict=True)
        )
        lines.append(f'<text x="2" y="{below - height + 22}">{name}: at most {most:,.0f}</text>')
        lines.append(f'<polyline points="{points}" fill="none" stroke="black" stroke-width="0.7"/>')
    size = f'width="{width}" height="{height * len(BOUNDS)}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">{"".join(lines)}</svg>\n'


def _sample(row: dict[str, str]) -> Sample:
    numbers: dict[str, Any] = {name: float(text) if name in ("at", "age") else int(text) for name, text in row.items()}
    return Sample(**numbers)


def _first(values: Sequence[Any]) -> Sequence[Any]:
    return values[: max(1, len(values) // 3)]


def _last(values: Sequence[Any]) -> Sequence[Any]:
    return values[-max(1, len(values) // 3) :]


def _status(process: int) -> dict[str, str]:
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _memory(status: dict[str, str]) -> int:
    return int(status.get("VmRSS", "0 kB").split()[0]) * 1024  # a process that has just ended has none


def _children(process: int) -> list[int]:
    found = []
    for task in os.listdir(f"/proc/{process}/task"):
        try:
            text = Path(f"/proc/{process}/task/{task}/children").read_text(encoding="ascii")
        except OSError:
            continue  # that thread has just ended
        for child in map(int, text.split()):
            found.append(child)
            found += _children(child)
    return found


def _size(folder: Path) -> int:
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.lstat(os.path.join(place, name)).st_blocks * 512
            except OSError:
                continue  # published meanwhile
    return size
