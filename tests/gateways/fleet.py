"""A fleet in network namespaces: storage, and boxes with an agent each, all behind links of a known speed.

Every box is a namespace with one veth to a bridge, shaped in both directions (tbf); storage is one more. Gateways are real
nginx in the namespaces of the boxes, agents are processes. All of it is gone with the block, and nothing outside sees it.
"""

import ctypes
import os
import secrets
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.rig.agent import AgentProcess, eventually
from tests.rig.faults import KEY, Content, FaultyServer
from tests.rig.gateway import Gateway

T = TypeVar("T")

ORIGIN = "10.77.0.1"
PORT = 9080
CLONE_NEWNET = 0x40000000


def in_namespace(name: str, call: Callable[[], T]) -> T:
    """The result of `call` in a network namespace, made in a thread of its own: sockets stay where they were made."""
    results: list[T] = []

    def work() -> None:
        with open(f"/run/netns/{name}") as namespace:
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.setns(namespace.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        results.append(call())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return results[0]


class Fleet:
    """`boxes` agents, the first `gateways` of them with a gateway; rates are bytes a second of storage's and of their links.

    `connection`: the most that storage gives one connection.
    """

    def __init__(
        self,
        home: Path,
        boxes: int,
        gateways: int,
        *,
        storage: float,
        link: float,
        connection: float | None = None,
        lifetime: int = 900,
        slice_size: str = "8m",
    ) -> None:
        self._home, self._boxes, self._count, self._slice = home, boxes, gateways, slice_size
        self._storage, self._link, self._connection, self._lifetime = storage, link, connection, lifetime
        self._tag = f"axg{secrets.token_hex(2)}"
        self._stack = ExitStack()
        self.gateways: list[Gateway] = []
        self.agents: list[AgentProcess] = []

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()
        if error is None:
            shutil.rmtree(self._home)  # many boxes hold many bytes

    def publish(self, files: Mapping[str, Content]) -> str:
        """List a model in the console; returns its id."""
        return self.server.add_model("chassis", "v1", files)

    def wait(self, patience: float, watch: Callable[[], object] = lambda: None) -> float:
        """Wait until every box has published the model; returns the seconds that it took. `watch` is called meanwhile."""
        began = time.monotonic()
        left = list(self.agents)
        while left:
            watch()
            left = [agent for agent in left if not (agent.mirror / "chassis/v1/.axomsync.json").exists()]
            late = time.monotonic() - began > patience
            assert not late, f"{len(left)} of {self._boxes} are not done; {left[0].status()}"
            time.sleep(0.1)
        return time.monotonic() - began

    def faults(self, files: Mapping[str, Content]) -> list[str]:
        """Where any box has other bytes than these."""
        paths = ((content, agent.mirror / "chassis/v1" / rel) for agent in self.agents for rel, content in files.items())
        return [fault for content, path in paths if (fault := content.fault_in(path)) is not None]

    def logs_with(self, secret: str) -> list[str]:
        """Logs of agents and gateways that hold a text."""
        texts = {gateway.url: gateway.all_logged() for gateway in self.gateways}
        texts |= {str(agent.log_file): agent.log() for agent in self.agents}
        return [name for name, text in texts.items() if secret in text]

    # How it is built

    def _build(self) -> None:
        switch = self._namespace("switch")
        self._ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        self._ip("-n", switch, "link", "set", "bridge", "up")
        origin = self._box("origin", ORIGIN, self._storage, switch)
        listener = in_namespace(origin, lambda: socket.create_server((ORIGIN, 0), backlog=4096))
        self.server = self._stack.enter_context(FaultyServer(listener))
        self.server.rate, self.server.url_lifetime = self._connection, self._lifetime
        names = [self._box(f"b{number}", _address(number), self._link, switch) for number in range(self._boxes)]
        for number, name in enumerate(names[: self._count]):
            self._start_gateway(number, name)
        for gateway, name in zip(self.gateways, names, strict=False):
            in_namespace(name, gateway.wait_until_it_listens)
        for number, name in enumerate(names):
            self._start_agent(number, name)
        for agent in self.agents:
            eventually("a running agent", agent._runs, patience=180)

    def _start_gateway(self, number: int, name: str) -> None:
        address = _address(number)
        gateway = Gateway(
            self._home / f"gateway{number}", [self.server.endpoint], listen=f"{address}:{PORT}", address=address,
            prefix=("ip", "netns", "exec", name),
        )  # fmt: skip
        gateway.edit("slice 8m", f"slice {self._slice}")
        self.gateways.append(self._stack.enter_context(gateway))

    def _start_agent(self, number: int, name: str) -> None:
        config: dict[str, Any] = {
            "drop": {"enabled": False},
            "mirror": {"poll": "1s", "reserve": "0B"},
            "transfer": {
                "gateways": [gateway.url for gateway in self.gateways],
                "allow_http": True,
                "connections": 16,
                "stall": "30s",
            },
        }
        agent = AgentProcess(self._home / f"box{number}", self.server.url, KEY, config)
        self.agents.append(self._stack.enter_context(agent))
        agent.launch("run", prefix=("ip", "netns", "exec", name))

    def _box(self, what: str, address: str, rate: float, switch: str) -> str:
        name = self._namespace(what)
        self._ip("link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", what, "netns", switch)
        self._ip("-n", switch, "link", "set", what, "master", "bridge", "up")
        self._ip("-n", name, "address", "add", f"{address}/16", "dev", "eth0")
        self._ip("-n", name, "link", "set", "eth0", "up")
        self._ip("-n", name, "link", "set", "lo", "up")
        for namespace, device in ((name, "eth0"), (switch, what)):
            shape = ("rate", f"{int(rate * 8)}bit", "burst", "256k", "latency", "200ms")
            _run("tc", "-n", namespace, "qdisc", "add", "dev", device, "root", "tbf", *shape)
        return name

    def _namespace(self, what: str) -> str:
        name = f"{self._tag}-{what}"
        self._ip("netns", "add", name)
        self._stack.callback(_forget, name)
        return name

    def _ip(self, *arguments: str) -> None:
        _run("ip", *arguments)


def _address(number: int) -> str:
    return f"10.77.{1 + number // 200}.{1 + number % 200}"


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr}"


def _forget(namespace: str) -> None:
    with suppress(AssertionError):
        _run("ip", "netns", "delete", namespace)


def when(reached: Callable[[], bool], then: Callable[[], object]) -> Callable[[], None]:
    """What calls `then` once, as soon as `reached`."""
    done: list[bool] = []

    def look() -> None:
        if not done and reached():
            done.append(True)
            then()

    return look


def kill(gateways: Sequence[Gateway]) -> None:
    """End these gateways at once."""
    for gateway in gateways:
        gateway.kill()
