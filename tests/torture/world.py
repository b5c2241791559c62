"""One run of a schedule: folders, perhaps on a disk of their own, a far side that misbehaves, people who do as told.

The far side is `tests.rig.faults`, over real sockets. Power fails by killing the agent and then taking the image of a
mounted ext4, XFS or Btrfs as it lies there: what was not synced is gone.
"""

import fcntl
import os
import shutil
import sqlite3
import struct
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from tests.rig.faults import EXPIRED, KEY, Content, Fault, FaultyServer, json_answer, s3_error
from tests.torture.claims import Evidence, Life, broken_promises
from tests.torture.forge import Forge, Order, Strike
from tests.torture.schedule import DISKS, Attack, Published, Schedule, Step, World, world_of

IMAGE_BYTES = {"ext4": 128 << 20, "xfs": 320 << 20, "btrfs": 160 << 20}
LIVES_TO_REST = 14
SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32) of linux/fs.h: EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN
WITHOUT_LOG = 2  # not even the journal in memory is written

# Method, path, and what is wrong with the answer. The number of a fault is its place here; new ones go to the end.
FAULTS: tuple[tuple[str, str, Fault], ...] = (
    *(("GET", "/bucket/", Fault(status, {"Retry-After": "0"}, b"x")) for status in (500, 503, 429, 408, 502, 504)),
    *(("GET", "/bucket/", Fault(cut=cut, ending=ending)) for cut in (0, 1, 4_000, 65_536) for ending in ("fin", "reset")),
    ("GET", "/bucket/", EXPIRED),
    ("GET", "/bucket/", s3_error(403, "AccessDenied", "Access Denied")),
    ("GET", "/bucket/", s3_error(404, "NoSuchKey", "The specified key does not exist.")),
    ("GET", "/bucket/", s3_error(412, "PreconditionFailed", "At least one of the pre-conditions did not hold")),
    ("GET", "/bucket/", s3_error(416, "InvalidRange", "The requested range is not satisfiable")),
    ("GET", "/bucket/", Fault(ignores_range=True)),
    ("GET", "/bucket/", Fault(200, {"Content-Type": "text/html"}, b"<html>please log in</html>")),
    ("GET", "/bucket/", Fault(headers={"ETag": '"0123456789abcdef0123456789abcdef"'})),
    ("GET", "/bucket/", Fault(headers={"ETag": None})),
    ("GET", "/bucket/", Fault(headers={"Content-Range": None})),
    ("GET", "/bucket/", Fault(headers={"Content-Range": "bytes 7-9/10"})),
    ("GET", "/bucket/", Fault(headers={"Content-Length": None})),
    ("GET", "/bucket/", Fault(headers={"Content-Encoding": "gzip"})),
    ("GET", "/bucket/", Fault(204, {}, b"")),
    ("GET", "/bucket/", Fault(301, {"Location": "/elsewhere"}, b"")),
    ("GET", "/bucket/", Fault(rate=200_000.0)),
    *(("PUT", "/bucket/", Fault(status, {"Retry-After": "0"}, b"x")) for status in (500, 503, 429, 408, 502, 504, 501)),
    *(("PUT", "/bucket/", Fault(cut=0, ending=ending)) for ending in ("fin", "reset")),
    ("PUT", "/bucket/", EXPIRED),
    ("PUT", "/bucket/", s3_error(403, "SignatureDoesNotMatch", "The request signature does not match")),
    ("PUT", "/bucket/", Fault(headers={"ETag": None})),
    ("PUT", "/bucket/", Fault(headers={"ETag": '"0123456789abcdef0123456789abcdef"'})),
    ("PUT", "/bucket/", Fault(200, {}, b"<html>please log in</html>")),
    ("PUT", "/bucket/", Fault(headers={"Content-Length": None})),
    ("PUT", "/bucket/", Fault(204, {}, b"")),
    ("PUT", "/bucket/", Fault(307, {"Location": "/elsewhere"}, b"")),
    *((method, path, Fault(status, {"Retry-After": "0"}, b"{}"))
      for method, path in (("GET", "/api/models"), ("GET", "/download"), ("POST", "/presign"))
      for status in (400, 403, 404, 408, 409, 422, 429, 500, 502, 503)),
    *((method, path, Fault(200, {}, body))
      for method, path in (("GET", "/api/models"), ("GET", "/download"), ("POST", "/presign"))
      for body in (b"", b"null", b"[[[", b"<html>", b'{"files": null}', b"\xff\xfe", b'[{"id": 1}]')),
    *((method, path, Fault(cut=cut, ending=ending))
      for method, path in (("GET", "/api/models"), ("GET", "/download"), ("POST", "/presign"))
      for cut in (0, 20) for ending in ("fin", "reset")),
    ("GET", "/api/models", json_answer([])),
    ("POST", "/presign", json_answer({"upload_id": "u", "key": "k", "url": "http://127.0.0.1:1/x", "method": "PUT"})),
)  # fmt: skip


