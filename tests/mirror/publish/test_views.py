"""Views always lead to whole versions: at every switch, after a kill at any step, and after somebody's changes."""

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from axomsync.config import View
from axomsync.core.errors import LocalFault
from axomsync.mirror.appearance import commit_of
from axomsync.mirror.publish import current
from axomsync.mirror.publish.view_folder import ViewFolder
from tests.mirror.published import BASE, PublishedHere, model_of
from tests.rig.disks import small_disk
from tests.rig.pollers import hub, triton, vllm

LOOK_SECONDS = 0.02


@pytest.fixture
def here(tmp_path: Path) -> PublishedHere:
    return PublishedHere(tmp_path)


def heal(here: PublishedHere) -> None:
    assert here.folder.views.heal() == []


def test_views_follow_current(here: PublishedHere) -> None:
    here.publish("bot", 1)
    assert here.served("bot") == "v1"
    assert os.readlink(here.flat / "bot") == str(here.root / "bot" / "current")
    here.publish("bot", 2)
    assert here.served("bot") == "v2"
    here.pin("bot", 1)
    assert here.served("bot") == "v1"
    here.publish("bot", 3)
    assert here.served("bot") == "v1", "it is pinned"
    here.unpin("bot")
    assert here.served("bot") == "v3"
    snapshots = here.hf / "models--bot" / "snapshots"
    assert {path.name for path in snapshots.iterdir()} == {commit_of(model_of("bot", n).id) for n in (1, 2, 3)}
    here.remove("bot", 1)
    assert {path.name for path in snapshots.iterdir()} == {commit_of(model_of("bot", n).id) for n in (2, 3)}
    assert here.dead() == []


def test_a_version_that_is_read_comes_back(here: PublishedHere) -> None:
    opened = here.publish("bot", 1) / "config.json"
    here.publish("bot", 2)
    link = here.hf / "models--bot" / "snapshots" / commit_of("mdl_bot_1")
    ready, done = os.pipe(), os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.open(opened, os.O_RDONLY)
            os.write(ready[1], b"x")
            os.close(done[1])
            os.read(done[0], 1)
        finally:
            os._exit(0)
    os.read(ready[0], 1)
    assert here.folder.remove(opened.parent, "mdl_bot_1") is not None
    assert link.resolve() == opened.parent
    os.close(done[1])
    os.waitpid(child, 0)
    here.remove("bot", 1)
    assert not os.path.lexists(link)


def test_labels_of_any_kind(here: PublishedHere) -> None:
    here.publish("org/bot", 1)
    here.publish("my bot", 1)
    assert here.served("org/bot") == "v1"
    assert sorted(os.listdir(here.flat)) == ["CACHEDIR.TAG", "my bot", "org%2Fbot"]
    assert sorted(os.listdir(here.hf)) == ["CACHEDIR.TAG", "models--org--bot"], "the other has no name that the hub takes"
    heal(here)


def test_a_model_that_is_renamed(here: PublishedHere) -> None:
    here.publish("bot", 1)
    here.publish("bot", 2)
    moved = replace(model_of("bot", 2), path=str(here.root / "bot" / "v2"), name="chat")
    assert here.folder.follow_labels(moved) == (here.root / "chat" / "v2", None)
    assert (here.served("bot"), here.served("chat")) == (None, "v2"), "the other may follow"
    assert here.folder.tend_current(here.root / "bot") is None
    assert here.served("bot") == "v1"
    last = replace(model_of("bot", 1), path=str(here.root / "bot" / "v1"), version="first")
    assert here.folder.follow_labels(last) == (here.root / "bot" / "first", None)
    assert (here.served("bot"), here.dead()) == ("first", [])
    gone = replace(model_of("bot", 1), path=str(here.root / "bot" / "first"), name="chat")
    here.folder.follow_labels(gone)
    assert sorted(os.listdir(here.flat)) == ["CACHEDIR.TAG", "chat"]
    assert sorted(os.listdir(here.hf)) == ["CACHEDIR.TAG", "models--chat"]


def test_a_model_that_is_gone(here: PublishedHere) -> None:
    here.publish("bot", 1)
    here.publish("chat", 1)
    shutil.rmtree(here.root / "bot")
    heal(here)
    assert sorted(os.listdir(here.flat)) == ["CACHEDIR.TAG", "chat"]
    assert sorted(os.listdir(here.hf)) == ["CACHEDIR.TAG", "models--chat"]


