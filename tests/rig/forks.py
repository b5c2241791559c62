"""`axomsync …` as processes of their own, forks of one that has loaded the program: that saves the time of loading it.

A fork has the arguments, environment, folder, signals and streams of a process that is started anew. Variables that a
Python, its C library or its allocator reads when it starts can't be given to a fork: `Forks.fits` says so.
"""

import gc
import importlib
import json
import os
import pkgutil
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC", "MIMALLOC", "OPENSSL", "SSL_")
AN_ORDER = 4  # descriptors: the order, where output and errors go, and where the answer goes
ANSWER_BYTES = 64


class Forks:
    """The process that has loaded the program. It ends when this object, or the process that holds it, does."""

    def __init__(self) -> None:
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith("AXOM")}
        self._control, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # -P, as a folder of the tests would else be the first place for modules.
        command = [sys.executable, "-P", __file__, str(far_end.fileno())]
        self._process = subprocess.Popen(
            command, env=self._environ, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, pass_fds=[far_end.fileno()]
        )
        far_end.close()

    def fits(self, environ: Mapping[str, str]) -> bool:
        """Whether a fork with this environment behaves as a process that is started with it."""
        names = {name for name in environ.keys() | self._environ.keys() if name.startswith(READ_AT_START)}
        return all(environ.get(name) == self._environ.get(name) for name in names)

    def run(
        self, arguments: Sequence[str], environ: Mapping[str, str], folder: Path, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run` with captured text; any thread may call it."""
        answers, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with (
            tempfile.TemporaryFile() as order,
            tempfile.TemporaryFile() as output,
            tempfile.TemporaryFile() as errors,
            answers,
        ):
            order.write(json.dumps([arguments, dict(environ), str(folder)]).encode())
            order.flush()
            with far_end:
                given = [order.fileno(), output.fileno(), errors.fileno(), far_end.fileno()]
                try:
                    socket.send_fds(self._control, [b"."], given)
                except BrokenPipeError:
                    _, said = self._process.communicate()
                    raise AssertionError(f"the forks ended with {self._process.returncode}: {said.decode()}") from None
            process = int(answers.recv(ANSWER_BYTES))
            if not select.select([answers], [], [], timeout)[0]:
                os.kill(process, signal.SIGKILL)
                answers.recv(ANSWER_BYTES)
                raise subprocess.TimeoutExpired(arguments, timeout, _all_of(output), _all_of(errors))
            code = int(answers.recv(ANSWER_BYTES))
            return subprocess.CompletedProcess(arguments, code, _text(output), _text(errors))


@cache
def forks() -> Forks:
    """The one of this process, which starts at the first call."""
    return Forks()


def _all_of(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _text(file: IO[bytes]) -> str:
    return _all_of(file).decode()


def main() -> None:
    """Fork a process for each order that comes, until nobody can send one."""
    import axomsync

    for found in pkgutil.walk_packages(axomsync.__path__, "axomsync."):
        if not found.name.startswith(("axomsync.sandbox", "axomsync.__main__")):
            importlib.import_module(found.name)
    gc.freeze()  # a fork that collects garbage would copy all of it
    ordered = _serve(socket.socket(fileno=int(sys.argv[1])))
    if ordered is not None:
        _live(*ordered)


def _serve(control: socket.socket) -> list[int] | None:
    """The descriptors of its order in each fork; None in the end."""
    answers: dict[int, tuple[int, socket.socket]] = {}  # of the processes that live, by their descriptors
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is control:
                    said, order, _, _ = socket.recv_fds(control, 1, AN_ORDER)
                    if not said:
                        return None
                    process = os.fork()
                    if process == 0:
                        control.close()
                        os.close(order.pop())
                        for descriptor, (_, answer) in answers.items():
                            os.close(descriptor)
                            answer.close()
                        return order
                    answer = socket.socket(fileno=order.pop())
                    for descriptor in order:
                        os.close(descriptor)
                    _answer(answer, process)
                    alive = os.pidfd_open(process)
                    answers[alive] = (process, answer)
                    selector.register(alive, selectors.EVENT_READ)
                else:
                    selector.unregister(key.fd)
                    process, answer = answers.pop(key.fd)
                    _, status = os.waitpid(process, 0)
                    os.close(key.fd)
                    with answer:
                        _answer(answer, os.waitstatus_to_exitcode(status))


def _answer(answer: socket.socket, number: int) -> None:
    with suppress(BrokenPipeError):  # a test that failed may not wait for it
        answer.send(str(number).encode())


def _live(order: int, output: int, errors: int) -> None:
    """Be `axomsync …`."""
    from axomsync.cli import main as command_line

    with open(order, "rb") as file:
        file.seek(0)
        arguments, environ, folder = json.load(file)
    os.dup2(output, 1)
    os.dup2(errors, 2)
    os.close(output)
    os.close(errors)
    os.environ.clear()
    os.environ.update(environ)
    time.tzset()
    os.chdir(folder)
    sys.argv = ["axomsync", *arguments]
    command_line()


if __name__ == "__main__":
    main()
