"""The far side inside a container: `axomsync sandbox` as a unit on the container's loopback, which nobody outside reaches.

Its program is that of the checkout (`tests.rig.installation`), whatever axomsync is installed on the machine beside it.
"""

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.rig.agent import eventually
from tests.rig.container import Container
from tests.rig.installation import PREFIX, PROGRAM

_STEER = "import sys, httpx; print(httpx.request(*sys.argv[1:3], content=sys.stdin.read()).raise_for_status().text)"
# Storage is asked by a client of its own, with the key pair that the sandbox keeps in its folder.
_OBJECT = """
import hashlib, json, sys
from pathlib import Path
import obstore
from axomsync.sandbox.objectstore import BUCKET, REGION
folder, endpoint, key = sys.argv[1:]
pair = json.loads(Path(folder, "store/s3.json").read_text())["identities"][0]["credentials"][0]
store = obstore.store.S3Store(
    BUCKET, endpoint=endpoint, region=REGION, access_key_id=pair["accessKey"], secret_access_key=pair["secretKey"],
    client_options={"allow_http": True},
)
print(hashlib.sha256(bytes(obstore.get(store, key).bytes())).hexdigest())
"""


class SandboxInside:
    """`url` and `key` are what the agent is given; `storage` is where its signed URLs lead."""

    def __init__(self, machine: Container, facts: dict[str, str]) -> None:
        self.url, self.key, self.storage = facts["console"], facts["key"], facts["storage"]
        self._machine, self._facts = machine, facts

    def steer(self, call: str, **body: object) -> Any:
        """Make a `/_sandbox` call: a POST with a body, else a GET."""
        url = self.url.removesuffix("/api") + f"/_sandbox/{call}"
        return json.loads(self._python(_STEER, "POST" if body else "GET", url, stdin=json.dumps(body)))

    def sha256(self, key: str) -> str:
        """Of the bytes that storage has under this key."""
        return self._python(_OBJECT, self._facts["folder"], self._facts["storage"], key).strip()

    def _python(self, script: str, *arguments: str, stdin: str = "") -> str:
        return self._machine.run(f"{PREFIX}/bin/python", "-c", script, *arguments, stdin=stdin).stdout


@contextmanager
def sandbox_inside(machine: Container) -> Iterator[SandboxInside]:
    """A running sandbox; its folder is on the container's disk, which is memory."""
    unit = f"sandbox-{secrets.token_hex(4)}.service"  # with a journal of its own
    machine.run("systemd-run", "--quiet", f"--unit={unit}", PROGRAM, "sandbox", "--folder", f"/var/lib/{unit}")
    eventually("the sandbox", lambda: '"key"' in machine.journal(unit))
    facts = json.loads(next(line for line in machine.journal(unit).splitlines() if line.startswith("{")))
    try:
        yield SandboxInside(machine, facts)
    finally:
        machine.systemctl("stop", unit)