@dataclass
class Run:
    """One run; `evidence` is what it leaves for the claims."""

    schedule: Schedule
    home: Path
    forge: Forge
    counts: dict[str, tuple[int, int]]  # of the calls of a world's first life, by world and disk; filled here
    lives: list[Life] = field(default_factory=list)
    struck: int = 0

    def broken(self) -> list[str]:
        """Run it; returns the promises that it broke, in words."""
        self.home.mkdir()
        (self.home / "beside").mkdir()
        (self.home / "beside" / "mine").write_text("not the agent's")
        try:
            with self._disk(), FaultyServer() as self._server:
                return self._broken()
        finally:
            shutil.rmtree(self.home, ignore_errors=True)

    def _broken(self) -> list[str]:
        world = world_of(self.schedule.world)
        steps = self.schedule.steps
        late = sum(step.arrives for step in steps)
        self._waiting: list[Any] = [*world.dropped, *world.published]
        Random(self.schedule.seed).shuffle(self._waiting)
        self._configure(world)
        for folder in ("drop", "mirror", "view"):
            (self._data / folder).mkdir()
        self._arrive(len(self._waiting) - late)
        for step in steps:
            self._arrive(step.arrives)
            if step.attack is not None:
                self._attack(step.attack)
            if found := self._step(step):
                return found
        self._arrive(len(self._waiting))
        self._server.heal()
        return self._rest()

    def _step(self, step: Step) -> list[str]:
        for wire in step.wire:
            method, path, fault = FAULTS[wire.number % len(FAULTS)]
            self._server.inject(fault, path, method=method, skip=wire.skip, times=wire.times)
        strike = Strike()
        if step.blow is not None:
            total = self._counted()[step.blow.kind]
            strike = Strike(1 + int(step.blow.place * total), step.blow.how, step.blow.kind, step.blow.lasts)
        life = self._live(strike, step.descriptors, step.memory)
        self.struck += bool(life.struck or step.wire or step.attack or step.descriptors or step.memory)
        if step.power_fails:
            self._lose_power()
        return broken_promises(self._evidence(at_rest=False))

    def _counted(self) -> tuple[int, int]:
        """Calls of this world's life when nothing happens to it."""
        key = f"{self.schedule.world} {self.schedule.disk}"
        if key not in self.counts:
            calm = Schedule(self.schedule.seed, "calm", self.schedule.world, "", ())
            self.counts[key] = Run(calm, self.home / "calm", self.forge, {}).count()
        return self.counts[key]

    def count(self) -> tuple[int, int]:
        """Calls of one life that nothing happens to."""
        broken = self.broken()
        assert not broken, broken
        first = self.lives[0]
        return first.changes, first.looks

    def _rest(self) -> list[str]:
        """Let the agent live until a life finds nothing to do; that life is the evidence."""
        for _ in range(LIVES_TO_REST):
            before = self._evidence(at_rest=False).everything()
            asked = len(self._server.requests)
            life = self._live(Strike(), 0, 0)
            self._obey(life)
            after = self._evidence(at_rest=True, before=before, asked=asked)
            if after.is_idle() and life.code in (0, 1) and len(self.lives) > len(self.schedule.steps) + 1:
                break
        else:
            return [
                f"It comes to rest: after {LIVES_TO_REST} lives it still works. Last words: {self.lives[-1].words[-600:]}"
            ]
        return broken_promises(after)

    def _obey(self, life: Life) -> None:
        """Do what a person does whom the agent tells so."""
        if life.code and "move it away, a new one loses no data" in life.words:
            self._lose_ledger()
        if "`axomsync retry`" in life.words:
            self.forge.live(replace(self._order("retry", "retry.log"), folders=[]))

    def _lose_ledger(self) -> None:
        for file in (self._data / "state").glob("state.db*"):
            file.unlink()

    def _live(self, strike: Strike, descriptors: int, memory: int) -> Life:
        output = self.home / f"life-{len(self.lives)}.log"
        asked = len(self._server.requests)
        durable = {
            self._server.key_of(model, rel): ranges
            for (model, rel), ranges in durable_ranges(self._ledger_file, self.home / "peek").items()
            if model in self._server.manifests
        }
        order = self._order("sync", output.name)
        end = self.forge.live(replace(order, strike=strike, descriptors=descriptors, memory=memory))
        words = output.read_text(errors="replace") if output.exists() else ""
        again = [
            f"{r.key} {r.start}-{r.end}"
            for r in self._server.requests[asked:]
            if r.method == "GET" and r.start is not None and r.end is not None and (r.start, r.end) != (0, 1)
            for start, stop in durable.get(r.key, [])
            if r.start < stop and r.end > start
        ]
        life = Life(end.code, end.changes, end.looks, end.struck, words, tuple(again), strike.how if end.struck else None)
        self.lives.append(life)
        return life

    def _order(self, verb: str, output: str) -> Order:
        environ = {"AXOM_KEY": KEY, "HOME": str(self.home), "TMPDIR": str(self.home)}
        arguments, knobs = [verb, "--config", str(self.home / "config.toml")], self.schedule.knobs
        return Order(arguments, environ, [str(self._data)], str(self.home / output), knobs=knobs)

    # Folders

    @property
    def _data(self) -> Path:
        return self.home / "data"

    @property
    def _ledger_file(self) -> Path:
        return self._data / "state" / "state.db"

    @contextmanager
    def _disk(self) -> Iterator[None]:
        self._data.mkdir()
        if not self.schedule.disk:
            yield
            return
        image = self.home / "disk.img"
        with image.open("wb") as file:
            file.truncate(IMAGE_BYTES[self.schedule.disk])
        program, *words = DISKS[self.schedule.disk]
        subprocess.run([program, "-q", *words, image], check=True, stdout=subprocess.DEVNULL)
        self._mount(image)
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", self._data], check=True)

    def _mount(self, image: Path) -> None:
        # No commit by itself: what the agent does not sync is not on the disk.
        options = {"ext4": "loop,commit=600", "xfs": "loop,nouuid", "btrfs": "loop,commit=300"}[self.schedule.disk]
        subprocess.run(["mount", "-o", options, image, self._data], check=True)

    def _lose_power(self) -> None:
        """Forget what was not synced: by the filesystem's own call for that (ioctl_xfs_goingdown(2), as ext4 has it too)."""
        image, copy = self.home / "disk.img", self.home / "copy.img"
        if self.schedule.disk == "btrfs":  # it has no such call; its tree on disk is always whole
            subprocess.run(["cp", "--sparse=always", image, copy], check=True)
        else:
            folder = os.open(self._data, os.O_RDONLY)
            fcntl.ioctl(folder, SHUTDOWN, struct.pack("I", WITHOUT_LOG))
            os.close(folder)
        subprocess.run(["umount", self._data], check=True)
        if not copy.exists():  # a container that has just begun may have the mount too, and so keep what was shut down alive
            subprocess.run(["cp", "--sparse=always", image, copy], check=True)
        copy.rename(image)
        self._mount(image)

    # What people, time and the console do

    def _arrive(self, number: int) -> None:
        for _ in range(number):
            one = self._waiting.pop()
            if isinstance(one, Published):
                self._publish(one)
                continue
            path = self._data / "drop" / one.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(one.data)
            self._dropped.append(one)
        subprocess.run(["sync", "--file-system", self._data], check=True)  # people sync what they drop

    def _publish(self, one: Published) -> None:
        files = {rel: Content(size, number) for rel, size, number in one.files}
        self._server.add_model(one.name, one.version, files, part_size=one.part, etag=one.etag)
        self._published.append(one)

    def _attack(self, attack: Attack) -> None:
        """Damage the ledger as disks and people do."""
        wal = self._ledger_file.with_name("state.db-wal")
        target = wal if attack.how == "wal" and wal.exists() else self._ledger_file
        if not target.exists():
            return
        data = bytearray(target.read_bytes())
        place = int(attack.place * len(data))
        if attack.how == "lose":
            self._lose_ledger()
        elif attack.how == "cut":
            target.write_bytes(data[:place])
        else:
            rest = data[place : place + attack.length]
            data[place : place + attack.length] = bytes(len(rest)) if attack.how == "zero" else bytes(b ^ 0xFF for b in rest)
            target.write_bytes(data)

    def _configure(self, world: World) -> None:
        self._dropped: list[Any] = []
        self._published: list[Published] = []
        own: dict[str, dict[str, Any]] = {
            "console": {"url": self._server.url},
            "state": {"folder": str(self._data / "state")},
            "drop": {"folder": str(self._data / "drop")},
            "mirror": {"folder": str(self._data / "mirror")},
        }
        for name, values in world.config.items():
            own.setdefault(name, {}).update(values)
        views = own["mirror"].get("views", [])
        own["mirror"]["views"] = [view.replace("VIEW", str(self._data / "view" / "v")) for view in views]
        text = "".join(f"[{name}]\n" + "".join(f"{key} = {_toml(of)}\n" for key, of in own[name].items()) for name in own)
        (self.home / "config.toml").write_text(text)

    def _evidence(self, *, at_rest: bool, before: dict[str, Any] | None = None, asked: int = 0) -> Evidence:
        storage = {key: stored.content.read() for key, stored in self._server.objects.items() if key.startswith("tmp/")}
        return Evidence(
            data=self._data,
            beside=self.home / "beside",
            world=world_of(self.schedule.world),
            dropped=tuple(self._dropped),
            published=tuple(self._published),
            bytes_of=lambda size, number: Content(size, number).read(),
            uploaded=storage,
            lives=tuple(self.lives),
            requests=tuple((r.method, r.path) for r in self._server.requests[asked:]) if at_rest else (),
            secrets=(KEY, "X-Amz-Signature"),
            at_rest=at_rest,
            before=before or {},
            ledger_attacked=any(step.attack is not None for step in self.schedule.steps),
            wire_failed=any(step.wire for step in self.schedule.steps),
        )


def durable_ranges(ledger: Path, place: Path) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """Byte ranges that the ledger calls durable, by model and file. A copy at `place` is read: SQLite makes files."""
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for file in ledger.parent.glob("state.db*"):
        shutil.copyfile(file, place / file.name)
    with suppress(sqlite3.Error, UnicodeError), closing(sqlite3.connect(place / ledger.name)) as db:
        sql = 'SELECT f.model, f.rel, start, "end" FROM files f JOIN segments s ON s.file = f.id'
        for model, rel, start, end in db.execute(sql):
            found.setdefault((model, rel), []).append((start, end))
    return found


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    return str(value) if isinstance(value, int | float) else '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
