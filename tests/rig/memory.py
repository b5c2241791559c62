"""The most memory that a process had at once: `VmHWM` of proc(5), since getrusage(2) begins with what its parent had."""

from pathlib import Path


def most_memory(process: int | str = "self") -> int:
    """In bytes, until now. Raises `OSError` or `StopIteration` when the process has ended."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
