"""Files of one content: one pass finishes all of them with one object, also after a kill."""

from pathlib import Path

import pytest

from axomsync.core.records import UNDER_WAY, UploadState
from axomsync.ledger import Reader
from tests.drop.conftest import dataset
from tests.drop.inprocess import DropHere, ledger_template


@pytest.fixture
def here(tmp_path: Path) -> DropHere:
    (tmp_path / "template").mkdir()
    return DropHere(tmp_path / "box", ledger_template(tmp_path / "template"), settle="0s")


def drop_twins(here: DropHere, number: int) -> None:
    for place in range(10):
        folder = here.folder / f"{place}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.jsonl").write_bytes(dataset(str(number)))


def test_twins_are_all_done_after_one_pass(here: DropHere) -> None:
    for number in range(12):
        drop_twins(here, number)
        here.live()
        left = [row.path for row, _ in here.uploads() if row.state in UNDER_WAY]
        assert left == [], f"pass {number}"
    states = [row.state for row, _ in here.uploads()]
    assert (states.count(UploadState.UPLOADED), states.count(UploadState.DUPLICATE)) == (12, 108)
    assert len(here.far.objects) == 12


@pytest.mark.parametrize("writes", range(12, 40, 3))
def test_kill_between_twins_makes_no_second_object(here: DropHere, writes: int) -> None:
    drop_twins(here, 0)
    here.far.faults.extend(["lost"])  # storage has it, and the answer was lost
    here.live(writes)
    here.finish()
    states = {row.state for row, _ in here.uploads()}
    assert states == {UploadState.UPLOADED, UploadState.DUPLICATE}
    assert len(here.far.objects) == 1


def test_twin_begun_before_a_kill_goes_first(tmp_path: Path) -> None:
    """Storage may have it under the key of the file that was begun. Threads decide which file that is."""
    (tmp_path / "template").mkdir()
    template = ledger_template(tmp_path / "template")
    for number in range(9):
        here = DropHere(tmp_path / f"{number}", template, settle="0s")
        for place in ("a", "b"):
            (here.folder / place).mkdir()
            (here.folder / place / "x.jsonl").write_bytes(dataset("x"))
        here.far.faults.append("lost")
        here.live(8 + number % 3)
        here.finish()
        assert len(here.far.objects) == 1, number


@pytest.mark.parametrize("tries", [4, 5, 8])
def test_twin_takes_over_the_url_of_one_that_failed(here: DropHere, tries: int) -> None:
    """Storage has it after the first try already; all answers to that file's tries are lost."""
    drop_twins(here, 0)
    here.far.faults.extend(["lost"] * tries)
    here.finish()
    assert {row.state for row, _ in here.uploads()} == {UploadState.UPLOADED, UploadState.DUPLICATE}
    assert len(here.far.objects) == 1
    assert not here.read(Reader.orphans)
