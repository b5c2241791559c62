"""The scene of one run: folders, the far side, a configuration, and what people, time and the console do there."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

from tests.rig.faults import FaultyServer
from tests.rig.gateway import Gateway
from tests.torture.box import Box
from tests.torture.damages import Damages
from tests.torture.disk import Disk
from tests.torture.evidence import Truth, folders_of
from tests.torture.far_side import FarSide
from tests.torture.orders import Orders
from tests.torture.steps import Happening
from tests.torture.worlds import Dropped, Published, World


class Scene:
    """The folders below `home`, and the `truth` about what was done there."""

    def __init__(
        self, home: Path, world: World, server: FaultyServer, disk: Disk, seed: int, gateways: Sequence[Gateway]
    ) -> None:
        self.home, self.data, self.world, self.disk = home, home / "data", world, disk
        self.ledger_file, self._mirror = self.data / "state" / "state.db", self.data / "mirror"
        for folder in (self.data / "drop", self._mirror, self.data / "view", home / "disk"):
            folder.mkdir()
        takes, dice = list(world.config["mirror"].get("files", ["*"])), Random(seed)
        self.truth = Truth(took=takes, takes=takes, refused=set(world.refused))
        self.far_side = FarSide(server, gateways, self.truth, self._mirror, dice)
        self.orders = Orders(self.truth, self._mirror)
        self.damages = Damages(home, self.truth, self.orders)
        self._box = Box(home, world, server.url, [gateway.url for gateway in gateways])
        self._waiting: list[Dropped | Published] = [*world.dropped, *world.published]
        dice.shuffle(self._waiting)
        self._box.make_gates()
        self._box.refuse(world.refused)
        self._box.configure(takes)

    def happen(self, happening: Happening) -> None:
        """Let it happen. Nothing happens when there is nothing that it could be done to."""
        name = happening.what.replace(" ", "_")
        place = next(each for each in (self, self.far_side, self.damages) if hasattr(each, name))
        getattr(place, name)(happening)
        self.disk.sync()

    @property
    def waiting(self) -> int:
        """How many files and versions are still to appear."""
        return len(self._waiting)

    def arrive(self, number: int) -> None:
        """So many of the world's files and versions appear."""
        for _ in range(number):
            one = self._waiting.pop()
            if isinstance(one, Published):
                self.far_side.publish(one)
                continue
            path = self.data / "drop" / one.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(one.data)
            self.truth.dropped.append(one)
        self.disk.sync()  # people sync what they drop

    def select_all(self, _: Happening) -> None:
        """`[mirror] files` takes all files."""
        self.truth.takes = ["*"]
        self._box.configure(self.truth.takes)

    def gate_opens(self, _: Happening) -> None:
        """The gate says yes to every version from now on."""
        self.truth.refused.clear()
        self._box.refuse(())

    def other_box(self) -> Path:
        """Another box is to mirror what there is onto the disk to import; returns its configuration."""
        self.orders.on_disk = {each.version for each in self.truth.published}
        return self._box.configure_other()

    def spoilt(self) -> set[tuple[str, str]]:
        """Files, by the console's id and path, whose durable bytes are no longer the right ones."""
        spoilt = set()
        for model in self.truth.published:
            folders = folders_of(self._mirror, model)
            is_removed = self.truth.ever_removed and not folders  # retention may have done so, and not yet said it
            for rel, *_ in model.files:
                is_damaged = any(folder / rel in self.truth.damaged for folder in folders)
                if is_removed or is_damaged or (model.version, rel) in self.truth.replaced:
                    spoilt.add((self.far_side.ids[model.version], rel))
        return spoilt
