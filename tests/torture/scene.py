"""The scene of one run: folders, the far side, a configuration, and what people, time and the console do there."""

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from tests.rig.faults import Content, FaultyServer
from tests.torture.disk import Disk
from tests.torture.evidence import Life, Truth
from tests.torture.steps import Attack, Happening
from tests.torture.worlds import Dropped, Published, World


class Scene:
    """The folders below `home`, and the `truth` about what was done there."""

    def __init__(self, home: Path, world: World, server: FaultyServer, disk: Disk, seed: int) -> None:
        self.home, self.data, self.world = home, home / "data", world
        self.ledger_file = self.data / "state" / "state.db"
        self.truth = Truth()
        self.disk = disk
        self._server, self._dice = server, Random(seed)
        self._waiting: list[Dropped | Published] = [*world.dropped, *world.published]
        self._dice.shuffle(self._waiting)
        self._ids: dict[str, str] = {}  # version → the console's id
        self._unlisted: list[tuple[int, dict[str, Any]]] = []
        self.truth.took = self.truth.takes = list(world.config["mirror"].get("files", ["*"]))
        for folder in ("drop", "mirror", "view"):
            (self.data / folder).mkdir()
        self.configure()

    def configure(self) -> None:
        """Write the configuration file."""
        own: dict[str, dict[str, Any]] = {
            "console": {"url": self._server.url},
            "state": {"folder": str(self.data / "state")},
            "drop": {"folder": str(self.data / "drop")},
            "mirror": {"folder": str(self.data / "mirror")},
        }
        for name, values in self.world.config.items():
            own.setdefault(name, {}).update(values)
        views = own["mirror"].get("views", [])
        own["mirror"]["views"] = [view.replace("VIEW", str(self.data / "view" / "v")) for view in views]
        own["mirror"]["files"] = self.truth.takes
        text = "".join(f"[{name}]\n" + "".join(f"{key} = {_toml(of)}\n" for key, of in own[name].items()) for name in own)
        (self.home / "config.toml").write_text(text)

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
        self.configure()

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
        self.truth.ever_unlisted = True

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

    def lived(self, life: Life) -> None:
        """Take what a life said for the truth, and hold the agent to it."""
        if life.verb[:2] == ("verify", "--repair") and life.code == 0:
            self.truth.damaged.clear()

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
            if self.truth.ever_unlisted and not self._folders(model)  # retention may have removed it, and not yet said so
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
