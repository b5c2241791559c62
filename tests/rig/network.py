"""A private network between containers, which have none: each a name and an address, all of them one far side.

Owns a bridge in the first container and a cable from each other one to it; the kernel removes them with the containers. A
server on the first one's loopback is reached by all at the same place, so that signed URLs that name it are good everywhere.

Failures handled: none; a command that fails ends the test with what it said.
"""

import subprocess
from collections.abc import Iterable, Sequence

from tests.rig.container import Container

_FORWARDER = "/usr/lib/systemd/systemd-socket-proxyd"


def join(machines: Sequence[Container], ports: Iterable[int]) -> list[str]:
    """Connect the machines and return their names; `ports` of the first one's loopback are on the loopback of each."""
    names = [f"box{n}" for n in range(1, len(machines) + 1)]
    hosts = "".join(f"{_address(n)} {name}\n" for n, name in enumerate(names))
    for n, machine in enumerate(machines):
        machine.write("/etc/hosts", f"127.0.0.1 localhost\n{hosts}")
        card = "bridge"
        if n:
            card = "card"
            cable = ["link", "add", card, "type", "veth", "peer", "name", f"to-{names[n]}", "netns", str(machines[0].init)]
            _ip(machine, *cable)  # from outside: inside, nobody sees the other one's process
            _ip(machines[0], "link", "set", f"to-{names[n]}", "master", "bridge", "up")
        else:
            _ip(machine, "link", "add", card, "type", "bridge")
        _ip(machine, "address", "add", f"{_address(n)}/24", "dev", card)
        _ip(machine, "link", "set", card, "up")
        for port in ports:
            listen, target = f"127.0.0.1:{port}", f"{_address(0)}:{port}"
            _forward(machine, *((listen, target) if n else (target, listen)))
    return names


def _address(n: int) -> str:
    return f"10.99.0.{n + 1}"


def _ip(machine: Container, *arguments: str) -> None:
    subprocess.run(["nsenter", "-t", str(machine.init), "--net", "ip", *arguments], check=True)


def _forward(machine: Container, listen: str, target: str) -> None:
    unit = f"--unit=to-{target.replace(':', '-')}"
    machine.run("systemd-run", "--quiet", unit, f"--socket-property=ListenStream={listen}", _FORWARDER, target)