def test_a_mirror_that_is_not_mounted_leaves_the_links(here: PublishedHere) -> None:
    here.publish("bot", 1)
    here.root.rename(here.root.with_name("elsewhere"))
    heal(here)
    here.root.mkdir()
    heal(here)
    assert os.path.lexists(here.flat / "bot")
    assert (here.hf / "models--bot" / "refs" / "main").exists()


# What others do to a view


def delete(place: Path) -> None:
    if place.is_symlink() or place.is_file():
        place.unlink()
    else:
        shutil.rmtree(place)


def lead_elsewhere(place: Path) -> None:
    delete(place)
    place.symlink_to("/etc")


def empty_folder(place: Path) -> None:
    delete(place)
    place.mkdir()


HF = "hf/models--bot"
PLACES = ["serving/bot", HF, f"{HF}/refs", f"{HF}/refs/main", f"{HF}/snapshots", f"{HF}/snapshots/{commit_of('mdl_bot_2')}"]


@pytest.mark.parametrize("spoil", [delete, lead_elsewhere, empty_folder])
@pytest.mark.parametrize("place", PLACES)
def test_healed(here: PublishedHere, tmp_path: Path, spoil: Callable[[Path], None], place: str) -> None:
    here.publish("bot", 1)
    here.publish("bot", 2)
    spoil(tmp_path / place)
    heal(here)
    assert (here.served("bot"), here.dead()) == ("v2", [])
    heal(here)


def test_a_wrong_reference_is_healed(here: PublishedHere) -> None:
    here.publish("bot", 1)
    for wrong in ("", "0" * 40, "0" * 4000, f"{commit_of('mdl_bot_1')}\n"):
        (here.hf / "models--bot" / "refs" / "main").write_text(wrong)
        heal(here)
        assert here.served("bot") == "v1"


@pytest.mark.parametrize("place", PLACES)
def test_what_somebody_put_there_stays(here: PublishedHere, tmp_path: Path, place: str) -> None:
    here.publish("bot", 1)
    here.publish("bot", 2)
    here.publish("chat", 1)
    delete(tmp_path / place)
    (tmp_path / place).mkdir()
    (tmp_path / place / "precious").write_text("mine")
    here.publish("chat", 2)
    faults = here.folder.views.heal()
    assert len(faults) == 1, faults
    assert place in faults[0]
    assert "move it away" in faults[0]
    assert (tmp_path / place / "precious").read_text() == "mine"
    assert here.served("chat") == "v2", "the others go on"
    shutil.rmtree(tmp_path / place)
    heal(here)
    assert here.served("bot") == "v2"


def test_strangers_are_told_and_stay(here: PublishedHere) -> None:
    here.publish("bot", 1)
    strangers = [here.flat / "mine", here.hf / "models--gpt2", here.hf / "models--bot" / "blobs", here.hf / "version.txt"]
    for path in strangers:
        path.mkdir()
        (path / "file").touch()
        (fault,) = here.folder.views.heal()
        assert fault == f"{path}: it lies in a view and is not the agent's; move it away"
        assert here.served("bot") == "v1"
        assert os.listdir(path) == ["file"]
        shutil.rmtree(path)
    heal(here)


@pytest.mark.parametrize("kind", ["flat", "hf"])
def test_a_folder_that_holds_anything_else_is_refused(tmp_path: Path, kind: str) -> None:
    here = PublishedHere(tmp_path, kind)
    folder = here.flat if kind == "flat" else here.hf
    folder.mkdir()
    (folder / "models--gpt2").mkdir()
    here.publish("bot", 1)
    (fault,) = here.folder.views.heal()
    assert fault.startswith(f"{folder}: it holds models--gpt2, which the agent did not make; name an empty folder")
    assert os.listdir(folder) == ["models--gpt2"]
    (folder / "models--gpt2").rmdir()
    heal(here)
    assert len(os.listdir(folder)) == 2


def test_a_view_belongs_to_one_mirror(here: PublishedHere, tmp_path: Path) -> None:
    here.publish("bot", 1)
    other = PublishedHere(tmp_path / "other")
    other.publish("bot", 9)
    shutil.rmtree(other.flat)
    other.flat.symlink_to(here.flat)
    (fault,) = other.folder.views.heal()
    assert "or another view" in fault
    assert here.served("bot") == "v1"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    here = PublishedHere(tmp_path / "a" / "b", "flat")
    shutil.rmtree(tmp_path / "a")
    (tmp_path / "a").mkdir()
    here.root.mkdir(parents=True)
    here.root.parent.rename(tmp_path / "away")
    (fault,) = here.folder.views.heal()
    assert f"{here.flat}: the folder of this view is not there" in fault
    assert "install -d" in fault


