"""Stories: what people and the console do between the lives of a world, by name. Pure.

A story changes its world, so that the story can happen in it, and tells the steps of a run in which nothing goes wrong.
"""

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


STORIES: dict[str, Callable[[Random, World], Told]] = {
    "extension": _extension,
    "replaced": _replaced,
    "retention": _retention,
    "repair": _repair,
}
