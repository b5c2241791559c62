"""`[transfer] connections = "auto"`: the number that the links of a machine are worth."""

from pathlib import Path

import pytest

from axomsync.transport.links import connections_for_links


def link(folder: Path, name: str, speed: str, state: str = "up") -> None:
    (folder / name).mkdir()
    (folder / name / "speed").write_text(f"{speed}\n")
    (folder / name / "operstate").write_text(f"{state}\n")


@pytest.mark.parametrize(
    ("megabits", "connections"), [("1000", 16), ("10000", 25), ("25000", 62), ("100000", 250), ("400000", 256), ("-1", 16)]
)
def test_connections_follow_the_speed_of_the_link(tmp_path: Path, megabits: str, connections: int) -> None:
    link(tmp_path, "eth0", megabits)
    assert connections_for_links(tmp_path) == connections


def test_connections_follow_the_fastest_link_that_is_up(tmp_path: Path) -> None:
    link(tmp_path, "eth0", "25000")
    link(tmp_path, "eth1", "100000", "down")
    link(tmp_path, "wlan0", "nonsense")
    (tmp_path / "veth").mkdir()
    (tmp_path / "veth" / "speed").mkdir()  # reading it fails, as for a virtual link
    assert connections_for_links(tmp_path) == 62


def test_connections_are_the_fewest_where_no_link_is_known(tmp_path: Path) -> None:
    assert connections_for_links(tmp_path) == 16
    assert connections_for_links(tmp_path / "nothing") == 16
