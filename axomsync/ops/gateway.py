"""Places a gateway on this machine: nginx with the shipped configuration, as a service of its own.

The lines that differ from place to place are filled in: the hosts of storage, the address to listen at, who may ask, where
names are resolved. The file is written whole at each call, since its command line says all of it; each step is echoed.

Failures handled, all as `LocalFault` with the remedy: no root, no nginx, an nginx that can't use the configuration, no
name server, a host that can't be one, a file that can't be written.
"""

import ipaddress
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from axomsync.config import parse_size
from axomsync.core.errors import LocalFault
from axomsync.core.hosts import host_fault
from axomsync.core.oserrors import local_fault
from axomsync.core.text import printable
from axomsync.ops.service import (
    PACKAGED_UNIT,
    SHIPPED,
    SYSTEM_UNITS,
    demand_root,
    is_active,
    machine_manager,
    place,
    reload_units,
    remove,
)

SHIPPED_CONFIGURATION = Path(__file__).parent / "gateway_files" / "nginx.conf"  # the checkout's deploy/gateway/
CONFIGURATION = Path("/etc/axomsync-gateway/nginx.conf")
UNIT = "axomsync-gateway.service"
CACHE = "/var/cache/axomsync-gateway"
RUNTIME = "/run/axomsync-gateway"
NGINX = "/usr/sbin/nginx"
RESOLV_CONF = Path("/etc/resolv.conf")
NEEDS_ROOT = "a gateway is a service of the machine, which is root's: use sudo"
DEFAULT_LISTEN = "9080"
DEFAULT_ROOM = "50GiB"

Echo = Callable[[str], object]


@dataclass(frozen=True)
class Place:
    """What differs from place to place. `near`: networks that may ask; None for private ones. `room`: size of the cache."""

    hosts: Sequence[str]
    listen: str = DEFAULT_LISTEN
    near: Sequence[str] | None = None
    resolvers: Sequence[str] = ()
    room: str = DEFAULT_ROOM
    cache: str = CACHE
    runtime: str = RUNTIME


def configuration(place: Place, shipped: str) -> str:
    """Return the `shipped` configuration with the lines of this place. Raises `LocalFault`."""
    hosts = "".join(f"        {_allowed(host)} 1;\n" for host in dict.fromkeys(place.hosts))
    text = _replaced(shipped, r' *"https://storage\.example:443" 1;\n', hosts)
    if place.near is not None:
        near = "".join(f"        {_network(one)} 1;\n" for one in ("127.0.0.0/8", "::1", *place.near))
        text = _replaced(text, r"(?<=geo \$is_near \{\n        default 0;\n)[^}]*(?=    \})", near)
    resolvers = " ".join(f"[{one}]" if ":" in one else one for one in place.resolvers)
    resolver = f"    resolver {resolvers} valid=30s;\n" if resolvers else ""
    text = _replaced(text, r" *resolver 127\.0\.0\.53 valid=30s;\n", resolver)
    text = _replaced(text, r"(?<=listen )9080(?=;)", _listen(place.listen))
    text = _replaced(text, r"(?<= max_size=)50g(?= )", _room(place.room))
    return text.replace(CACHE, place.cache).replace(RUNTIME, place.runtime)


def name_servers(resolv_conf: str) -> list[str]:
    """Return the name servers in the text of /etc/resolv.conf."""
    found = (match[1] for match in re.finditer(r"^\s*nameserver\s+(\S+)", resolv_conf, re.MULTILINE))
    return [server for server in found if _is_address(server)]


def install(hosts: Sequence[str], listen: str, near: Sequence[str] | None, room: str, echo: Echo) -> None:
    """Place the configuration and the unit of a gateway for these hosts of storage."""
    demand_root(NEEDS_ROOT)
    if not Path(NGINX).exists():
        raise LocalFault(f"{NGINX}: nginx is missing; apt-get install nginx-light, then again")
    resolvers = name_servers(_read(RESOLV_CONF))
    if not resolvers and not all(_is_address(_parts(host)[1].strip("[]")) for host in hosts):
        raise LocalFault(f"{RESOLV_CONF}: it names no name server, and nginx asks only those; name storage by address")
    shipped = _read(SHIPPED_CONFIGURATION)
    chosen = Place(hosts, listen or DEFAULT_LISTEN, near, resolvers, room or DEFAULT_ROOM)
    _demand_accepted(chosen, shipped)
    echo(f"{NGINX}: can use the configuration")
    changed = place(CONFIGURATION, configuration(chosen, shipped), echo)
    if not PACKAGED_UNIT.with_name(UNIT).exists():  # the Debian package has it in place
        changed |= place(SYSTEM_UNITS / UNIT, (SHIPPED / UNIT).read_text(), echo)
    echo(f"storage that it may ask: {', '.join(_shown(host) for host in chosen.hosts)}")
    manager = machine_manager()
    if changed and reload_units(manager, echo) and is_active(manager, UNIT):
        echo("the running gateway is still the old one; systemctl reload-or-restart axomsync-gateway")
    echo("\nWhat remains:")
    echo("  systemctl enable --now axomsync-gateway")
    echo("  systemctl disable --now nginx     # the one that Debian starts at port 80, if nothing else needs it")
    port = chosen.listen.rpartition(":")[2]
    echo(f'  [transfer] gateways = ["http://BOX:{port}", …]     # in config.toml of every box, the same list')


