"""What judges a soak, and a soak of a minute in two pieces (`make stress`)."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from tests.rig.faults import KEY, Content
from tests.soak import claims, series
from tests.soak.piece import Piece
from tests.soak.plan import KEEP, Progress, Published, change_list, dropped

CALM = series.Sample(0.0, 0, 0.0, 20, 25, 80 << 20, 0, 4 << 20, 0, 5, 0, 0)


def samples(grows: int = 0, grows_within: int = 0, fills: int = 0) -> list[series.Sample]:
    """Nine lives, each third one long, that differ by chance; memory that grows by so much over all, or within each long.

    Caches fill up by so much in the first quarter of an hour.
    """
    dice, found = Random(1), []
    for life in range(9):
        length = 180 if life % 3 == 0 else 9
        for number in range(length):
            memory = CALM.memory + dice.randrange(3 << 20) + grows * life // 8
            memory += grows_within * number // 180 + fills * min(number, 90) // 90
            found.append(replace(CALM, at=1800.0 * life + 10 * number, life=life, age=10.0 * number, memory=memory))
    return found


def test_what_differs_by_chance_is_flat() -> None:
    found = series.growth(samples())
    assert found.keys() == series.BOUNDS.keys()
    assert all(told["flat"] for told in found.values())
    assert all(told["flat"] for told in series.growth(samples(fills=40 << 20)).values())


@pytest.mark.parametrize("grown", [{"grows": 30 << 20}, {"grows_within": 60 << 20}])
def test_what_grows_is_not_flat(grown: dict[str, int]) -> None:
    found = series.growth(samples(**grown))
    assert [name for name, told in found.items() if not told["flat"]] == ["memory"]


def test_samples_are_read_as_they_were_written(tmp_path: Path) -> None:
    for sample in samples():
        series.written(tmp_path / "samples.csv", sample)
    assert series.read(tmp_path / "samples.csv") == samples()
    assert series.plot(samples()).count("<polyline") == len(series.BOUNDS)


def test_a_seed_draws_the_same_again_and_some_of_each_kind() -> None:
    files = [dropped(7, number) for number in range(500)]
    assert files == [dropped(7, number) for number in range(500)]
    assert any(file.content is None for file in files)
    assert any(file.path.endswith(".gz") for file in files)
    assert any(one.content == other.content for one, other in pairwise(files))
    progress = Progress(7, (1, 2))
    listed = set()
    for _ in range(400):
        change_list(progress)
        listed |= {(version.version, version.listed) for version in progress.versions}
    assert len(progress.versions) == 200
    assert sum(is_listed for _, is_listed in listed) > 150 > sum(not is_listed for _, is_listed in listed) > 20


@pytest.fixture
def box(tmp_path: Path) -> tuple[Progress, Path]:
    """What a piece leaves: one file and one version."""
    progress = Progress(1, (1, 2), files=1, versions=[Published("m", "v0", {"a.bin": (10, 1), "b.txt": (0, 2)}, None)])
    file = dropped(1, 0)
    assert file.content is not None
    digest = claims.digest_of(file.content)
    progress.uploads["k"] = digest
    archived = tmp_path / "drop" / "uploaded" / file.path
    folder = tmp_path / "models" / "m" / "v0"
    for parent in (archived.parent, folder, tmp_path / "state"):
        parent.mkdir(parents=True)
    archived.write_bytes(file.data)
    archived.with_name(f"{archived.name}.receipt.json").write_text(json.dumps({"key": "k", "sha256": digest}))
    for rel, (size, seed) in progress.versions[0].files.items():
        (folder / rel).write_bytes(Content(size, seed).read())
    (folder / claims.RECORD).touch()
    (folder.parent / "current").symlink_to("v0")
    return progress, tmp_path


def test_a_box_as_it_should_be_breaks_nothing(box: tuple[Progress, Path]) -> None:
    assert claims.broken(*box, "words", (KEY,)) == []


DAMAGES = {
    "other bytes": ("models/m/v0/a.bin", b"x" * 10, "differs"),
    "a file too many": ("models/m/v0/c.bin", b"", "and not"),
    "a file that was not put away": ("drop/new.jsonl", b"", "was not put away"),
    "an archived file without its bytes": ("drop/uploaded", None, "are nowhere"),
    "a receipt that lies": ("drop/uploaded/x.receipt.json", b'{"key": "other", "sha256": ""}', "has other bytes"),
    "something unfinished": ("state/.axomsync-unfinished-1", b"", "is left"),
    "bytes in staging": ("models/.axomsync/a/b", b"x", "left in staging"),
    "a version that is not there": ("models/m/v0", None, "is not there"),
}


@pytest.mark.parametrize(("place", "content", "told"), DAMAGES.values(), ids=DAMAGES)
def test_what_is_wrong_is_found(box: tuple[Progress, Path], place: str, content: bytes | None, told: str) -> None:
    progress, folder = box
    path = folder / place
    if content is None:
        path.rename(folder / "elsewhere")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert any(told in words for words in claims.broken(progress, folder, "words", (KEY,)))


def test_only_the_newest_of_a_name_are_due() -> None:
    versions = [Published("m", f"v{number}", {}, None, listed=number != 3) for number in range(5)]
    assert [version.version for version in claims.due(Progress(1, (1, 2), versions=versions))] == ["v2", "v4"]
    assert KEEP == 3


@pytest.mark.stress
@pytest.mark.timeout(600)
def test_two_pieces_of_a_soak(tmp_path: Path) -> None:
    for number in (1, 2):
        with Piece(tmp_path / "soak", 1, life=15.0) as piece:
            piece.run(0.5)
            told = piece.rest()
        assert told["wrong"] == []
        assert told["files"] >= 25 * number
