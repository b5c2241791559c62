"""Gateways: caches in front of storage, and which of them to ask for which bytes. Pure.

A gateway is nginx with `deploy/gateway/nginx.conf`. It gets the signed URL as its path, so it asks storage with the very
signature that storage checks. An object is divided into blocks. Each block has an owner among the gateways, which every box
finds by itself: rendezvous hashing needs no table, and a change of the list moves only the blocks of the changed gateways.
"""

import hashlib
from collections.abc import Iterable
from urllib.parse import urlsplit

BLOCK = 256 * 1024 * 1024  # bytes; no request crosses the end of one

_DEFAULT_PORTS = {"http": 80, "https": 443}


def through(gateway: str, url: str) -> str:
    """The URL of the same object at a gateway: `<gateway>/<scheme>/<host>:<port>/<path>?<query>`.

    Path and query stay byte for byte what was signed: a signature covers them as they are sent.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    port = parts.port or _DEFAULT_PORTS[parts.scheme]
    return f"{gateway}/{parts.scheme}/{shown}:{port}{_divided(url)[1]}"


def block_end(position: int, end: int) -> int:
    """The end of a request that begins at `position` and wants bytes up to `end`: it stays within one block."""
    return min(end, (position // BLOCK + 1) * BLOCK)


def owners(gateways: Iterable[str], url: str, position: int) -> list[str]:
    """All gateways for the block of `position`: its owner, then the next ones. The signature in `url` does not count.

    `url` may be any text: whether it is a signed URL, its request finds out.
    """
    host, target = _divided(url)
    path = target.partition("?")[0]
    name = f"{host.lower()}\0{path}\0{position // BLOCK}"
    return sorted(gateways, key=lambda gateway: _score(gateway, name), reverse=True)


def start_place(box: str, model: str) -> float:
    """The place in a model where a box begins, as a share of it: so all gateways get work at once."""
    return int.from_bytes(_hash(f"{box}\0{model}"), "big") / 2.0**64


def _score(gateway: str, name: str) -> bytes:
    return _hash(f"{gateway}\0{name}")


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _divided(url: str) -> tuple[str, str]:
    """What follows the scheme of a URL: its host with the port, then its path and query."""
    rest = url.partition("://")[2]
    begin = min((place for mark in "/?#" if (place := rest.find(mark)) >= 0), default=len(rest))
    target = rest[begin:].partition("#")[0]
    return rest[:begin], target if target.startswith("/") else f"/{target}"
