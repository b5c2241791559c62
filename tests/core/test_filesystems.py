"""Folders that can't be listed are not left out."""

from pathlib import Path

import pytest

from axomsync.core.filesystems import walk_all


def test_all_that_is_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "f").touch()
    assert [place for place, _, _ in walk_all(tmp_path)] == [str(tmp_path / rel) for rel in ("", "a", "a/b")]
    assert [(folders, files) for _, folders, files in walk_all(tmp_path, topdown=False)] == [
        ([], []), (["b"], ["f"]), (["a"], [])
    ]  # fmt: skip


def test_a_folder_that_can_not_be_listed_is_not_left_out(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        next(walk_all(tmp_path / "missing"))
    (tmp_path / "a").mkdir()
    walk = walk_all(tmp_path)
    next(walk)
    (tmp_path / "a").rmdir()
    with pytest.raises(FileNotFoundError):
        next(walk)
