"""What a view shows, decided from what is published."""

import re

import pytest

from axomsync.mirror.appearance import Published, Repository, commit_of, link_of, repository_folder, repository_of

NAME = Published("org/bot", "/models/org%2Fbot", {"v1": "id1", "v2": "id2"}, "v2")


def test_a_name_with_versions() -> None:
    assert link_of(NAME) == "/models/org%2Fbot/current"
    snapshots = {commit_of("id1"): "/models/org%2Fbot/v1", commit_of("id2"): "/models/org%2Fbot/v2"}
    assert repository_of(NAME) == Repository(snapshots, commit_of("id2"))


def test_a_version_that_goes_is_left_first() -> None:
    assert repository_of(NAME.without("v1")) == Repository({commit_of("id2"): "/models/org%2Fbot/v2"}, commit_of("id2"))
    alone = NAME.without("v2")
    assert (link_of(alone), repository_of(alone).main) == (None, None), "nothing leads to what goes"
    assert NAME.without(None) == NAME


def test_no_version_shows_nothing() -> None:
    nothing = Published("bot", "/models/bot", {}, None)
    assert (link_of(nothing), repository_of(nothing)) == (None, Repository({}, None))


def test_the_hash_looks_like_a_commit_and_stays() -> None:
    assert re.fullmatch(r"[0-9a-f]{40}", commit_of("mdl_1"))
    assert commit_of("mdl_1") == "11f587ba001932a6e60d7a0745b6600e4cbb4907"
    assert commit_of("mdl_1") != commit_of("mdl_2")


@pytest.mark.parametrize(
    ("label", "folder"),
    [
        ("bot", "models--bot"),
        ("org/bot", "models--org--bot"),
        ("A_b.c-d", "models--A_b.c-d"),
        ("x" * 96, "models--" + "x" * 96),
        ("x" * 97, None),
        ("a b", None),
        ("org--bot", None),
        ("a..b", None),
        ("-bot", None),
        ("bot.", None),
        ("a/b/c", None),
        ("/bot", None),
        ("bot/", None),
        ("bot.git", None),
        ("é", None),
        ("bot\n", None),
        ("", None),
    ],
)
def test_labels_as_huggingface_hub_takes_them(label: str, folder: str | None) -> None:
    assert repository_folder(label) == folder
