"""Many environments for the verbs `run`, `sync`, `status` and `doctor`: run as `python -m tests.rig.surroundings`.

Meant for a network namespace that has loopback alone, without IPv6: what the environments name is asked for. The
console is `console.test` over TLS, which only the proxies here lead to. Each verb is a fork of this process, which has
imported everything before, in an installation of its own below the folder that is the argument; what came of it goes to
standard output as JSON: environment → verb → exit code and all that was said.
"""

import ctypes
import errno
import json
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import axomsync.agent.agent
import axomsync.cli.tables
import axomsync.console.client
import axomsync.console.session
import axomsync.ops.doctor
import axomsync.runtime.schedule
import axomsync.web.page
import axomsync.web.server  # noqa: F401  # once, instead of in each fork
from axomsync.cli import main
from tests.rig.faults import KEY, FaultyServer
from tests.rig.tls import Authority, ConnectProxy, SocksProxy, TlsFront, TurnedAway

NAME = "console.test"
SECRET = "geheim"
NOBODY = 54321  # has no passwd entry
AT_ONCE = 12
PATIENCE_SECONDS = 30.0
VERBS = {"run": ("run",), "sync": ("sync",), "doctor": ("doctor", "--no-write", "--json")}


@dataclass(frozen=True)
class Surrounding:
    """`environ` is added to an empty environment; `config` to a configuration, None is for no file at all."""

    environ: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Mapping[str, object]] | None = field(default_factory=dict)
    prepare: Callable[[], object] = lambda: None  # in the fork


def surroundings(places: Mapping[str, str]) -> dict[str, Surrounding]:
    connect, socks = places["connect"], places["socks"]
    good = {"HTTPS_PROXY": f"http://{connect}"}
    own = {"console": {"ca_file": places["ca"]}}
    proxies: dict[str, dict[str, str]] = {
        "a proxy": good,
        "a proxy in lower case": {"https_proxy": f"http://{connect}/", "HTTPS_PROXY": "http://127.0.0.1:9"},
        "a SOCKS proxy": {"ALL_PROXY": f"socks5h://{socks}"},
        "what container runtimes set": {**good, "NO_PROXY": "localhost,127.0.0.1,::1/128,.svc,10.0.0.0/8"},
        "a proxy without scheme": {"https_proxy": connect},
        "a proxy with a password": {"HTTPS_PROXY": f"http://me:{SECRET}@{connect}"},
        "an exception": {**good, "no_proxy": f"*.{NAME.partition('.')[2]}"},
        "a proxy that is none": {"https_proxy": f"://{SECRET}"},
        "a port that is none": {"HTTPS_PROXY": f"http://me:{SECRET}@127.0.0.1:99999"},
        "a proxy that is not there": {"HTTPS_PROXY": f"http://me:{SECRET}@127.0.0.1:9"},
        "a proxy that wants a password": {"HTTPS_PROXY": f"http://{places['407']}"},
        "a proxy that refuses": {"HTTPS_PROXY": f"http://me:{SECRET}@{places['502']}"},
        "a proxy that hangs up": {"ALL_PROXY": f"http://{places['closes']}"},
        "a SOCKS proxy of version 4": {"all_proxy": f"socks4://{socks}"},
    }
    nowhere = {"SSL_CERT_FILE": "/nowhere", "SSL_CERT_DIR": "/nowhere"}
    stores = {
        "no authorities": Surrounding({**good, **nowhere}),
        "no authorities but one's own": Surrounding({**good, **nowhere}, own),
        "certificates that are none": Surrounding({**good, "SSL_CERT_FILE": places["key"]}, own),
        "certificates without an end": Surrounding({**good, "SSL_CERT_FILE": "/dev/zero"}, own),
        "an authority without an end": Surrounding(good, {"console": {"ca_file": "/dev/zero"}}),
        "an authority that is not there": Surrounding(good, {"console": {"ca_file": "/nowhere/ca.pem"}}),
        "an authority that is a key": Surrounding(good, {"console": {"ca_file": places["key"]}}),
    }
    by_name = {
        "AXOMSYNC_CONSOLE__URL": f"https://{NAME}/api",
        "AXOMSYNC_CONSOLE__CA_FILE": places["ca"],
        "AXOMSYNC_STATE__FOLDER": "HOME/state",
        "AXOMSYNC_DROP__FOLDER": "HOME/drop",
        "AXOMSYNC_DROP__SETTLE": "100ms",
        "AXOMSYNC_MIRROR__FOLDER": "HOME/models",
        "AXOMSYNC_MIRROR__RESERVE": "1MiB",
        "AXOMSYNC_WEB__LISTEN": "",
        "AXOMSYNC_MIRROR_POL": "5m",
    }
    others = {
        "a user without a name or a home": Surrounding(good, own, _become_nobody),
        "an address of IPv6, where there is none": Surrounding(good, {**own, "web": {"listen": "[::1]:9464"}}),
        "a kernel without IPv6": Surrounding(
            good, {**own, "web": {"listen": "[::]:9464", "token_file": "HOME/token"}}, _lose_ipv6
        ),
        "a port that is taken": Surrounding(good, {**own, "web": {"listen": places["taken"]}}),
        "closed descriptors": Surrounding(good, own, lambda: [os.close(descriptor) for descriptor in (0, 1, 2)]),
        "an output that is full": Surrounding(good, own, lambda: os.dup2(os.open("/dev/full", os.O_WRONLY), 1)),
        "no terminal, language or zone": Surrounding(
            {**good, "TERM": "dumb", "LANG": "C", "LC_ALL": "C", "TZ": "Middle/Nowhere", "PYTHONUTF8": "0"}, own, time.tzset
        ),
        "no folder for temporary files": Surrounding({**good, "TMPDIR": "/nowhere", "TERM": ""}, own),
        "nothing but the environment": Surrounding({**good, **by_name}, None),
    }
    return {**{name: Surrounding(environ, own) for name, environ in proxies.items()}, **stores, **others}


