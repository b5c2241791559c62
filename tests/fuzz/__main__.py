"""Searches in all parsers for an input that one must not take so, and says how many inputs each got, as JSON.

    python -m tests.fuzz --inputs 1000000 [--seed 1] [--only NAME …]

The inputs are shared out equally. A seed, a commit and a parser repeat a search. An input that is found is printed in full.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.mutations import LONGEST
from tests.fuzz.parsers import PARSERS, Parser

SECONDS_OF_ONE = 30  # for one input, by the clock: a machine may be busy
MEBIBYTES = 1024  # of the whole process
SEED = 18


def searched(parser: Parser, runs: int, seed: int) -> tuple[int, str | None]:
    """Search in one parser; returns how many inputs it got, and what was found."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, right in enumerate(parser.right):
            (corpus / str(number)).write_bytes(right)
        limits = [f"-max_len={LONGEST}", f"-timeout={SECONDS_OF_ONE}", f"-rss_limit_mb={MEBIBYTES}"]
        command = [
            sys.executable, "-m", "tests.fuzz.one", parser.name, f"-runs={runs}", f"-seed={seed}", *limits,
            "-print_final_stats=1", f"-artifact_prefix={folder}/", str(corpus),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        counted = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
        number = int(counted[1]) if counted else 0
        if done.returncode == 0 and counted:
            return number, None
        inputs = [file.read_bytes() for file in Path(folder).iterdir() if file.is_file()]
        return number, f"{parser.name}: {inputs}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def main() -> int:
    """Search; the exit code is 1 if anything was found."""
    arguments = _parse()
    chosen = [PARSERS[name] for name in arguments.only or PARSERS]
    counts: dict[str, int] = {}
    found = []
    for parser in chosen:
        counts[parser.name], told = searched(parser, -(-arguments.inputs // len(chosen)), arguments.seed)
        print(f"{parser.name}: {counts[parser.name]} inputs", file=sys.stderr, flush=True)
        if told is not None:
            found.append(told)
            print(told, file=sys.stderr, flush=True)
    print(json.dumps({"inputs": counts, "total": sum(counts.values()), "found": len(found)}))
    return 1 if found else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of all parsers together (1,000,000)")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--only", action="append", choices=PARSERS, metavar="NAME", help="only this parser")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
