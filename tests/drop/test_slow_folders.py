"""Many files on a slow disk: a worker shows that it is alive at each of them, so that no watchdog ends it in one look.

Ended by its watchdog, an agent would begin the same look anew, and so on for ever.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from axomsync.core.records import UploadState
from axomsync.drop.expiry import Expiry
from axomsync.drop.forgetting import forget_on_disk
from axomsync.drop.pipeline import Uploader
from axomsync.drop.watch import scan
from axomsync.runtime.heartbeat import Beat
from tests.drop.conftest import dataset
from tests.drop.inprocess import DropHere, ledger_template
from tests.rig.contexts import worker_context

FILES = 40


@pytest.fixture
def here(tmp_path: Path) -> DropHere:
    """All of its files lie in one folder."""
    here = DropHere(tmp_path / "box", ledger_template(tmp_path / "template"), settle="0s")
    for number in range(FILES):
        (here.folder / f"{number}.jsonl").write_bytes(dataset(str(number)))
    here.finish()
    assert {row.state for row, _ in here.uploads()} == {UploadState.UPLOADED}
    return here


def look_for_files(here: DropHere, beat: Beat) -> None:
    for number in range(FILES):
        (here.folder / f"new-{number}.jsonl").write_bytes(b"{}\n")
    scan(here.folder, here.settings.include, here.settings.exclude, "", beat)


def recover(here: DropHere, beat: Beat) -> None:
    with here.ledger() as ledger:
        uploader = Uploader(here.settings, worker_context(ledger, here.far, here.far))
        assert uploader.recover(beat) == {}
        uploader.close()


def recover_rejected(here: DropHere, beat: Beat) -> None:
    (here.folder / "uploaded").rename(here.folder / "rejected")
    recover(here, beat)


def forget(here: DropHere, beat: Beat) -> None:
    forget_on_disk([here.uploads()[0][0]], here.settings, here.identity, here.clocks.wall, beat)


def count_what_is_put_away(here: DropHere, beat: Beat) -> None:
    with here.ledger() as ledger:
        Expiry(here.settings, worker_context(ledger, here.far, here.far)).look(beat)


@pytest.mark.parametrize("look", [look_for_files, recover, recover_rejected, forget, count_what_is_put_away])
def test_each_file_is_a_sign_of_life(here: DropHere, look: Callable[[DropHere, Beat], None]) -> None:
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1

    look(here, beat)
    assert beats >= FILES
