"""A seeded sample of what `make stress FUZZ=INPUTS` searches by the million, and each input that once found a fault."""

import logging
from collections.abc import Iterator
from random import Random

import pytest

from tests.fuzz.files import ZIP
from tests.fuzz.mutations import mutated
from tests.fuzz.parsers import PARSERS, Parser
from tests.rig.anything import some

INPUTS = 400  # of each parser
FOUND = {
    "an index that names a file without a name was a traceback": (
        "indexes of safetensors",
        b'{"weight_map": {"a": ""}}',
    ),
    "an archive that leads before its beginning was tried again for ever": ("no-pickle", ZIP[:10] + ZIP[13:]),
    "a configuration with lists in lists was a traceback": ("config.toml", b"a = " + b"[" * 2000),
    "an archive with a file without a name was a traceback": ("no-pickle", ZIP[:60] + b"\0\0\1\0" + ZIP[64:]),
    "a configuration with a number of 5000 digits was a traceback": ("config.toml", b"a = " + b"9" * 5000),
    "half a surrogate pair could not be shown": ("labels", "a\ud800b".encode("utf-8", "surrogatepass")),
    "a column with lists in lists was a traceback": ("ledger models", b'{"left_out": "' + b"[" * 5000 + b'"}'),
    "a column with half a surrogate pair was a traceback on the page": (
        "ledger models",
        b'{"proofs": "{\\"\\\\ud800\\": 1}"}',
    ),
    "a column with an infinite number was a traceback": (
        "ledger uploads",
        b'{"repeated_lines": "{\\"count\\": Infinity, \\"compared\\": 2, \\"first\\": [2]}"}',
    ),
    "an infinite exit code was a traceback": ("outcomes of requests", b'{"answer": 1, "exit_code": Infinity}'),
    "a line of a log without its time was a traceback": ("output of programs", b'{"in": {"time": 1}}'),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("parser", PARSERS.values(), ids=PARSERS)
def test_any_input_is_a_value_or_a_documented_error(parser: Parser) -> None:
    dice = Random(parser.name)
    for right in parser.right:
        parser.try_one(right)
    for _ in range(some(INPUTS)):
        data = mutated(dice.choice(parser.right), dice)
        try:
            parser.try_one(data)
        except Exception as fault:
            raise AssertionError(f"{parser.name}: {data!r}") from fault


@pytest.mark.parametrize(("name", "data"), FOUND.values(), ids=FOUND)
def test_what_was_found_once_stays_mended(name: str, data: bytes) -> None:
    PARSERS[name].try_one(data)


def test_a_search_is_repeated_by_its_seed() -> None:
    right = PARSERS["console models"].right[0]
    changed = [mutated(right, Random(seed)) for seed in range(200)]
    assert changed == [mutated(right, Random(seed)) for seed in range(200)]
    assert len(set(changed)) > 150
