"""The scene of one run: folders, the far side, a configuration, and what people, time and the console do there."""

import os
import shlex
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from tests.rig.faults import Content, Fault, FaultyServer
from tests.rig.gateway import Gateway, flip_a_bit
from tests.torture.disk import Disk
from tests.torture.evidence import Life, Truth
from tests.torture.steps import Attack, Happening
from tests.torture.worlds import Dropped, Published, World


class Scene:
    """The folders below `home`, and the `truth` about what was done there."""

    def __init__(
        self, home: Path, world: World, server: FaultyServer, disk: Disk, seed: int, gateways: Sequence[Gateway]
    ) -> None:
        self.home, self.data, self.world = home, home / "data", world
        self.ledger_file = self.data / "state" / "state.db"
        self.truth = Truth()
        self.disk = disk
        self._server, self._gateways, self._dice = server, gateways, Random(seed)
        self._waiting: list[Dropped | Published] = [*world.dropped, *world.published]
        self._dice.shuffle(self._waiting)
        self._ids: dict[str, str] = {}  # version → the console's id
        self._unlisted: list[tuple[int, dict[str, Any]]] = []
        self._on_disk: set[str] = set()  # versions that are whole on the disk that came
        self._disk_is_spoilt = False
        self.truth.took = self.truth.takes = list(world.config["mirror"].get("files", ["*"]))
        for folder in (*(self.data / name for name in ("drop", "mirror", "view")), home / "disk"):
            folder.mkdir()
        self.truth.refused = set(world.refused)
        self._make_gates()
        self.write_configuration()

    def write_configuration(self, box: str = "") -> Path:
        """Write the configuration of this box, or of an `other` that only mirrors, onto a disk; returns the file."""
        own: dict[str, dict[str, Any]] = {
            "console": {"url": self._server.url},
            "state": {"folder": str(self.home / f"{box}-state" if box else self.data / "state")},
            "drop": {"folder": str(self.data / "drop")},
            "mirror": {"folder": str(self.home / "disk" if box else self.data / "mirror")},
        }
        for name, values in self.world.config.items() if not box else ():
            own.setdefault(name, {}).update(values)
        if box:
            own["drop"]["enabled"], own["mirror"]["reserve"], own["web"] = False, "1MiB", {"listen": ""}
        views = own["mirror"].get("views", [])
        own["mirror"]["views"] = [view.replace("VIEW", str(self.data / "view" / "v")) for view in views]
        own["mirror"]["files"] = ["*"] if box else self.truth.takes
        if self._gateways:
            own["transfer"]["gateways"] = [gateway.url for gateway in self._gateways]
        for key, command in own.get("hooks", {}).items():
            own["hooks"][key] = [word.replace("HOME", str(self.home)) for word in command]
        text = "".join(f"[{name}]\n" + "".join(f"{key} = {_toml(of)}\n" for key, of in own[name].items()) for name in own)
        file = self.home / f"{box or 'config'}.toml"
        file.write_text(text)
        return file

    def _make_gates(self) -> None:
        self._write_refused()
        (self.home / "secrets").write_text("".join(f"{word}\n" for word in self.world.secrets))
        for name, test in (
            ("refuse-version", 'grep -qx "$AXOMSYNC_VERSION" {home}/refused'),
            ("refuse-file", 'grep -qFf {home}/secrets "$AXOMSYNC_FILE"'),
        ):
            words = test.format(home=shlex.quote(str(self.home)))
            (self.home / name).write_text(f"#!/bin/sh\n{words} && {{ echo a gate of the campaign; exit 1; }}\nexit 0\n")
            (self.home / name).chmod(0o755)

    def _write_refused(self) -> None:
        (self.home / "refused").write_text("".join(f"{version}\n" for version in sorted(self.truth.refused)))

    def happen(self, happening: Happening) -> None:
        """Let it happen. Nothing happens when there is nothing that it could be done to."""
        getattr(self, happening.what.replace(" ", "_"))(happening)
        self.disk.sync()

    # Arrivals

    @property
    def waiting(self) -> int:
        """How many files and versions are still to appear."""
        return len(self._waiting)

    def arrive(self, number: int) -> None:
        """So many of the world's files and versions appear."""
        for _ in range(number):
            one = self._waiting.pop()
            if isinstance(one, Published):
                self._publish(one)
                continue
            path = self.data / "drop" / one.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(one.data)
            self.truth.dropped.append(one)
        self.disk.sync()  # people sync what they drop

    def _publish(self, one: Published) -> None:
        files = {rel: Content(size, number) for rel, size, number in one.files}
        self._ids[one.version] = self._server.add_model(one.name, one.version, files, part_size=one.part, etag=one.etag)
        self.truth.published.append(one)

    # What the console does

    def grow(self, happening: Happening) -> None:
        """The list of a version gets one more file."""
        model = self._picked(happening)
        if model is None or model.version in self.truth.grown:
            return
        rel, size, number = "grown.json", self._dice.choice((0, 900, 70_000)), self._dice.getrandbits(30)
        identity = self._ids[model.version]
        key, content = f"{identity}/grown", Content(size, number)
        self._server.replace(key, content, part_size=model.part)
        self._server.manifests[identity].append({"rel": rel, "size": size, "key": key})
        self.truth.grown[model.version] = rel
        self._known_as(replace(model, files=(*model.files, (rel, size, number))))

    def select_all(self, _: Happening) -> None:
        """`[mirror] files` takes all files."""
        self.truth.takes = ["*"]
        self.write_configuration()

    def replace(self, happening: Happening) -> None:
        """An object of a version that is not published here becomes another one of the same size."""
        model = self._picked(happening)
        if model is None or self._folders(model):
            return
        index = int(happening.place * len(model.files))
        rel, size, number = model.files[index]
        self._server.replace(
            self._server.key_of(self._ids[model.version], rel), Content(size, number + 1), part_size=model.part
        )
        self.truth.replaced.setdefault((model.version, rel), []).append((size, number))
        files = (*model.files[:index], (rel, size, number + 1), *model.files[index + 1 :])
        self._known_as(replace(model, files=files))

    def unlist(self, happening: Happening) -> None:
        """The console no longer lists a version."""
        model = self._picked(happening)
        if model is None or model.version in self.truth.unlisted:
            return
        index = next(n for n, document in enumerate(self._server.models) if document["id"] == self._ids[model.version])
        self._unlisted.append((index, self._server.models.pop(index)))
        self.truth.unlisted.add(model.version)
        self.truth.ever_removed = True

    def list_again(self, _: Happening) -> None:
        """The console lists all versions again."""
        while self._unlisted:
            self._server.models.insert(*self._unlisted.pop())
        self.truth.unlisted.clear()

    def _known_as(self, model: Published) -> None:
        self.truth.published = [model if each.version == model.version else each for each in self.truth.published]

    # What people and disks do

    def damage(self, happening: Happening) -> None:
        """A published file gets other bytes, or is removed."""
        model = self._picked(happening)
        folder = next(iter(self._folders(model)), None) if model else None
        if model is None or folder is None:
            return
        rel, size, _ = model.files[int(happening.place * len(model.files))]
        path = folder / rel
        if not path.exists() or path in self.truth.damaged:
            return
        data = bytearray(path.read_bytes())
        place, many = int(happening.place * 7919 * size) % size if size else 0, 5_000
        match happening.how:
            case "flip":
                data[place : place + 1] = bytes(byte ^ 1 for byte in data[place : place + 1])
            case "zero":
                data[place : place + many] = bytes(byte & 0x0F for byte in data[place : place + many])
            case "cut":
                del data[place:]
            case "longer":
                data += b"more"
        others = [link for link in self._links_of(path) if happening.how != "remove"]
        if happening.how == "remove":
            path.unlink()
        elif bytes(data) != path.read_bytes():
            path.write_bytes(data)  # in place: a version that shares the file is damaged as well
        else:
            return
        for each in {path, *others}:
            self.truth.damaged[each] = None if happening.how == "remove" else bytes(data)

    def forget_models(self, _: Happening) -> None:
        """People remove what is published; it is fetched again."""
        for model in self.truth.published:
            for folder in self._folders(model):
                shutil.rmtree(folder)
                self.truth.forgotten.add(model.version)
        self.truth.ever_removed = True

    def gate_opens(self, _: Happening) -> None:
        """The gate says yes to every version from now on."""
        self.truth.refused.clear()
        self._write_refused()

    def gateway_dies(self, happening: Happening) -> None:
        """A gateway is lost: now, or when storage was asked a few times more (`how` is "meanwhile")."""
        self._soon(happening, self._gateways[happening.of % len(self._gateways)].kill)

    def gateway_comes(self, happening: Happening) -> None:
        """A gateway is there again."""
        gateway = self._gateways[happening.of % len(self._gateways)]
        gateway.kill()
        self._soon(happening, gateway.start)

    def bits_flip(self, happening: Happening) -> None:
        """The disk of a gateway changes a bit in each slice of its cache."""
        for file in self._gateways[happening.of % len(self._gateways)].cached():
            flip_a_bit(file, self._dice)

    def _soon(self, happening: Happening, act: Callable[[], object]) -> None:
        if happening.how == "meanwhile":
            self._server.inject(Fault(first=act), "/bucket/", skip=int(happening.place * 20))
        else:
            act()

    def disk_came(self) -> None:
        """A disk is there, with what the console lists."""
        self._on_disk = {each.version for each in self.truth.published}

    def spoil_disk(self, happening: Happening) -> None:
        """A byte on the disk is not what it was."""
        model = self._picked(happening)
        if model is None:
            return
        rel, size, _ = model.files[int(happening.place * len(model.files))]
        path = self.home / "disk" / model.name / model.version / rel
        if size:
            data = bytearray(path.read_bytes())
            data[int(happening.place * 7919 * size) % size] ^= 1
            path.write_bytes(data)
            self._on_disk.discard(model.version)
            self._disk_is_spoilt = True

    def attack(self, attack: Attack) -> None:
        """Damage the ledger as disks and people do."""
        wal = self.ledger_file.with_name("state.db-wal")
        target = wal if attack.how == "wal" and wal.exists() else self.ledger_file
        if not target.exists():
            return
        data = bytearray(target.read_bytes())
        place = int(attack.place * len(data))
        if attack.how == "lose":
            self.lose_ledger()
        elif attack.how == "cut":
            target.write_bytes(data[:place])
        else:
            rest = data[place : place + attack.length]
            data[place : place + attack.length] = bytes(len(rest)) if attack.how == "zero" else bytes(b ^ 0xFF for b in rest)
            target.write_bytes(data)

    def lose_ledger(self) -> None:
        """Remove the ledger's files."""
        for file in self.ledger_file.parent.glob("state.db*"):
            file.unlink()

    # What is known of lives

    def begins(self, verb: tuple[str, ...]) -> None:
        """A life begins whose command may change what is agreed."""
        self.truth.imported_before = set(self.truth.imported)
        if verb[0] in ("promote", "rollback"):
            self.truth.agreed.setdefault(verb[1], set()).update(self._targets(verb))

    def has_come_about(self, verb: tuple[str, ...]) -> bool:
        """Check that what a command was to do is so, though it ended with another code than 0."""
        if verb[0] == "import":
            return self._disk_is_spoilt
        if verb[0] == "promote":
            pinned = (self.data / "mirror" / verb[1] / ".pinned").is_symlink()
            return pinned or not self._targets(verb) or self._leads(verb[1]) in self._newer(verb)
        return verb[0] == "rollback" and not self._targets(verb)

    def _leads(self, name: str) -> str | None:
        link = self.data / "mirror" / name / "current"
        return os.readlink(link) if link.is_symlink() else None

    def _there(self, name: str) -> list[str]:
        """Versions of a name that are here, oldest first."""
        return [each.version for each in self.truth.published if each.name == name and self._folders(each)]

    def _targets(self, verb: tuple[str, ...]) -> list[str]:
        """The version that `promote` or `rollback` is to lead `current` to, if it is here."""
        there = self._there(verb[1])
        return [version for version in there if version in verb[2:]] if len(verb) > 2 else there[-1:]

    def _newer(self, verb: tuple[str, ...]) -> list[str]:
        """The version that `promote` names, and those that are newer: if one of these leads, it refuses."""
        there, (target,) = self._there(verb[1]), self._targets(verb)
        return there[there.index(target) :]

    def lived(self, life: Life) -> None:
        """Take what a life said for the truth, and hold the agent to it."""
        if life.verb[:2] == ("verify", "--repair") and life.code == 0:
            self.truth.damaged.clear()
        if life.verb[0] in ("promote", "rollback") and life.code == 0:
            self.truth.agreed[life.verb[1]] = set(self._targets(life.verb))
            self.truth.promoted.add(life.verb[1])
        if life.verb[0] == "import" and life.code == 0:
            self.truth.imported |= self._on_disk

    def versions_of(self, keys: Iterable[str]) -> tuple[str, ...]:
        """The versions to which these objects of storage belong."""
        by_id = {identity: version for version, identity in self._ids.items()}
        return tuple(sorted({by_id[of] for key in keys if (of := key.split("/")[0]) in by_id}))

    def spoilt(self) -> set[tuple[str, str]]:
        """Files, by the console's id and path, whose durable bytes are no longer the right ones."""
        replaced = {(self._ids[version], rel) for version, rel in self.truth.replaced}
        damaged = {
            (self._ids[model.version], rel)
            for model in self.truth.published
            for folder in self._folders(model)
            for rel, *_ in model.files
            if folder / rel in self.truth.damaged
        }
        removed = {
            (self._ids[model.version], rel)
            for model in self.truth.published
            for rel, *_ in model.files
            if self.truth.ever_removed and not self._folders(model)  # retention may have removed it, and not yet said so
        }
        return replaced | damaged | removed

    # Which

    def _picked(self, happening: Happening) -> Published | None:
        known = self.truth.published
        return known[happening.of % len(known)] if known else None

    def _folders(self, model: Published) -> list[Path]:
        parent = self.data / "mirror" / model.name
        return [path for path in parent.glob(f"{model.version}*") if path.is_dir() and not path.is_symlink()]

    def _links_of(self, path: Path) -> list[Path]:
        known = [f / rel for model in self.truth.published for f in self._folders(model) for rel, *_ in model.files]
        return [each for each in known if each.exists() and each.samefile(path)]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    return str(value) if isinstance(value, int | float) else '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
