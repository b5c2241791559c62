"""The deliberate faults can still be made. `make stress MUTANTS=all` makes each, and must find it."""

import pytest

from tests.torture.campaign import PROGRAM
from tests.torture.mutants import MUTANTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_finds_its_line(mutant: Mutant) -> None:
    assert (PROGRAM / "axomsync" / mutant.file).read_text().count(mutant.old) == 1
