"""What a shell completes, for those who have no Debian package: by the file that docs/operating.md has them write."""

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.rig.agent import eventually

PROGRAMS = str(Path(sys.executable).parent)


class Typist:
    """Somebody at an interactive bash."""

    def __init__(self, home: Path) -> None:
        self.terminal, far_end = pty.openpty()
        os.set_blocking(self.terminal, False)
        environ = {"HOME": str(home), "PATH": f"{PROGRAMS}:/usr/bin:/bin", "TERM": "dumb", "PS1": "ready> "}
        self.shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"],
            env=environ, stdin=far_end, stdout=far_end, stderr=far_end, cwd=home, start_new_session=True,
        )  # fmt: skip
        os.close(far_end)
        self._seen = ""

    def type(self, text: str) -> None:
        self._seen = ""
        os.write(self.terminal, text.encode())

    def sees(self, text: str) -> None:
        def is_there() -> bool:
            with suppress(BlockingIOError):
                self._seen += os.read(self.terminal, 65536).decode()
            return text in self._seen

        eventually(f"{text!r} on the terminal", is_there)


@pytest.fixture
def typist(tmp_path: Path) -> Iterator[Typist]:
    typist = Typist(tmp_path)
    try:
        yield typist
    finally:
        typist.shell.kill()
        typist.shell.wait()
        os.close(typist.terminal)


def test_bash_completes_verbs_and_options(typist: Typist) -> None:
    typist.sees("ready> ")
    typist.type("_AXOMSYNC_COMPLETE=bash_source axomsync > completion && . ./completion && echo do''ne\n")
    typist.sees("done\r\n")
    typist.type("axomsync doct\t")
    typist.sees("axomsync doctor ")
    typist.type("--no-w\t")
    typist.sees("--no-write ")
