"""The far side of one run: what the console lists, what storage has, and the gateways before it."""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from tests.rig.faults import Content, Fault, FaultyServer
from tests.rig.gateway import Gateway, flip_a_bit
from tests.torture.evidence import Truth, folders_of
from tests.torture.steps import Happening
from tests.torture.worlds import Published


class FarSide:
    """Console, storage and gateways. `mirror` is the box's folder: what is published there stays as it is."""

    def __init__(self, server: FaultyServer, gateways: Sequence[Gateway], truth: Truth, mirror: Path, dice: Random) -> None:
        self._server, self._gateways, self._truth, self._mirror, self._dice = server, gateways, truth, mirror, dice
        self.ids: dict[str, str] = {}  # version → the console's id
        self._one_at_a_time = threading.Lock()  # gateways come and go in threads of the server, too
        self._unlisted: list[tuple[int, dict[str, Any]]] = []

    def publish(self, one: Published) -> None:
        """The console lists a version."""
        files = {rel: Content(size, number) for rel, size, number in one.files}
        self.ids[one.version] = self._server.add_model(one.name, one.version, files, part_size=one.part, etag=one.etag)
        self._truth.published.append(one)

    def versions_of(self, keys: Iterable[str]) -> tuple[str, ...]:
        """The versions to which these objects of storage belong."""
        by_id = {identity: version for version, identity in self.ids.items()}
        return tuple(sorted({by_id[of] for key in keys if (of := key.split("/")[0]) in by_id}))

    # The console

    def grow(self, happening: Happening) -> None:
        """The list of a version gets one more file."""
        model = self._picked(happening)
        if model is None or model.version in self._truth.grown:
            return
        rel, size, number = "grown.json", self._dice.choice((0, 900, 70_000)), self._dice.getrandbits(30)
        identity = self.ids[model.version]
        key, content = f"{identity}/grown", Content(size, number)
        self._server.replace(key, content, part_size=model.part)
        self._server.manifests[identity].append({"rel": rel, "size": size, "key": key})
        self._truth.grown[model.version] = rel
        self._known_as(replace(model, files=(*model.files, (rel, size, number))))

    def replace(self, happening: Happening) -> None:
        """An object of a version that is not published here becomes another one of the same size."""
        model = self._picked(happening)
        if model is None or folders_of(self._mirror, model):
            return
        index = int(happening.place * len(model.files))
        rel, size, number = model.files[index]
        self._server.replace(
            self._server.key_of(self.ids[model.version], rel), Content(size, number + 1), part_size=model.part
        )
        self._truth.replaced.setdefault((model.version, rel), []).append((size, number))
        files = (*model.files[:index], (rel, size, number + 1), *model.files[index + 1 :])
        self._known_as(replace(model, files=files))

    def unlist(self, happening: Happening) -> None:
        """The console no longer lists a version."""
        model = self._picked(happening)
        if model is None or model.version in self._truth.unlisted:
            return
        index = next(n for n, document in enumerate(self._server.models) if document["id"] == self.ids[model.version])
        self._unlisted.append((index, self._server.models.pop(index)))
        self._truth.unlisted.add(model.version)
        self._truth.ever_removed = True

    def list_again(self, _: Happening) -> None:
        """The console lists all versions again."""
        while self._unlisted:
            self._server.models.insert(*self._unlisted.pop())
        self._truth.unlisted.clear()

    # Gateways

    def gateway_dies(self, happening: Happening) -> None:
        """A gateway is lost: now, or when storage was asked a few times more (`how` is "meanwhile")."""
        self._soon(happening, partial(self._end, self._gateways[happening.of % len(self._gateways)]))

    def gateway_comes(self, happening: Happening) -> None:
        """A gateway is there again."""
        gateway = self._gateways[happening.of % len(self._gateways)]
        self._end(gateway)
        self._soon(happening, partial(self._begin, gateway))

    def _end(self, gateway: Gateway) -> None:
        with self._one_at_a_time:
            gateway.kill()

    def _begin(self, gateway: Gateway) -> None:
        with self._one_at_a_time:
            gateway.kill()  # it may have come already
            gateway.start()

    def bits_flip(self, happening: Happening) -> None:
        """The disk of a gateway changes a bit in each slice of its cache."""
        for file in self._gateways[happening.of % len(self._gateways)].cached():
            flip_a_bit(file, self._dice)

    def _soon(self, happening: Happening, act: Callable[[], object]) -> None:
        if happening.how == "meanwhile":
            self._server.inject(Fault(first=act), "/bucket/", skip=int(happening.place * 20))
        else:
            act()

    def _picked(self, happening: Happening) -> Published | None:
        known = self._truth.published
        return known[happening.of % len(known)] if known else None

    def _known_as(self, model: Published) -> None:
        self._truth.published = [model if each.version == model.version else each for each in self._truth.published]