def test_a_user_without_the_right(tmp_path: Path) -> None:
    """The parent of the default places is root's."""
    assert os.geteuid() == 0, "only root can become somebody else"
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        folder = Path(place) / "serving"
        reading, writing = os.pipe()
        if (child := os.fork()) == 0:
            try:
                os.setuid(65534)
                os.write(writing, ViewFolder(View("flat", folder), tmp_path).claim()[0].encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        os.close(writing)
        with open(reading, encoding="utf-8") as told:
            assert told.read() == (
                f"{folder}: the folder of this view is not there, and its parent is not ours; as root: install -d -o USER "
                f"-g GROUP {folder}, with user and group of the agent"
            )


def test_a_version_that_can_not_be_removed_stays_in_the_views(here: PublishedHere) -> None:
    for number in (1, 2):
        here.publish("bot", number)
    snapshots = here.hf / "models--bot" / "snapshots"
    shown = {path.name: path.resolve() for path in snapshots.iterdir()}
    with small_disk(here.folder.staging.inner, "size=1m"), pytest.raises(LocalFault):  # no rename goes there
        here.folder.remove(here.parent("bot") / "v1", model_of("bot", 1).id)
    assert (here.parent("bot") / "v1").is_dir()
    assert {path.name: path.resolve() for path in snapshots.iterdir()} == shown


def test_a_version_whose_readers_nobody_can_tell_stays() -> None:
    assert os.geteuid() == 0, "only root can become somebody else"
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o777)
        if (child := os.fork()) == 0:
            try:
                os.setuid(65534)
                here = PublishedHere(Path(place))
                closed = here.publish("bot", 1) / "1"
                closed.chmod(0)
                with pytest.raises(LocalFault, match="permission denied"):
                    here.folder.remove(closed.parent, model_of("bot", 1).id)
                assert here.served("bot") == "v1"  # else the code below is 1
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0


def test_no_link_is_followed(here: PublishedHere, tmp_path: Path) -> None:
    here.publish("bot", 1)
    outside = tmp_path / "outside"
    outside.mkdir()
    for place in ("refs", "snapshots"):
        shutil.rmtree(here.hf / "models--bot" / place)
        (here.hf / "models--bot" / place).symlink_to(outside)
    heal(here)
    assert (here.served("bot"), list(outside.iterdir())) == ("v1", [])


def test_modes_do_not_depend_on_the_umask(here: PublishedHere) -> None:
    before = os.umask(0o077)
    try:
        here.publish("bot", 1)
    finally:
        os.umask(before)
    folders = [here.flat, here.hf, here.hf / "models--bot", *(here.hf / "models--bot").iterdir()]
    assert {folder: folder.stat().st_mode & 0o777 for folder in folders} == dict.fromkeys(folders, 0o755)
    assert (here.hf / "models--bot" / "refs" / "main").stat().st_mode & 0o777 == 0o644


# Pollers and kills


@contextmanager
def pollers(here: PublishedHere) -> Iterator[list[str]]:
    """Readers that look into the views, by each engine's rule, every 20 ms; yields the list of what they missed."""
    faults: list[str] = []
    over = threading.Event()
    looks = [0]

    def look() -> None:
        while not over.is_set():
            models, missed = triton(here.flat)
            faults.extend(missed)
            if models != {"bot": [1], "chat": [1]}:
                faults.append(f"Triton sees {models}")
            for name in ("bot", "chat"):
                found, missed = vllm(here.flat, name, BASE, contained=False)
                faults.extend(missed if found else [*missed, f"{name}: vLLM finds nothing"])
                found, missed = vllm(here.root, f"{name}/current", BASE, contained=True)
                faults.extend(missed if found else [*missed, f"{name}/current: vLLM finds nothing"])
                faults.extend(hub(here.hf, name)[1])
            looks[0] += 1
            over.wait(LOOK_SECONDS)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield faults
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert looks[0] > 10


@pytest.mark.parametrize("publications", [30, pytest.param(1000, marks=pytest.mark.stress)])
def test_engines_that_poll_see_only_whole_models(here: PublishedHere, publications: int) -> None:
    """Versions appear, are pinned, rolled back and removed while engines look."""
    for name in ("bot", "chat"):
        here.publish(name, 1)
        here.publish(name, 2)
    with pollers(here) as faults:
        for number in range(3, publications + 3):
            here.publish("bot", number)
            if number % 10 == 0:
                here.pin("bot", number - 1)
                here.unpin("bot")
                heal(here)
            if number > 8:
                here.remove("bot", number - 6)
    assert faults == []
    assert (here.served("bot"), here.dead()) == (f"v{publications + 2}", [])