def uninstall(echo: Echo) -> None:
    """Stop the gateway, and remove its unit, configuration and cache."""
    demand_root(NEEDS_ROOT)
    remove(UNIT, (SYSTEM_UNITS / UNIT, CONFIGURATION), machine_manager(), echo)
    if Path(CACHE).exists():
        try:
            shutil.rmtree(CACHE)
        except OSError as error:
            raise local_fault(error, error.filename or CACHE) from None
        echo(f"{CACHE}: removed")


def _demand_accepted(place: Place, shipped: str) -> None:
    """Have nginx check the configuration, away from its place: a check makes the folders that it names."""
    with tempfile.TemporaryDirectory(prefix="axomsync-gateway-") as folder:
        tried = Path(folder) / "nginx.conf"
        elsewhere = replace(place, cache=folder, runtime=folder)
        tried.write_text(configuration(elsewhere, shipped))
        done = subprocess.run([NGINX, "-e", "stderr", "-t", "-c", str(tried)], capture_output=True, text=True, check=False)
    if done.returncode:
        said = next((line for line in done.stderr.splitlines() if "[emerg]" in line), done.stderr.strip())
        raise LocalFault(
            f"{NGINX}: it can't use the configuration: {said}; apt-get install nginx-light has all that it needs"
        )


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise local_fault(error, str(path)) from None


def _parts(host: str) -> tuple[str, str, str]:
    """Scheme, name and port of a host of storage, as `storage.example`, `storage.example:9000` or `http://10.0.0.5:9000`."""
    match = re.fullmatch(r"(?:(https?)://)?((?:\*\.)?[A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\])(?::(\d{1,5}))?/?", host)
    if match is None or host_fault(match[2]) is not None:
        raise LocalFault(
            f"{printable(host)}: this is not a host of storage; write it like storage.example, *.storage.example or "
            "http://10.0.0.5:9000"
        )
    scheme = match[1] or "https"
    return scheme, match[2].lower(), match[3] or ("443" if scheme == "https" else "80")


def _shown(host: str) -> str:
    scheme, name, port = _parts(host)
    return f"{scheme}://{name}:{port}"


def _allowed(host: str) -> str:
    """A host as the configuration's map names it; a `*` stands for what comes before the rest of the name."""
    scheme, name, port = _parts(host)
    if not name.startswith("*."):
        return f'"{scheme}://{name}:{port}"'
    rest = re.escape(name.removeprefix("*"))
    return f'"~^{scheme}://[a-z0-9._-]+{rest}:{port}$"'


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise LocalFault(f"{printable(text)}: this is not a network; write it like 10.0.0.0/8") from None


def _listen(text: str) -> str:
    if not re.fullmatch(r"(?:(?:[0-9.]+|\[[0-9a-fA-F:.]+\]):)?\d{1,5}", text):
        raise LocalFault(f"{printable(text)}: this is nothing to listen at; write it like 10.0.0.5:9080, or 9080")
    return text


def _room(text: str) -> str:
    """A size as nginx writes it, from one such as `200GB`."""
    try:
        mebibytes = parse_size(text) >> 20
    except ValueError:
        mebibytes = 0
    if not mebibytes:
        raise LocalFault(f"{printable(text)}: this is no room for a cache; write it like 200GB")
    return f"{mebibytes}m"


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


def _replaced(text: str, pattern: str, value: str) -> str:
    found, count = re.subn(pattern, lambda match: value, text)
    if count != 1:
        raise LocalFault(f"{SHIPPED_CONFIGURATION}: it was changed: {pattern} is not in it once; install axomsync again")
    return found
