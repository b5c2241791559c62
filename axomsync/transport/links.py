"""The number of connections that the network links of this machine are worth.

Object stores give one connection about 0.4 Gbit/s or more, so a link needs one for each. This is the most that may be
tried: lanes are added only while they pay.

Failures handled: links that are down or tell no speed (wireless, virtual, in most containers), a system without
`/sys/class/net`: the fewest connections.
"""

from pathlib import Path

MEGABITS_A_CONNECTION = 400
FEWEST, MOST = 16, 256


def connections_for_links(links: Path = Path("/sys/class/net")) -> int:
    """The number of connections for the fastest link that is up; `links` is the kernel's folder of them."""
    return min(max(fastest_link(links) // MEGABITS_A_CONNECTION, FEWEST), MOST)


def fastest_link(links: Path = Path("/sys/class/net")) -> int:
    """The speed of the fastest link that is up, in Mbit/s; 0 when none tells it."""
    return max(0, *map(_megabits, links.glob("*/speed")), 0)


def _megabits(speed: Path) -> int:
    try:
        return int(speed.read_text()) if speed.with_name("operstate").read_text().strip() == "up" else 0
    except (OSError, ValueError):
        return 0
