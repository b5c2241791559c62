"""Runs a piece of a soak, and prints what is wrong and its figures as JSON; `--plot` draws what was measured.

    python -m tests.soak --minutes 60 --folder FOLDER

`--folder` keeps the state, so that a further piece goes on there; without it the folder goes when nothing was wrong.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.soak import series
from tests.soak.piece import LIFE_SECONDS, Piece


def main() -> int:
    """Run it; the exit code is 1 if something was wrong."""
    arguments = _parse()
    folder = Path(arguments.folder or tempfile.mkdtemp(prefix="axomsync-soak-")).absolute()
    if arguments.plot:
        sys.stdout.write(series.plot(series.read(folder / "samples.csv")))
        return 0
    with Piece(folder, arguments.seed, arguments.life) as piece:
        piece.run(arguments.minutes)
        told = piece.rest()
    print(json.dumps(told))
    if told["wrong"] or arguments.folder:
        print(f"its folder: {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder)
    return 1 if told["wrong"] else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long this piece takes (60)")
    parser.add_argument("--folder", help="where the state is; one that is there already goes on")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of a new soak")
    parser.add_argument("--life", type=float, default=LIFE_SECONDS, help="seconds until each SIGKILL (90)")
    parser.add_argument("--plot", action="store_true", help="print the folder's samples as SVG, and run nothing")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
