"""Stories: what people and the console do between the lives of a world, by name. Pure.

A story changes its world, so that the story can happen in it, and tells the steps of a run in which nothing goes wrong.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from tests.torture.steps import Happening, Step
from tests.torture.worlds import World, some_published, world_of

Told = tuple[World, tuple[Step, ...]]
DAMAGES = ("flip", "flip", "zero", "cut", "longer", "remove")


def told(number: int, name: str) -> Told:
    """The world of this number, as the story needs it, and the steps of the story; "" is the story of one pass."""
    if not name:
        return world_of(number), (Step(),)
    dice = Random(f"{name} {number}")
    world = world_of(number)
    if not world.published:
        world = replace(world, published=tuple(some_published(dice)))
    return STORIES[name](dice, world)


def _set(world: World, section: str, **values: Any) -> World:
    return replace(world, config={**world.config, section: world.config.get(section, {}) | values})


def _numbered(*steps: Step) -> tuple[Step, ...]:
    return tuple(replace(step, like=index) for index, step in enumerate(steps))


def _extension(dice: Random, world: World) -> Told:
    """`[mirror] files` takes only some files of each version, then all; the lists of some have grown meanwhile."""
    published = tuple(replace(each, files=(("0.bin", *each.files[0][1:]), *each.files[1:])) for each in world.published)
    grows = tuple(Happening("grow", n, dice.random()) for n in range(len(published)) if dice.random() < 0.5)
    world = _set(replace(world, published=published), "mirror", files=["*.bin"])
    return world, _numbered(Step(), Step(happens=(*grows, Happening("select all"))))


def _replaced(dice: Random, world: World) -> Told:
    """Objects of some versions are replaced under their keys, while these are fetched or after."""
    world = _set(
        replace(world, published=tuple(replace(each, etag=True) for each in world.published)), "mirror", verify="etag"
    )
    changes = [Happening("replace", dice.randrange(9), dice.random()) for _ in range(3)]
    return world, _numbered(Step(), Step(happens=tuple(changes[:2])), Step(happens=tuple(changes[2:])))


def _retention(dice: Random, world: World) -> Told:
    """Versions come, and some are taken from the list; `keep` and `keep_gone` remove what they say."""
    while len(world.published) < 3:
        more = tuple(replace(each, version=f"v{len(world.published)}") for each in list(some_published(dice))[:1])
        world = replace(world, published=world.published + more)
    one_name = dice.random() < 0.7
    world = replace(world, published=tuple(replace(p, name="chassis" if one_name else p.name) for p in world.published))
    world = _set(world, "mirror", keep=dice.choice((0, 1, 2)), keep_gone=dice.random() < 0.3)
    first = Step(happens=tuple(Happening("unlist", dice.randrange(9)) for _ in range(dice.choice((1, 1, 2)))))
    again = Step(happens=(Happening("list again"),)) if dice.random() < 0.5 else Step()
    return world, _numbered(Step(), first, again)


def _repair(dice: Random, world: World) -> Told:
    """Published files are damaged on disk, and `verify --repair` fetches what is damaged again."""
    if dice.random() < 0.5:  # a file that two versions share
        shared = ("shared.bin", 70_000, dice.getrandbits(30))
        published = tuple(replace(each, name="chassis", etag=True, files=(*each.files, shared)) for each in world.published)
        world = replace(world, published=published)
    damages = tuple(
        Happening("damage", dice.randrange(9), dice.random(), dice.choice(DAMAGES)) for _ in range(dice.choice((1, 2, 4)))
    )
    return world, _numbered(Step(), Step(verb=("verify", "--repair"), happens=damages))


def _of_one_name(dice: Random, world: World) -> World:
    """The world with two or three versions, of one name."""
    published = list(world.published)
    while len(published) < 2:
        published.append(replace(next(some_published(dice)), version=f"v{len(published)}"))
    return replace(world, published=tuple(replace(each, name="chassis") for each in published))


def _promotion(dice: Random, world: World) -> Told:
    """`current` moves when a person says so, and views follow it."""
    world = _set(_of_one_name(dice, world), "mirror", promote="manual", views=[f"{dice.choice(('flat', 'hf'))}:VIEW"])
    some = dice.choice(world.published).version
    orders = [("promote", "chassis"), ("rollback", "chassis", some), ("unpin", "chassis"), ("promote", "chassis", some)]
    first = orders[0] if dice.random() < 0.7 else orders[3]
    more = dice.choice((orders[1:3], orders[1:2], orders[3:]))
    return world, _numbered(Step(), Step(verb=first), Step(), *(Step(verb=order) for order in more))


def _gates(dice: Random, world: World) -> Told:
    """Gates say no to some versions and files; later they say yes to the versions."""
    world = _of_one_name(dice, world)
    refused = tuple(each.version for each in world.published if dice.random() < 0.5)
    contents = [file.content for file in world.dropped if file.content is not None and dice.random() < 0.4]
    secrets = tuple(json.loads(content.split(b"\n")[0])["text"].split()[0] for content in contents)
    dropped = tuple(
        replace(file, content=None) if any(word.encode() in (file.content or b"") for word in secrets) else file
        for file in world.dropped
    )
    world = replace(world, refused=refused, secrets=secrets, dropped=dropped)
    world = _set(world, "hooks", before_publish=["HOME/refuse-version"], before_upload=["HOME/refuse-file"])
    opens = (Step(happens=(Happening("gate opens"),)), Step(verb=("retry",))) if dice.random() < 0.5 else ()
    return world, _numbered(Step(), Step(), *opens)


def _import(dice: Random, world: World) -> Told:
    """Models come on a disk; `import` takes them. Some bytes of that disk may be wrong."""
    spoils = (Happening("spoil disk", dice.randrange(9), dice.random()),) if dice.random() < 0.3 else ()
    begun = (Step(),) if dice.random() < 0.3 else ()  # a download under way
    taken = (Step(verb=("import", "DISK"), happens=(Happening("disk comes"), *spoils)), Step())
    return world, _numbered(*begun, *taken)


def _gateways(dice: Random, world: World) -> Told:
    """Models come through gateways, which are lost and come back, and whose disks change bits."""
    published = tuple(replace(each, etag=True) for each in world.published)
    world = _set(replace(world, published=published, gateways=2), "mirror", verify="etag")
    whats = ("gateway dies", "gateway dies", "gateway comes", "bits flip")

    def some() -> tuple[Happening, ...]:
        return tuple(
            Happening(dice.choice(whats), dice.randrange(2), dice.random(), dice.choice(("", "meanwhile")))
            for _ in range(dice.choice((1, 2, 3)))
        )

    again = (Happening("forget models"), *some())  # so all comes through the caches again
    return world, _numbered(Step(happens=some()), Step(happens=again), Step(happens=some()))


STORIES: dict[str, Callable[[Random, World], Told]] = {
    "extension": _extension,
    "replaced": _replaced,
    "retention": _retention,
    "repair": _repair,
    "promotion": _promotion,
    "gates": _gates,
    "import": _import,
    "gateways": _gateways,
}
