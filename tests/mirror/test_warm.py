"""Warming: what `current` leads to is in the page cache if there is room for it, and nothing else is."""

import ctypes
import json
import mmap
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from axomsync.config import MirrorSettings
from axomsync.core.errors import LocalFault, Stopping
from axomsync.core.records import DurableSegment, Model, ModelFile, ModelState, Proof
from axomsync.ledger import Ledger
from axomsync.mirror.context import MirrorContext
from axomsync.mirror.fetch.lanes import Lanes
from axomsync.mirror.publish.folder import MirrorFolder
from axomsync.mirror.publish.record import record_of, write_record
from axomsync.mirror.warm import Machine, Warmer, be_idle, warm
from axomsync.mirror.warmth import Group, available, fits, group_of, is_pressed
from tests.rig.agent import AgentProcess, eventually
from tests.rig.contexts import worker_context
from tests.rig.disks import loop_disk
from tests.rig.faults import KEY, Content, FaultyServer

MIB = 1024 * 1024
PAGE = mmap.PAGESIZE
PRESSED = "some avg10={} avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"


def resident(path: Path) -> float:
    """Share of a file's pages that are in memory, as mincore(2) tells."""
    libc, size = ctypes.CDLL(None, use_errno=True), path.stat().st_size
    pages = (ctypes.c_ubyte * ((size + PAGE - 1) // PAGE))()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as mapped:
        view = ctypes.c_char.from_buffer(mapped)
        assert libc.mincore(ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(size), pages) == 0
        del view
    return sum(page & 1 for page in pages) / len(pages)


def evict(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


class Box:
    """A mirror folder, and a machine whose kernel says what the test wants."""

    def __init__(self, home: Path) -> None:
        self.root, self.proc, self.groups = home / "models", home / "proc", home / "groups"
        self.root.mkdir()
        (self.proc / "pressure").mkdir(parents=True)
        self.machine = Machine(self.proc, self.groups)
        self.memory(1024 * MIB)

    def memory(self, free: int) -> None:
        (self.proc / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemFree: 1 kB\nMemAvailable: {free // 1024} kB\n")

    def pressure(self, percent: float) -> None:
        (self.proc / "pressure/memory").write_text(PRESSED.format(percent))

    def publish(self, name: str, version: str, size: int = 8 * MIB, *, serve: bool = True) -> Path:
        folder = self.root / name / version
        folder.mkdir(parents=True)
        model = Model(
            id=f"{name}-{version}", name=name, version=version, params=None, base_model_id=None, remote_status="ready",
            created_at=None, state=ModelState.PUBLISHED, reason=None, path=None, bytes_done=0, bytes_total=None, attempts=0,
            next_attempt=None, updated_at=0.0,
        )  # fmt: skip
        half = size // 2
        files = tuple(ModelFile(rel, half, None, (DurableSegment(0, half, "0" * 64),)) for rel in ("a.bin", "b.bin"))
        for file in files:
            (folder / file.rel).write_bytes(os.urandom(file.size))
            evict(folder / file.rel)
        write_record(folder, record_of(model, files, {file.rel: Proof.SIZE for file in files}, (), 0.0, ()))
        if serve:
            self.lead(name, version)
        return folder

    def lead(self, name: str, version: str) -> None:
        link = self.root / name / "next"
        link.symlink_to(version)
        link.rename(self.root / name / "current")

    def resident(self, folder: Path) -> float:
        return sum(resident(folder / name) for name in ("a.bin", "b.bin")) / 2


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """A box on a disk; where temporary files are kept in memory, on a disk of its own."""
    probe = tmp_path / "probe"
    probe.write_bytes(bytes(MIB))
    evict(probe)
    if resident(probe) < 0.01:
        yield Box(tmp_path)
        return
    with loop_disk(tmp_path / "disk", tmp_path / "image", 1024 * MIB, "mkfs.ext4") as disk:
        yield Box(disk)


def nothing() -> None:
    pass


def test_a_model_that_fits_is_in_memory_afterwards(box: Box) -> None:
    served, other = box.publish("bot", "v2"), box.publish("bot", "v1", serve=False)
    assert box.resident(served) < 0.01
    warmed = warm(box.root / "bot", box.machine, nothing)
    assert (warmed.folder, warmed.size, warmed.read, warmed.reason) == (served, 8 * MIB, 8 * MIB, None)
    assert box.resident(served) > 0.99
    assert box.resident(other) < 0.01


def test_a_model_that_does_not_fit_is_left_on_the_disk(box: Box) -> None:
    folder = box.publish("bot", "v1")
    box.memory(16 * MIB - 1024)
    warmed = warm(box.root / "bot", box.machine, nothing)
    assert warmed.read == 0
    assert "do not fit into half of the available memory" in (warmed.reason or "")
    assert box.resident(folder) < 0.01


def test_the_limit_of_a_control_group_counts(box: Box) -> None:
    folder = box.publish("bot", "v1")
    (box.proc / "self").mkdir()
    (box.proc / "self/cgroup").write_text("0::/system.slice/axomsync.service\n")
    group = box.groups / "system.slice"
    (group / "axomsync.service").mkdir(parents=True)
    for name, text in (("memory.max", f"{17 * MIB}\n"), ("memory.high", "max\n"), ("memory.current", f"{10 * MIB}\n")):
        (group / name).write_text(text)
    (group / "memory.stat").write_text(f"anon 1\nactive_file 0\ninactive_file {8 * MIB}\n")
    assert box.machine.available() == 15 * MIB
    assert warm(box.root / "bot", box.machine, nothing).read == 0
    assert box.resident(folder) < 0.01
    (group / "axomsync.service/memory.pressure").write_text(PRESSED.format(30.0))
    assert box.machine.is_pressed()


def test_pressure_ends_it(box: Box) -> None:
    folder = box.publish("bot", "v1")
    box.pressure(5.5)
    warmed = warm(box.root / "bot", box.machine, nothing)
    assert (warmed.reason, warmed.for_now) == ("programs wait for memory", True)
    assert (warmed.read, box.resident(folder) < 0.5) == (MIB, True)


def test_pressure_in_the_middle_ends_it(box: Box) -> None:
    folder = box.publish("bot", "v1", 130 * MIB)
    pieces = 0

    def step() -> None:
        nonlocal pieces
        pieces += 1
        if pieces == 10:
            box.pressure(80.0)

    warmed = warm(box.root / "bot", box.machine, step)
    assert warmed.reason == "programs wait for memory"
    assert 10 * MIB < warmed.read < 70 * MIB
    assert resident(folder / "b.bin") < 0.05


def test_a_version_that_nobody_is_led_to_any_more_is_not_read_further(box: Box) -> None:
    box.publish("bot", "v1", 130 * MIB)
    newer = box.publish("bot", "v2", serve=False)

    def step() -> None:
        if os.readlink(box.root / "bot/current") == "v1":
            box.lead("bot", "v2")

    warmed = warm(box.root / "bot", box.machine, step)
    assert (warmed.reason, warmed.read < 70 * MIB) == ("current leads elsewhere by now", True)
    assert warm(box.root / "bot", box.machine, nothing).folder == newer


def test_without_a_version_there_is_nothing_to_read(box: Box) -> None:
    (box.root / "bot").mkdir()
    with pytest.raises(LocalFault, match="it leads to no published version"):
        warm(box.root / "bot", box.machine, nothing)


@pytest.fixture
def context(box: Box, tmp_path: Path) -> Iterator[MirrorContext]:
    with Ledger(tmp_path / "state", time.time) as ledger:
        settings, folder = MirrorSettings(folder=box.root, warm="current"), MirrorFolder(box.root, "here")
        shared = worker_context(ledger)
        lanes = Lanes(1, shared, hashes=False)
        yield MirrorContext(**vars(shared), settings=settings, mirror_folder=folder, lanes=lanes, patience=1.0)


def test_the_agent_warms_what_current_was_moved_to(box: Box, context: MirrorContext) -> None:
    v1, v2 = box.publish("bot", "v1"), box.publish("bot", "v2", serve=False)
    warmer = Warmer(context, box.machine)
    warmer.look(nothing)
    assert (box.resident(v1) > 0.99, box.resident(v2) < 0.01) == (True, True)
    evict(v1 / "a.bin")
    warmer.look(nothing)  # nothing moved
    assert resident(v1 / "a.bin") < 0.01
    box.lead("bot", "v2")
    warmer.look(nothing)
    assert box.resident(v2) > 0.99


def test_all_models_together_take_no_more_than_half(box: Box, context: MirrorContext) -> None:
    folders = [box.publish(name, "v1") for name in ("a", "b", "c")]
    box.memory(36 * MIB)
    Warmer(context, box.machine).look(nothing)
    assert sorted(round(box.resident(folder)) for folder in folders) == [0, 1, 1]


def test_the_end_of_the_agent_ends_the_reading(box: Box, context: MirrorContext) -> None:
    box.publish("bot", "v1")
    context.stop.set()
    with pytest.raises(Stopping):
        Warmer(context, box.machine).look(nothing)


def test_a_thread_of_its_own_is_idle() -> None:
    nice: list[int] = []

    def work() -> None:
        be_idle()
        nice.append(os.getpriority(os.PRIO_PROCESS, 0))

    before = os.getpriority(os.PRIO_PROCESS, 0)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert (nice, os.getpriority(os.PRIO_PROCESS, 0)) == ([19], before)


def test_what_the_kernel_tells() -> None:
    meminfo = "MemTotal: 100 kB\nMemAvailable:   2048 kB\n"
    assert available(meminfo, ()) == 2 * MIB
    assert available(meminfo, [Group(MIB, 512, 256)]) == MIB - 256
    assert available("", ()) == 0
    assert (fits(50, 0, 100), fits(51, 0, 100), fits(30, 21, 100)) == (True, False, False)
    assert not is_pressed(["", "nonsense", "some avg10=x", PRESSED.format(5.0)])
    assert is_pressed(["", PRESSED.format(5.01)])
    assert group_of(["max", "max"], "5", "") is None
    assert group_of(["max", "100"], "60", "file 9\nactive_file 10\ninactive_file 20\n") == Group(100, 60, 30)
    assert group_of(["100"], "60", "active_file 1\ntotal_active_file 10\ntotal_inactive_file 20\n") == Group(100, 60, 30)
    assert group_of([""], "", "") is None


def test_the_command_tells_what_it_did(box: Box, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from axomsync.cli import cli

    folder = box.publish("bot", "v1")
    config = tmp_path / "config.toml"
    config.write_text(f'[mirror]\nfolder = "{box.root}"\n[state]\nfolder = "{tmp_path / "state"}"\n')
    done = CliRunner().invoke(cli, ["warm", "bot", "--config", str(config), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output) == {"path": str(folder), "bytes": 8 * MIB, "bytes_read": 8 * MIB, "reason": None}
    assert box.resident(folder) > 0.99


def test_a_running_agent_warms_what_it_publishes(box: Box, tmp_path: Path) -> None:
    config = {"drop": {"enabled": False}, "mirror": {"warm": "current"}}
    with FaultyServer() as server, AgentProcess(tmp_path / "box", server.url, KEY, config) as agent:
        server.add_model("bot", "v1", {"a.bin": Content(5 * MIB)})
        agent.start()
        eventually("warmth", lambda: "5242880 bytes are in the page cache" in agent.log())
        assert resident(agent.mirror / "bot/v1/a.bin") > 0.99
        assert agent.terminate() == 0
