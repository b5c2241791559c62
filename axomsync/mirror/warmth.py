"""May a model be read into the page cache now? From what the kernel tells about memory. Pure: its texts are arguments.

Failures handled: texts of other kernels and broken ones (what they do not say is no limit, or no pressure).
"""

from collections.abc import Iterable
from dataclasses import dataclass

SHARE = 2  # one part in so many of the available memory
MOST_PRESSURE = 5.0  # percent of the last ten seconds in which some program waited for memory


@dataclass(frozen=True)
class Group:
    """A control group with a limit of memory. `cached`: bytes of files among those in use, which give way."""

    limit: int
    used: int
    cached: int

    @property
    def available(self) -> int:
        """Bytes that its programs may still use."""
        return max(0, self.limit - max(0, self.used - self.cached))


def available(meminfo: str, groups: Iterable[Group]) -> int:
    """Bytes that a program may use now without making others wait, by `/proc/meminfo` and the limits that hold for it."""
    machine = next((int(line.split()[1]) * 1024 for line in meminfo.splitlines() if line.startswith("MemAvailable:")), 0)
    return min([machine, *(group.available for group in groups)])


def fits(size: int, warm: int, free: int) -> bool:
    """Check that `size` more bytes leave others their memory; `warm` bytes were read before, and count as available."""
    return size + warm <= free // SHARE


def is_pressed(pressures: Iterable[str]) -> bool:
    """Check for pressure on memory, by texts like `/proc/pressure/memory`."""
    return any(_some_avg10(text) > MOST_PRESSURE for text in pressures)


def _some_avg10(text: str) -> float:
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["some"]:
            for word in words[1:]:
                name, _, number = word.partition("=")
                if name == "avg10" and number.replace(".", "", 1).isdigit():
                    return float(number)
    return 0.0


def group_of(limits: Iterable[str], used: str, stat: str) -> Group | None:
    """A control group from the texts of its files; None if it has no limit."""
    known = [int(text) for text in map(str.strip, limits) if text.isdigit()]
    if not known or not used.strip().isdigit():
        return None
    sums = dict(line.split(maxsplit=1) for line in stat.splitlines() if len(line.split()) == 2)
    names = ("total_active_file", "total_inactive_file") if "total_active_file" in sums else ("active_file", "inactive_file")
    cached = sum(int(sums[name]) for name in names if sums.get(name, "").isdigit())
    return Group(min(known), int(used), cached)
