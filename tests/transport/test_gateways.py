"""Which gateway is asked for which bytes, and under which URL."""

import itertools
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from axomsync.transport.gateways import BLOCK, block_end, owners, start_place, through

GATEWAYS = [f"http://box{number}:9080" for number in range(32)]


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://s3.example/b/k?X-Amz-Signature=1", "https/s3.example:443/b/k?X-Amz-Signature=1"),
        ("http://10.0.0.5:9000/b/k", "http/10.0.0.5:9000/b/k"),
        ("https://[fd00::1]:8333/b/k?a=%2F", "https/[fd00::1]:8333/b/k?a=%2F"),
        (
            "https://S3.example/b/a+b%20c%2Fd//e/./f/../g/é?x=a+b%2B",
            "https/s3.example:443/b/a+b%20c%2Fd//e/./f/../g/é?x=a+b%2B",
        ),
        ("https://s3.example?x=1", "https/s3.example:443/?x=1"),
        ("https://s3.example/b/k?x=/a?b#fragment", "https/s3.example:443/b/k?x=/a?b"),
    ],
)
def test_path_and_query_stay_as_they_were_signed(url: str, target: str) -> None:
    assert through("http://box1:9080", url) == f"http://box1:9080/{target}"


def test_no_request_crosses_a_block() -> None:
    assert block_end(0, 10) == 10
    assert block_end(0, 2 * BLOCK) == BLOCK
    assert block_end(BLOCK - 1, BLOCK + 1) == BLOCK
    assert block_end(BLOCK, BLOCK + 1) == BLOCK + 1


def test_all_boxes_find_the_same_owner_whatever_their_signature_and_the_order_of_their_list() -> None:
    mine = owners(GATEWAYS, "https://s3.example/b/k?X-Amz-Signature=1", 3 * BLOCK)
    assert owners(reversed(GATEWAYS), "https://S3.example/b/k?X-Amz-Signature=2&z", 4 * BLOCK - 1) == mine
    assert owners(GATEWAYS, "https://s3.example/b/k", 4 * BLOCK) != mine
    assert owners(GATEWAYS, "https://s3.example/b/l", 3 * BLOCK) != mine
    assert sorted(mine) == sorted(GATEWAYS)


def test_the_owners_share_the_work_and_a_lost_one_moves_only_its_own_blocks() -> None:
    blocks = [("https://s3.example/b/k", number * BLOCK) for number in range(3200)]
    before = {block: owners(GATEWAYS, *block) for block in blocks}
    counts = Counter(order[0] for order in before.values())
    assert min(counts.values()) > 60
    assert max(counts.values()) < 140
    lost, *left = GATEWAYS
    for block, order in before.items():
        assert owners(left, *block) == [gateway for gateway in order if gateway != lost]


@given(st.text(), st.integers(0, 2**40))
@example("http://[::1/x", 0)
def test_any_text_has_owners(url: str, position: int) -> None:
    """The console may give anything as a URL: its request says what is wrong, not the choice of its way."""
    assert sorted(owners(GATEWAYS, url, position)) == sorted(GATEWAYS)


def test_boxes_begin_at_places_of_their_own() -> None:
    places = sorted(start_place(f"box{number}", "model") for number in range(100))
    assert all(0 <= place < 1 for place in places)
    assert max(later - earlier for earlier, later in itertools.pairwise(places)) < 0.1
