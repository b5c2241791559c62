"""Damage in the caches of gateways: one flipped bit, in each of many cache files, and no box publishes it."""

import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.mirror.inprocess import MirrorHere
from tests.mirror.test_faults import published
from tests.rig.faults import Content, FaultyServer
from tests.rig.gateway import Gateway, flip_a_bit

KIB = 1 << 10
FILES = {f"part-{number}.bin": Content(2048 * KIB + number, seed=number) for number in range(5)}
TOTAL = sum(content.size for content in FILES.values())
DAMAGED = 20
ODD_PART = 700_001  # no tool's part size, so nothing proves such an object


@pytest.fixture
def ring(tmp_path: Path, server: FaultyServer) -> Iterator[list[Gateway]]:
    """Three gateways with small slices: about 40 cache files."""
    with ExitStack() as stack:
        made = []
        for number in range(3):
            gateway = Gateway(tmp_path / f"gateway{number}", [server.endpoint])
            gateway.edit("slice 8m", "slice 256k")
            made.append(stack.enter_context(gateway))
        yield made


def warm_and_damaged(
    tmp_path: Path, server: FaultyServer, gateways: list[Gateway], *, in_body: bool = True
) -> list[Gateway]:
    """Have one box fill the caches, and flip one bit in each of 20 cache files; returns the gateways that have some."""
    first = MirrorHere(tmp_path / "first", server)
    first.gateways = [gateway.url for gateway in gateways]
    first.sync()
    chance = random.Random(7)
    files = [(gateway, file) for gateway in gateways for file in gateway.cached()]
    chosen = chance.sample(files, DAMAGED)
    for _, file in chosen:
        flip_a_bit(file, chance, in_body=in_body)
    server.requests.clear()
    return list({id(gateway): gateway for gateway, _ in chosen}.values())


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    ("part_size", "copies"),
    [
        pytest.param(None, 1, id="plain"),
        pytest.param(1 << 20, 1, id="composite"),
        pytest.param(ODD_PART, 2, id="odd parts"),
    ],
)
def test_a_flipped_bit_is_never_published_and_its_gateway_is_named(
    tmp_path: Path,
    server: FaultyServer,
    ring: list[Gateway],
    mirror: MirrorHere,
    part_size: int | None,
    count: int,
    copies: int,
) -> None:
    model_id = server.add_model("chassis", "v1", FILES, part_size=part_size)
    guilty = warm_and_damaged(tmp_path, server, ring[:count])
    mirror.gateways = [gateway.url for gateway in ring[:count]]
    mirror.lanes = 1  # what one lane takes over from a late one may be sent twice, and bytes are counted here
    mirror.sync()
    published(mirror, model_id, FILES)
    (told,) = mirror.told
    assert all(f"{gateway.url}: it gave wrong bytes of part-" in told for gateway in guilty)
    assert mirror.ring.totals()["wrong"] > 0
    assert server.sent() < (copies + (0.2 if count == 1 else 1.2)) * TOTAL


def test_a_flipped_bit_among_the_headers_stops_no_model(
    tmp_path: Path, server: FaultyServer, ring: list[Gateway], mirror: MirrorHere
) -> None:
    model_id = server.add_model("chassis", "v1", FILES)
    warm_and_damaged(tmp_path, server, ring, in_body=False)
    mirror.gateways = [gateway.url for gateway in ring]
    mirror.sync()
    published(mirror, model_id, FILES)


@pytest.mark.parametrize("count", [1, 3])
def test_what_nothing_proves_is_compared_with_a_copy_that_came_another_way(
    server: FaultyServer, ring: list[Gateway], mirror: MirrorHere, count: int
) -> None:
    model_id = server.add_model("chassis", "v1", FILES, part_size=ODD_PART)
    mirror.gateways = [gateway.url for gateway in ring[:count]]
    mirror.sync()
    published(mirror, model_id, FILES)
    assert mirror.told == []
    assert 2 * TOTAL <= server.sent() < 2.2 * TOTAL  # of what a thief takes over, some is sent twice


def test_a_part_size_that_a_sibling_proved_needs_no_second_copy(
    server: FaultyServer, gateway: Gateway, mirror: MirrorHere
) -> None:
    """What one file of a model proved is a proof for the others, with parts that no tool would make too."""
    one_part = {"a.bin": Content(ODD_PART, seed=1), "b.bin": Content(3 * ODD_PART + 5, seed=2)}
    model_id = server.add_model("chassis", "v1", one_part, part_size=ODD_PART)
    mirror.gateways = [gateway.url]
    mirror.sync()
    published(mirror, model_id, one_part)
    assert set(mirror.proofs(model_id).values()) == {"proven"}
    assert server.sent() < 1.01 * sum(content.size for content in one_part.values())


def test_with_size_as_the_only_check_no_second_copy_is_asked_for(
    server: FaultyServer, gateway: Gateway, mirror: MirrorHere
) -> None:
    model_id = server.add_model("chassis", "v1", FILES, part_size=ODD_PART)
    mirror.gateways, mirror.settings = [gateway.url], {"verify": "size"}
    mirror.sync()
    published(mirror, model_id, FILES)
    assert server.sent() < 1.01 * TOTAL
