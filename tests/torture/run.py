"""One run of a schedule: lives of the agent on a scene, strikes, and then calm lives until one finds nothing to do.

The far side is `tests.rig.faults`, over real sockets.
"""

import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.rig.faults import KEY, Content, FaultyServer, Request
from tests.rig.gateway import Gateway
from tests.torture.claims import broken_promises
from tests.torture.disk import Disk
from tests.torture.evidence import Evidence, Life
from tests.torture.forge import Forge, Order, Strike
from tests.torture.memory_group import memory_group
from tests.torture.scene import Scene
from tests.torture.schedule import ALWAYS, Schedule
from tests.torture.steps import Step
from tests.torture.stories import told
from tests.torture.wrong_answers import FAULTS

LIVES_TO_REST = 14
SYNC = ("sync",)
UNLIMITED = Step()


@dataclass
class Run:
    """One run; `evidence` is what it leaves for the claims."""

    schedule: Schedule
    home: Path
    forge: Forge
    counts: dict[str, list[tuple[int, int]]]  # of the calls of a story's lives when nothing goes wrong; filled here
    lives: list[Life] = field(default_factory=list)
    struck: int = 0
    _obeyed: int = 0  # lives whose advice was followed

    def broken(self) -> list[str]:
        """Run it; returns the promises that it broke, in words."""
        self.home.mkdir()
        (self.home / "beside").mkdir()
        (self.home / "beside" / "mine").write_text("not the agent's")
        disk = Disk(self.schedule.disk, self.home / "data", self.home)
        world, _ = told(self.schedule.world, self.schedule.story)
        try:
            with disk.mounted(), FaultyServer() as self._server, ExitStack() as stack:
                gateways = [Gateway(self.home / f"gateway{n}", [self._server.endpoint]) for n in range(world.gateways)]
                for gateway in gateways:
                    stack.enter_context(gateway)
                self._scene = Scene(self.home, world, self._server, disk, self.schedule.seed, gateways)
                return self._broken()
        finally:
            shutil.rmtree(self.home, ignore_errors=True)

    def _broken(self) -> list[str]:
        steps = self.schedule.steps
        self._scene.arrive(self._scene.waiting - sum(step.arrives for step in steps))
        for step in steps:
            self._scene.arrive(step.arrives)
            for happening in step.happens:
                if happening.what == "disk comes":
                    self._fill_disk()
                else:
                    self._scene.happen(happening)
            if step.attack is not None:
                self._scene.damages.attack(step.attack)
            if found := self._step(step):
                return found
        self._scene.arrive(self._scene.waiting)
        self._server.heal()
        return self._finish() or self._rest()

    def _fill_disk(self) -> None:
        """Another box mirrors what there is, onto a disk; wrong answers are for this box alone."""
        self._server.heal()
        other = self._scene.other_box()
        order = Order(["sync", "--config", str(other)], self._environ, [], str(self.home / "other.log"))
        code = self.forge.live(order).code
        assert code == 0, (self.home / "other.log").read_text()

    def _step(self, step: Step) -> list[str]:
        for wire in step.wire:
            method, path, fault = FAULTS[wire.number % len(FAULTS)]
            self._server.inject(fault, path, method=method, skip=wire.skip, times=wire.times)
        strike = Strike()
        if step.blow is not None:
            total = self._counted()[step.like][step.blow.kind]
            strike = Strike(1 + int(step.blow.place * total), step.blow.how, step.blow.kind, step.blow.lasts)
        is_full = step.room is not None or step.inodes is not None
        if is_full:
            self._scene.disk.fill(step.room, step.inodes)
        life = self._live(step.verb, strike, step)
        if is_full:
            self._scene.disk.make_room()
        self.struck += bool(life.struck or step.wire or step.attack or step.descriptors or step.memory or is_full)
        if step.power_fails:
            self._scene.disk.lose_power()
        return broken_promises(self._evidence(at_rest=False))

    def _counted(self) -> list[tuple[int, int]]:
        """Calls of the lives of this story when nothing goes wrong."""
        key = f"{self.schedule.world} {self.schedule.story}"
        if key not in self.counts:
            _, steps = told(self.schedule.world, self.schedule.story)
            calm = Schedule(self.schedule.seed, "calm", self.schedule.world, "", steps, ALWAYS, self.schedule.story)
            self.counts[key] = Run(calm, self.home / "calm", self.forge, {}).count()
        return self.counts[key]

    def count(self) -> list[tuple[int, int]]:
        """Calls of each life that the schedule orders, when nothing happens to it."""
        broken = self.broken()
        assert not broken, f"{self.schedule} {broken}"
        return [(life.changes, life.looks) for life in self.lives[: len(self.schedule.steps)]]

    def _finish(self) -> list[str]:
        """Repeat each command that did not come to its end, as people do; it must succeed now."""
        ends: dict[tuple[str, ...], int] = {}
        for step, life in zip(self.schedule.steps, self.lives, strict=True):
            ends[step.verb] = life.code
        for verb in [verb for verb, code in ends.items() if code and verb != SYNC]:
            if verb[0] != "import":
                self._live(SYNC, Strike())  # what it needs is there
            life = self._live(verb, Strike())
            if self._obey(life):  # and the first pass with a new ledger finds what there is
                self._live(SYNC, Strike())
                life = self._live(verb, Strike())
            if found := broken_promises(self._evidence(at_rest=False)):
                return found
            if life.code and not self._scene.orders.has_come_about(verb):
                return [
                    f"A command succeeds when nothing goes wrong any more. BUT {verb} ended with {life.code}: {life.words}"
                ]
        return []

    def _rest(self) -> list[str]:
        """Let the agent live until a life finds nothing to do; that life is the evidence."""
        ordered = len(self.lives)
        for _ in range(LIVES_TO_REST):
            before = self._evidence(at_rest=False).everything()
            asked = len(self._server.requests)
            life = self._live(SYNC, Strike())
            self._obey(life)
            after = self._evidence(at_rest=True, before=before, asked=asked)
            if after.is_idle() and life.code in (0, 1) and len(self.lives) > ordered + 1:
                break
        else:
            return [
                f"It comes to rest: after {LIVES_TO_REST} lives it still works. Last words: {self.lives[-1].words[-600:]}"
            ]
        return broken_promises(after)

    def _obey(self, life: Life) -> bool:
        """Do what a person does whom the agent tells so; True if the ledger was moved away."""
        is_damaged = bool(life.code) and "move it away, a new one loses no data" in life.words
        if is_damaged:
            self._scene.damages.lose_ledger()
        if any("`axomsync retry`" in told.words for told in self.lives[self._obeyed :]):  # a later line may not repeat it
            self._obeyed = len(self.lives)
            self.forge.live(replace(self._order(("retry",), "retry.log"), folders=[]))
        return is_damaged

    def _live(self, verb: tuple[str, ...], strike: Strike, limits: Step = UNLIMITED) -> Life:
        output = self.home / f"life-{len(self.lives)}.log"
        asked = len(self._server.requests)
        durable = self._durable()
        self._scene.orders.begins(verb)
        order = replace(self._order(verb, output.name), strike=strike)
        with memory_group(limits.group) if limits.group else nullcontext("") as group:
            end = self.forge.live(replace(order, descriptors=limits.descriptors, memory=limits.memory, group=group))
        if group and end.code == -9 and not end.struck:
            end, strike = replace(end, struck="the kernel, for its memory"), Strike()
        words = output.read_text(errors="replace") if output.exists() else ""
        requests = [r for r in self._server.requests[asked:] if r.method == "GET" and r.is_storage]
        requests = [r for r in requests if r.headers.get("user-agent") != "axomsync-gateway"]  # it fetches slices of its own
        again = tuple(_fetched_again(requests, durable))
        versions = self._scene.far_side.versions_of(r.key for r in requests)
        how = strike.how if end.struck else None
        life = Life(verb, end.code, end.changes, end.looks, end.struck, words, again, versions, how)
        self.lives.append(life)
        self._scene.orders.lived(life)
        return life

    def _durable(self) -> dict[str, list[tuple[int, int]]]:
        """Byte ranges that the ledger calls durable and that are still the right ones, by key."""
        spoilt = self._scene.spoilt()
        return {
            self._server.key_of(model, rel): ranges
            for (model, rel), ranges in durable_ranges(self._scene.ledger_file, self.home / "peek").items()
            if model in self._server.manifests and (model, rel) not in spoilt
        }

    def _order(self, verb: tuple[str, ...], output: str) -> Order:
        arguments = [word.replace("DISK", str(self.home / "disk")) for word in verb]
        arguments += ["--config", str(self.home / "config.toml")]
        folders, knobs = [str(self._scene.data)], self.schedule.knobs
        return Order(arguments, self._environ, folders, str(self.home / output), knobs=knobs)

    @property
    def _environ(self) -> dict[str, str]:
        return {"AXOM_KEY": KEY, "HOME": str(self.home), "TMPDIR": str(self.home)}

    def _evidence(self, *, at_rest: bool, before: dict[str, Any] | None = None, asked: int = 0) -> Evidence:
        storage = {key: stored.content.read() for key, stored in self._server.objects.items() if key.startswith("tmp/")}
        return Evidence(
            data=self._scene.data,
            beside=self.home / "beside",
            world=self._scene.world,
            truth=self._scene.truth,
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


def _fetched_again(requests: Iterable[Request], durable: Mapping[str, list[tuple[int, int]]]) -> Iterator[str]:
    """Requests for ranges that were durable. A question of one byte is no fetch."""
    for r in requests:
        if r.start is None or r.end is None or (r.start, r.end) == (0, 1):
            continue
        if any(r.start < stop and r.end > start for start, stop in durable.get(r.key, [])):
            yield f"{r.key} {r.start}-{r.end}"


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
