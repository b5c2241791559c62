"""A search in one parser, led by which lines of the agent an input reaches. It ends with the process: `atheris` does so.

python -m tests.fuzz.one NAME [options and folders of libFuzzer]
"""

import sys
from random import Random

import atheris

from tests.fuzz.mutations import mutated

with atheris.instrument_imports(include=["axomsync"], enable_loader_override=False):
    from tests.fuzz.parsers import PARSERS

SHARE_OF_OURS = 0.5  # of the changes; the others are libFuzzer's own, which knows what the code compares with


def _change(data: bytes, most: int, seed: int) -> bytes:
    dice = Random(seed)
    if dice.random() < SHARE_OF_OURS:
        return mutated(data, dice, most)
    changed: bytes = atheris.Mutate(data, most)
    return changed


def main() -> None:
    """Search until libFuzzer has enough."""
    name, *options = sys.argv[1:]
    atheris.Setup([sys.argv[0], *options], PARSERS[name].try_one, custom_mutator=_change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
