"""Folders by descriptor: no link is followed, no file is written into, new files are whole and synced."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, TypeAdapter

from axomsync.core.documents import NotADocument, parse_document, read_document
from axomsync.core.folders import Folder
from axomsync.core.paths import UNFINISHED

Plant = Callable[[Path, Path], None]  # (where, a file outside)

PLANTS: dict[str, Plant] = {
    "link": lambda place, outside: place.symlink_to(outside),
    "dangling link": lambda place, outside: place.symlink_to(outside.with_name("absent")),
    "fifo": lambda place, outside: os.mkfifo(place),
    "folder": lambda place, outside: place.mkdir(),
    "socket": lambda place, outside: os.mknod(place, 0o600 | stat.S_IFSOCK),
}


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A file outside that nothing in the folder may change."""
    file = tmp_path / "outside" / "file"
    file.parent.mkdir()
    file.write_text("mine")
    yield file
    assert file.read_text() == "mine"
    assert [entry.name for entry in file.parent.iterdir()] == ["file"]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    (tmp_path / "inside").mkdir()
    with Folder.open(tmp_path / "inside") as folder:
        yield folder


def here(folder: Folder) -> Path:
    return Path(os.fsdecode(folder.path))


def test_write_new_sets_the_mode_and_leaves_no_other_file(folder: Folder) -> None:
    folder.write_new(b"a", b"text", 0o640)
    assert here(folder).joinpath("a").read_bytes() == b"text"
    assert stat.S_IMODE(here(folder).joinpath("a").stat().st_mode) == 0o640
    folder.replace(b"a", b"other")
    assert here(folder).joinpath("a").read_bytes() == b"other"
    assert folder.names() == [b"a"]


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
def test_write_new_refuses_a_taken_name_of_any_kind(folder: Folder, outside: Path, plant: Plant) -> None:
    plant(here(folder) / "a", outside)
    with pytest.raises(FileExistsError):
        folder.write_new(b"a", b"text")
    assert folder.names() == [b"a"]


@pytest.mark.parametrize("kind", [kind for kind in PLANTS if kind != "folder"])
def test_replace_replaces_a_name_of_any_kind(folder: Folder, outside: Path, kind: str) -> None:
    PLANTS[kind](here(folder) / "a", outside)
    folder.replace(b"a", b"text")
    status = folder.status(b"a")
    assert status is not None
    assert stat.S_ISREG(status.st_mode)


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
def test_open_file_refuses_all_but_regular_files_without_waiting(folder: Folder, outside: Path, plant: Plant) -> None:
    plant(here(folder) / "a", outside)
    with pytest.raises(OSError, match="inside/a"):
        folder.open_file(b"a")
    with pytest.raises(NotADocument, match="no regular file"):
        read_document(folder, b"a", TypeAdapter(dict[str, int]))


@pytest.mark.parametrize("kind", [kind for kind in PLANTS if kind != "folder"])
def test_descend_refuses_links_and_files_on_the_way(folder: Folder, outside: Path, kind: str) -> None:
    PLANTS[kind](here(folder) / "a", outside.parent)
    for make in (None, 0o755):
        with pytest.raises(OSError, match="inside/a") as caught:
            folder.descend(b"a/b", make=make)
        assert caught.value.errno == (errno.ELOOP if "link" in kind else errno.ENOTDIR)


def test_descend_makes_missing_folders_and_never_leads_up(folder: Folder) -> None:
    with folder.descend(b"a/b", make=0o755) as inner:
        inner.write_new(b"c", b"")
    assert here(folder).joinpath("a/b/c").is_file()
    with pytest.raises(FileNotFoundError):
        folder.descend(b"a/missing")
    with pytest.raises(OSError, match="Invalid argument"):
        folder.descend(b"a/../..")


def test_move_never_overwrites(folder: Folder) -> None:
    folder.write_new(b"a", b"a")
    with folder.descend(b"b", make=0o755) as target:
        target.write_new(b"a", b"b")
        with pytest.raises(FileExistsError) as caught:
            folder.move(b"a", target, b"a")
        assert caught.value.filename2 == os.path.join(target.path, b"a")
        folder.move(b"a", target, b"c")
        assert sorted(target.names()) == [b"a", b"c"]


def test_unfinished_files_have_unguessable_names(folder: Folder) -> None:
    folder.write_new(b"a", b"text")
    file, names = folder.open_file(b"a"), set()
    for _ in range(3):
        with folder.copy_of(file, b"b", lambda: None) as (name, _):
            names.add(name.removeprefix(UNFINISHED))
    os.close(file)
    assert [len(name) >= 32 for name in names] == [True] * 3


def test_failed_writes_leave_nothing(folder: Folder) -> None:
    with pytest.raises(OSError, match="too long"):
        folder.write_new(b"n" * 300, b"text")
    assert folder.names() == []


class Shape(BaseModel):
    """A strict shape, like the real ones."""

    model_config = ConfigDict(strict=True, extra="ignore")
    number: int
    parts: list[dict[str, str]]


SHAPE = TypeAdapter(Shape)

HOSTILE = {
    "empty": b"",
    "blank": b" \n",
    "cut off": b'{"number": 1',
    "no UTF-8": b'{"number": 1, "parts": [], "\xff": 1}',
    "a lone surrogate": b'{"number": 1, "parts": [{"a": "\\ud800"}]}',
    "Infinity": b'{"number": Infinity, "parts": []}',
    "a number beyond 64 bits": b'{"number": 1180591620717411303424, "parts": []}',
    "a boolean for a number": b'{"number": true, "parts": []}',
    "an object where a text must be": b'{"number": 1, "parts": [{"a": {}}]}',
    "nested without end": b'{"number": 1, "parts": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "a list": b"[]",
    "null": b"null",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_read_document_refuses_another_form(folder: Folder, text: bytes) -> None:
    folder.write_new(b"a", text)
    with pytest.raises(NotADocument) as caught:
        read_document(folder, b"a", SHAPE)
    assert "\n" not in str(caught.value)


def test_read_document_returns_none_only_for_an_absent_file(folder: Folder) -> None:
    assert read_document(folder, b"a", SHAPE) is None
    folder.write_new(b"a", b'{"number": 1, "parts": [{"a": "b"}], "more": 2}')
    assert read_document(folder, b"a", SHAPE) == Shape(number=1, parts=[{"a": "b"}])
    with pytest.raises(NotADocument, match="more than 10 bytes"):
        read_document(folder, b"a", SHAPE, largest=10)


@given(st.binary(max_size=200))
def test_read_document_parses_or_refuses_any_bytes(text: bytes) -> None:
    with suppress(NotADocument):
        assert isinstance(parse_document(text, SHAPE), Shape)


def test_read_document_ours_refuses_files_of_other_users_and_files_that_others_may_write(folder: Folder) -> None:
    place = here(folder) / "a"
    shape = TypeAdapter(dict[str, int])
    for mode, owner, ours in ((0o644, 0, True), (0o664, 0, False), (0o646, 0, False), (0o644, 65534, False)):
        place.write_bytes(b'{"a": 1}')
        place.chmod(mode)
        os.chown(place, owner, owner)
        assert read_document(folder, b"a", shape) == {"a": 1}
        if ours:
            assert read_document(folder, b"a", shape, ours=True) == {"a": 1}
        else:
            with pytest.raises(NotADocument, match="another user has made it or may write to it"):
                read_document(folder, b"a", shape, ours=True)
