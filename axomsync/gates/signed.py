"""The gate `signed`: a model must have a signature of somebody whom the administrator named.

The `model_signing` command of the OpenSSF verifies it, as its README has it (https://github.com/sigstore/model-transparency,
"Model Signing CLI"): `model_signing verify sigstore|key|certificate MODEL --signature FILE …`. A no is exit code 1 with
"Verification failed with error: …". By default it also refuses files that were not signed.

Failures handled: a command that is not installed, or fails otherwise (`Transient`: nothing was judged), a model without a
signature (`Rejected`), a signature that does not verify (`Rejected`), a model that is gone or can't be read (`OSError`).
"""

import os
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

from axomsync.core.errors import Rejected, Transient
from axomsync.core.paths import RECORD
from axomsync.core.text import printable

USAGE = 2  # exit code of a click program
ITS_NO = "Verification failed"  # exit code 1 may also be a broken installation


def verify(command: str, folder: Path, signature: str, method: str, trust: Sequence[str]) -> str:
    """Verify a model's signature; returns what the command said. `trust`: its options for `method`.

    Raises `Rejected` and `Transient`, and `OSError` when the model can't be looked at now.
    """
    file = folder / signature
    os.stat(folder)  # without the model there is nothing to judge
    if not _is_there(file):
        raise Rejected(f"{printable(signature)} is missing: the model is not signed")
    # Its own record, which the agent writes, can't be in anybody's signature.
    ignored = ["--ignore-paths", str(folder / RECORD)] if os.path.lexists(folder / RECORD) else []
    arguments = [command, "verify", method, str(folder), "--signature", str(file), *ignored, *trust]
    try:
        done = subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as error:
        raise Transient(f"{printable(command)} can't be run: {error.strerror}; install model-signing") from None
    said = [line for line in (done.stdout + done.stderr).decode("utf-8", "replace").splitlines() if line.strip()]
    last = printable(said[-1].strip()) if said else f"it ended with {done.returncode}"
    if done.returncode == 0:
        return last
    if done.returncode == 1 and any(line.startswith(ITS_NO) for line in said):
        raise Rejected(f"the signature was not accepted: {last}")
    why = "does not understand this question" if done.returncode == USAGE else f"ended with {done.returncode}"
    raise Transient(f"{printable(command)} {why}: {last}")


def _is_there(file: Path) -> bool:
    try:
        return stat.S_ISREG(os.stat(file).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