EVENTS = frozenset({"os.rename", "os.symlink", "os.remove", "os.mkdir", "os.rmdir", "open"})


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Do the work in a child that is killed at its `step`th change on disk; False when it came to its end."""
    child = os.fork()
    if child == 0:
        left = [step]

        def count(event: str, arguments: tuple[object, ...]) -> None:
            if event in EVENTS and (event != "open" or (isinstance(arguments[2], int) and arguments[2] & os.O_CREAT)):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == 0
    return False


def steps(tmp_path: Path, work: Callable[[PublishedHere], object]) -> Iterator[PublishedHere]:
    """For each step of the work: a mirror where it was killed there. Versions 1 and 2 are published; 1 is pinned."""
    for step in range(1000):
        here = PublishedHere(tmp_path / str(step))
        here.publish("bot", 1)
        here.publish("bot", 2)
        here.pin("bot", 1)
        was_killed = killed_at(step, partial(work, here))
        yield PublishedHere(tmp_path / str(step))  # a new life
        if not was_killed:
            assert step > 2
            return
    pytest.fail("it never ends")


def sees(here: PublishedHere) -> str | None:
    """What a reader of each view finds: nothing dead, and one whole version."""
    assert here.dead() == []
    _, missed = triton(here.flat)
    found, unread = hub(here.hf, "bot")
    assert missed + unread == []
    return None if found is None else json.loads((Path(found) / "config.json").read_text())["version"]


@pytest.mark.parametrize(("what", "end"), [("unpin", 2), ("publish", 3), ("remove", 1)])
def test_a_kill_at_any_step_leaves_old_or_new(tmp_path: Path, what: str, end: int) -> None:
    def work(here: PublishedHere) -> None:
        if what == "unpin":
            here.unpin("bot")
        elif what == "publish":
            current.unpin(here.root / "bot", here.folder.staging.scratch())
            here.publish("bot", 3)
        else:
            here.remove("bot", 2)

    seen = set()
    for here in steps(tmp_path, work):
        seen.add(sees(here))
        heal(here)
        here.folder.tend_current(here.root / "bot")
        served = here.served("bot")
        assert served in {"v1", "v2", "v3"}
        last = served
        shutil.rmtree(here.root.parent)
    assert last == f"v{end}"
    assert seen <= {1, 2, end}


def test_a_first_publication_that_is_killed_is_whole_or_absent(tmp_path: Path) -> None:
    for step in range(1000):
        here = PublishedHere(tmp_path / str(step))
        was_killed = killed_at(step, partial(here.publish, "bot", 1))
        again = PublishedHere(tmp_path / str(step))
        assert again.dead() == []
        found, missed = hub(again.hf, "bot")
        assert found is None or missed == []
        heal(again)
        again.publish("chat", 1)
        assert again.served("chat") == "v1"
        if (again.root / "bot" / "v1").exists():
            again.folder.point_current(again.root / "bot")
            assert again.served("bot") == "v1"
        if not was_killed:
            break
    assert step > 10


def test_processes_at_the_same_place_do_no_harm(here: PublishedHere, tmp_path: Path) -> None:
    """Two agents, and a person with `pin` and `unpin`."""
    for number in (1, 2):
        here.publish("bot", number)
        here.publish("chat", number)
    faults: list[str] = []
    over = threading.Event()

    def work(other: PublishedHere) -> None:
        while not over.is_set():
            faults.extend(other.folder.views.heal())

    threads = [threading.Thread(target=work, args=(PublishedHere(tmp_path),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(30):
        here.pin("bot", 1)
        here.unpin("bot")
        for place in (here.flat / "chat", here.hf / "models--chat" / "snapshots" / commit_of("mdl_chat_2")):
            place.unlink(missing_ok=True)
    over.set()
    for thread in threads:
        thread.join()
    assert faults == []
    heal(here)
    assert (here.served("bot"), here.served("chat"), here.dead()) == ("v2", "v2", [])


def test_remains_of_a_kill_are_swept(here: PublishedHere) -> None:
    here.publish("bot", 1)
    remains = [here.flat / ".axomsync-unfinished-0", here.hf / "models--bot" / ".axomsync-unfinished-1"]
    for path in remains:
        path.touch()
    heal(here)
    assert all(path.exists() for path in remains), "another process may be about to rename them"
    for path in remains:
        os.utime(path, (time.time() - 7200,) * 2)
    heal(here)
    assert not any(path.exists() for path in remains)