def _become_nobody() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def _lose_ipv6() -> None:
    """Have the kernel answer `socket(AF_INET6, ...)` as one without IPv6 does, see seccomp(2)."""
    load, equal, end = 0x20, 0x15, 0x06  # of the Berkeley packet filter
    allowed, refused = 0x7FFF0000, 0x00050000 | errno.EAFNOSUPPORT
    program = [
        (load, 0, 0, 0),  # the system call
        (equal, 0, 3, {"x86_64": 41, "aarch64": 198}[os.uname().machine]),
        (load, 0, 0, 16),  # its first argument
        (equal, 0, 1, socket.AF_INET6),
        (end, 0, 0, refused),
        (end, 0, 0, allowed),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    described = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    kernel = ctypes.CDLL(None, use_errno=True)
    for arguments in ((38, 1, 0, 0, 0), (22, 2, described, 0, 0)):  # PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP
        assert kernel.prctl(*arguments) == 0, os.strerror(ctypes.get_errno())


def serve(folder: Path, told: int) -> None:
    """The far side, in a process of its own: the parent must have no threads when it forks."""
    with ExitStack() as stack:
        server = stack.enter_context(FaultyServer())
        authority = Authority(folder, NAME)
        front = stack.enter_context(TlsFront(authority, server.address))
        taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        proxies: dict[str, Any] = {
            "connect": ConnectProxy(front.address), "socks": SocksProxy(front.address),
            "407": TurnedAway(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"),
            "502": TurnedAway(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"), "closes": TurnedAway(b""),
        }  # fmt: skip
        places = {name: f"127.0.0.1:{stack.enter_context(proxy).address[1]}" for name, proxy in proxies.items()}
        places |= {"ca": str(authority.file), "key": str(authority.key), "taken": f"127.0.0.1:{taken.getsockname()[1]}"}
        os.write(told, json.dumps(places).encode())
        os.close(told)
        signal.pause()


class Installation:
    """One for each environment and verb that works."""

    def __init__(self, home: Path, surrounding: Surrounding) -> None:
        self._home, self._surrounding = home, surrounding
        for name in ("drop", "models", "state"):
            (home / name).mkdir(parents=True)
        for place in (home.parent, home, *home.iterdir()):
            place.chmod(0o777)
        if surrounding.config is not None:
            own: dict[str, dict[str, object]] = {
                "console": {"url": f"https://{NAME}/api"}, "state": {"folder": str(home / "state")}, "web": {"listen": ""},
                "drop": {"folder": str(home / "drop"), "settle": "100ms"},
                "mirror": {"folder": str(home / "models"), "reserve": "1MiB"},
            }  # fmt: skip
            for section, values in surrounding.config.items():
                own[section].update(values)
            text = "".join(f"[{section}]\n{_toml(values)}" for section, values in own.items())
            (home / "config.toml").write_text(text.replace("HOME", str(home)), encoding="utf-8")
            (home / "token").write_text("0123456789abcdef", encoding="utf-8")

    def begin(self, *arguments: str) -> int:
        """Fork a verb; its process id."""
        if pid := os.fork():
            return pid
        try:
            sys.argv = ["axomsync", *arguments]
            environ = {name: value.replace("HOME", str(self._home)) for name, value in self._surrounding.environ.items()}
            os.environ.clear()
            os.environ.update(environ, AXOM_KEY=KEY, PATH="/usr/bin:/bin")
            if self._surrounding.config is not None:
                os.environ["AXOMSYNC_CONFIG"] = str(self._home / "config.toml")
            output = os.open(self._said(arguments[0]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            for descriptor in (0, 1, 2):
                os.dup2(output, descriptor)
            os.close(output)
            self._surrounding.prepare()
            for number, name in enumerate(("stdin", "stdout", "stderr")):
                stream = None
                with suppress(OSError):
                    stream = open(number, "r" if not number else "w", closefd=False)  # noqa: SIM115
                setattr(sys, name, stream)
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            with suppress(Exception):
                sys.stdout.flush()
            os._exit(code)
        finally:
            os._exit(99)  # with a traceback, in real life

    def said(self, verb: str) -> str:
        try:
            return self._said(verb).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def _said(self, verb: str) -> Path:
        return self._home / f"{verb}.out"


def _toml(values: Mapping[str, object]) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


def ended(pid: int) -> int | None:
    """The exit code, None while it runs."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def wait(pid: int) -> int:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (code := ended(pid)) is None:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return 98
        time.sleep(0.02)
    return code


def examine(home: Path, surrounding: Surrounding) -> dict[str, tuple[int, str]]:
    """All four verbs; `status` while `run` runs, once its console has answered or not."""
    installations = {verb: Installation(home / verb, surrounding) for verb in VERBS}
    pids = {verb: installation.begin(*VERBS[verb]) for verb, installation in installations.items()}
    running = installations["run"]
    deadline, code = time.monotonic() + PATIENCE_SECONDS, None
    ledger = home / "run" / "state" / "state.db"
    while code is None and time.monotonic() < deadline:
        if ledger.exists() and _has_tried(ledger):
            break
        time.sleep(0.05)
        code = ended(pids["run"])
    status = wait(running.begin("status"))
    if code is None:
        os.kill(pids["run"], signal.SIGTERM)
        code = wait(pids["run"])
    codes = {"run": code, "status": status, "sync": wait(pids["sync"]), "doctor": wait(pids["doctor"])}
    return {verb: (codes[verb], installations.get(verb, running).said(verb)) for verb in codes}


def _has_tried(ledger: Path) -> bool:
    from axomsync.core.errors import AxomsyncError
    from axomsync.ledger import Reader

    try:
        reader = Reader(ledger)
        try:
            return bool(reader.facts().get("last_poll") or any(p.subject == "console" for p in reader.problems()))
        finally:
            reader.close()
    except AxomsyncError:
        return False


def all_of(folder: Path) -> dict[str, dict[str, tuple[int, str]]]:
    theirs, ours = os.pipe()
    server = os.fork()
    if not server:
        serve(folder, ours)
    os.close(ours)
    with open(theirs, encoding="utf-8") as told:
        places = json.load(told)
    waiting = list(surroundings(places).items())
    results: dict[str, dict[str, tuple[int, str]]] = {}
    at_work: dict[int, str] = {}
    try:
        while waiting or at_work:
            while waiting and len(at_work) < AT_ONCE:
                name, surrounding = waiting.pop(0)
                if not (pid := os.fork()):
                    found = examine(folder / name.replace(" ", "-"), surrounding)
                    (folder / f"{name}.json").write_text(json.dumps(found), encoding="utf-8")
                    os._exit(0)
                at_work[pid] = name
            pid, _ = os.waitpid(-1, 0)
            if (done := at_work.pop(pid, None)) is not None:
                results[done] = json.loads((folder / f"{done}.json").read_text(encoding="utf-8"))
    finally:
        os.kill(server, signal.SIGKILL)
    return results


if __name__ == "__main__":
    print(json.dumps(all_of(Path(sys.argv[1]))))
