"""What disks and people do to the folders of one run."""

import shutil
from pathlib import Path

from tests.torture.evidence import Truth, folders_of
from tests.torture.orders import Orders
from tests.torture.steps import Attack, Happening
from tests.torture.worlds import Published


class Damages:
    """Damage below `home`: to the mirror, the ledger, and a disk to import."""

    def __init__(self, home: Path, truth: Truth, orders: Orders) -> None:
        self._truth, self._orders = truth, orders
        self._mirror, self._disk, self._ledger_file = home / "data/mirror", home / "disk", home / "data/state/state.db"

    def damage(self, happening: Happening) -> None:
        """A published file gets other bytes, or is removed."""
        model = self._picked(happening)
        folder = next(iter(folders_of(self._mirror, model)), None) if model else None
        if model is None or folder is None:
            return
        rel, size, _ = model.files[int(happening.place * len(model.files))]
        path = folder / rel
        if not path.exists() or path in self._truth.damaged:
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
            self._truth.damaged[each] = None if happening.how == "remove" else bytes(data)

    def forget_models(self, _: Happening) -> None:
        """People remove what is published; it is fetched again."""
        for model in self._truth.published:
            for folder in folders_of(self._mirror, model):
                shutil.rmtree(folder)
                self._truth.forgotten.add(model.version)
        self._truth.ever_removed = True

    def spoil_disk(self, happening: Happening) -> None:
        """A byte on the disk is not what it was."""
        model = self._picked(happening)
        if model is None:
            return
        rel, size, _ = model.files[int(happening.place * len(model.files))]
        path = self._disk / model.name / model.version / rel
        if size:
            data = bytearray(path.read_bytes())
            data[int(happening.place * 7919 * size) % size] ^= 1
            path.write_bytes(data)
            self._orders.on_disk.discard(model.version)
            self._orders.disk_is_spoilt = True

    def attack(self, attack: Attack) -> None:
        """Damage the ledger as disks and people do."""
        wal = self._ledger_file.with_name("state.db-wal")
        target = wal if attack.how == "wal" and wal.exists() else self._ledger_file
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
        for file in self._ledger_file.parent.glob("state.db*"):
            file.unlink()

    def _picked(self, happening: Happening) -> Published | None:
        known = self._truth.published
        return known[happening.of % len(known)] if known else None

    def _links_of(self, path: Path) -> list[Path]:
        known = [
            f / rel for model in self._truth.published for f in folders_of(self._mirror, model) for rel, *_ in model.files
        ]
        return [each for each in known if each.exists() and each.samefile(path)]
