"""Checks one file as the agent does, on all cores, for the case `cores`: `python -m benchmarks.check_file FILE SCHEMA`."""

import os
import sys
from contextlib import closing

from axomsync.drop import ranges
from axomsync.drop.line_workers import LineWorkers
from axomsync.drop.shapes import Shapes

if __name__ == "__main__":
    file = os.open(sys.argv[1], os.O_RDONLY)
    with closing(LineWorkers()) as workers:
        shapes = None if sys.argv[2] == "off" else Shapes()
        ranges.check(file, os.fstat(file).st_size, "full", lambda: None, workers, shapes=shapes)
